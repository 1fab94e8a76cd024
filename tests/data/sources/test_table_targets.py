"""Tests of the targets of tables, inferred or declared."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.data.sources.tables import GENRES, Make, six_clips, write_table

from etude.data.collection import check_kinds
from etude.data.sources.table import collection
from etude.errors import DataError


@pytest.mark.parametrize(
    ("cells", "spec"),
    [
        ([0, 0.1, 0.2, 0.3, 0.4, 1], ("scalar", 0.0, 1.0)),
        (["1e-3", "+.5", " 0.5", 0.3, 0.4, ""], ("scalar", 0.0, 1.0)),
        ([61.2, 100, 187.3, 90, 90, 120], ("scalar", 60.0, 190.0)),
        ([-1.04, 0, 0, 0, 0, 2.01], ("scalar", -1.1, 2.1)),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 1.004], ("scalar", 0.1, 1.01)),
        ([1001, 2500, 39999, 5, 6, 7], ("scalar", 0.0, 40000.0)),
        ([1, 2, 3, 4, 5, 5], ("scalar", 1.0, 5.0)),  # integers with few repetitions are a scalar
        ([1, 1, 1, 2, 2, 9], ("scalar", 1.0, 9.0)),
        ([0, 1, 1, 0, 1, 0], ("label", "0", "1")),
        ([-1, 1, -1, 1, "", 1], ("label", "-1", "1")),
        (["007", "007", "008", "008", "", ""], ("label", "007", "008")),
        (["inf", "1", "inf", "1", "inf", "1"], ("label", "1", "inf")),
        (["x", "1", "x", "1", "x", "1"], ("label", "1", "x")),
    ],
)
def test_kind_of_target_is_inferred_from_column(make_collection: Make, cells: list[Any], spec: tuple[Any, ...]) -> None:
    source = make_collection(six_clips(extra=cells))
    target = source.targets["extra"]
    assert target["kind"] == spec[0]
    if spec[0] == "label":
        assert target["classes"] == list(spec[1:])
        assert source.table["extra"].dropna().tolist() == [str(cell) for cell in cells if cell != ""]
    else:
        assert (target["low"], target["high"]) == pytest.approx(spec[1:], abs=1e-12)
        observed = spec[1:] != (0.0, 1.0)
        assert ("is the range of the values in the table" in target["note"]) == observed
        np.testing.assert_array_equal(source.table["extra"].dropna(), [float(c) for c in cells if c != ""])


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (list("abcdef"), "it has 6 values in 6 clips, too many for classes"),
        (["a", "a", "b", "b", "c", "d"], "it has 4 values in 6 clips, too many for classes"),
        (["a", "a", "a", "a", "a", "d"], "'d' has a single clip, which cannot be in both training and test"),
        ([""] * 6, "it is empty"),
        (["a"] * 6, "all cells have the same value"),
        ([3, 3, 3, "3.0", 3, 3], "all cells have the same value"),
        (
            ["True", "False", "True", "False", "", ""],
            "it contains only False and True; to use it as a target, set data.targets=",
        ),
        (
            ["yes", "no", "yes", "no", "yes", "no"],
            "it contains only no and yes; to use it as a target, set data.targets={extra: label}",
        ),
        (
            ['"0,5"', '"0,7"', "1", '"0,5"', '"0,7"', "1"],
            "its numbers have commas, such as '0,5'; use a decimal",
        ),
        (
            [0.1, 0.2, 0.3, 0.4, 0.5, "n/a"],
            "it has 6 values in 6 clips, too many for classes, and 'n/a' is not a number",
        ),
    ],
)
def test_uninformative_column_is_skipped_and_logged(
    make_collection: Make, cells: list[Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(make_collection(six_clips(extra=cells)).targets) == ["genre"]
    assert f"column extra is not used as a target: {reason}" in caplog.text


def test_number_of_classes_is_at_most_half_of_clips(make_collection: Make) -> None:
    assert make_collection(six_clips(extra=list("aabbcc"))).targets["extra"]["classes"] == ["a", "b", "c"]


def test_integers_with_many_values_are_scalar(tmp_path: Path) -> None:
    def kind(values: int) -> str:
        columns = {"path": [f"{i}.wav" for i in range(3 * values)], "extra": [i % values for i in range(3 * values)]}
        return collection(write_table(tmp_path, columns)).targets["extra"]["kind"]

    assert (kind(20), kind(21)) == ("label", "scalar")


def test_declared_targets_are_used(make_collection: Make) -> None:
    columns = six_clips(
        valence=[0, 1, 0, 1, 0, 1], tempo=[60, 90, "", 120, 130, 200], code=[1, 2, 3, 1, 2, 3], mood=list("aabbcd")
    )
    declared = {"genre": "label", "valence": [0, 1], "tempo": [40, 220], "code": "scalar"}
    source = make_collection(columns, targets=declared)
    assert list(source.targets) == list(declared)  # mood is not declared
    assert source.targets["valence"] == {"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""}
    assert source.targets["tempo"] == {"kind": "scalar", "low": 40.0, "high": 220.0, "note": ""}
    assert (source.targets["code"]["low"], source.targets["code"]["high"]) == (1.0, 3.0)
    assert "is the range of the values in the table" in source.targets["code"]["note"]
    assert source.table["tempo"].isna().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"mood": "label"}, r"^targets: .* has no target column mood; columns are genre, tempo$"),
        ({"path": "label"}, "has no target column path"),
        ({"genre": "class"}, r"^targets: genre must be label, scalar or a range such as \[0, 1\], got 'class'"),
        ({"tempo": [1]}, "tempo must be label, scalar or a range"),
        ({"tempo": [9, 1]}, "tempo must be label, scalar or a range"),
        ({"tempo": ["a", "b"]}, "tempo must be label, scalar or a range"),
        ({"tempo": None}, "tempo must be label, scalar or a range"),
        ({"tempo": 3}, "tempo must be label, scalar or a range"),
        ({"genre": "scalar"}, r"clips\.csv, row 2: genre = 'rock' is not a number"),
        ({"tempo": "scalar"}, r"clips\.csv, row 4: tempo = 'fast' is not a number"),
        ({"tempo": [0, 300]}, r"clips\.csv, row 4: tempo = 'fast' is not a number"),
        ({}, "has no target column"),
    ],
)
def test_invalid_declaration_is_refused(make_collection: Make, targets: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_collection(six_clips(tempo=[60, "", "fast", 120, 130, 200]), targets=targets)


@pytest.mark.parametrize("cell", ["nan", "inf", "1_0", "1,5"])
def test_cells_that_only_python_parses_are_not_numbers(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f'path,tempo\na.wav,10\nb.wav,"{cell}"\nc.wav,20\n')
    with pytest.raises(DataError, match=f"row 3: tempo = '{cell}' is not a number"):
        collection(str(tmp_path / "t.csv"), targets={"tempo": "scalar"})


def test_value_outside_range_and_single_clip_class_are_refused(make_collection: Make) -> None:
    with pytest.raises(
        DataError, match=r"my-clips: clip '5' has tempo = 230\.0, which is outside the range of the target"
    ):
        make_collection(six_clips(tempo=[60, 90, 60, 120, 130, 230]), targets={"tempo": [40, 220]})
    with pytest.raises(DataError, match=r"genre 'pop' has a single clip \(5\)"):
        make_collection(six_clips(genre=[*GENRES[:5], "pop"]), targets={"genre": "label"})
    with pytest.raises(DataError, match=r"^targets: column genre has the single value 'rock'; a target needs"):
        make_collection(six_clips(genre=["rock"] * 6), targets={"genre": "label"})
    with pytest.raises(DataError, match="targets: column genre is empty; a target needs at least two values"):
        make_collection(six_clips(genre=[""] * 6, extra=[1, 2, 1, 2, 1, 2]), targets={"genre": "label"})
    with pytest.raises(DataError, match="targets: a scalar cannot be predicted if all values are 3"):
        make_collection(six_clips(extra=[3, "3.0", 3, 3, 3, 3]), targets={"extra": "scalar"})


def test_classes_are_merged_for_each_target(make_collection: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    genre = ["Rock", "Punk", "Jazz", "Jazz", "Talk", ""]
    columns = six_clips(genre=genre, mood=["up", "up", "down", "down", "", "up"])
    source = make_collection(columns, classes={"genre": {"loud": ["Rock", "Punk"], "quiet": ["Jazz"]}})
    assert source.targets["genre"]["classes"] == ["loud", "quiet"]
    assert source.table["genre"].fillna("-").tolist() == ["loud", "loud", "quiet", "quiet", "-"]
    assert source.table["id"].tolist() == ["0", "1", "2", "3", "5"]  # clip 4 has no label after merging
    assert source.table.index.tolist() == list(range(5))
    assert "1 item skipped (clip has no label: 1, such as 4)" in caplog.text
    assert source.extra["before"] == {"genre": {"Jazz": 2, "Rock": 1, "Punk": 1, "Talk": 1}}
    assert source.targets["mood"]["classes"] == ["down", "up"]
    with pytest.raises(DataError, match="has no target column style; columns are genre, mood"):
        make_collection(columns, classes={"style": {"loud": ["Rock"]}})
    with pytest.raises(DataError, match="classes: genre is not declared as a label"):
        make_collection(columns, targets={"mood": "label"}, classes={"genre": {"loud": ["Rock"]}})
    with pytest.raises(DataError, match="the data has no clips of soft"):
        make_collection(columns, classes={"genre": {"loud": ["Rock", "Punk"], "soft": ["Folk"]}})


def test_kinds_declare_some_columns(make_collection: Make) -> None:
    columns = {"mood": ["x", "y"] * 3, "vocal": ["yes", "no"] * 3, "rating": [1, 2] * 3, "null": ["a", "b"] * 3}
    kinds = {"vocal": "label", "rating": [1, 5], "mood": None, None: "label"}
    source = make_collection(six_clips(**columns), kinds=kinds)
    assert list(source.targets) == ["genre", "vocal", "rating", "null"]
    assert source.targets["rating"]["high"] == 5.0
    assert source.unused_columns["mood"] == "data.targets leaves it out"
    only = make_collection(six_clips(**columns), kinds={"rating": [1, 5]}, targets={"mood": "label"})
    assert list(only.targets) == ["mood", "rating"]
    assert only.unused_columns["vocal"] == "data.source.targets does not name it"


def test_kinds_of_other_data_are_only_checked() -> None:
    targets = {"genre": {"kind": "label", "classes": ["a", "b"]}, "energy": {"kind": "scalar", "low": 0.0, "high": 1.0}}
    demo = SimpleNamespace(name="demo", targets=targets)
    check_kinds(demo, {"genre": "label", "energy": [0, 1]})
    for kinds in ({"genre": "scalar"}, {"mood": "label"}, {"energy": [0, 2]}):
        with pytest.raises(DataError, match=r"demo has the targets genre \(label\), energy \(scalar\), and only"):
            check_kinds(demo, kinds)
