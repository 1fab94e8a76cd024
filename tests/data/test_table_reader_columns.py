"""Tests of the inference of targets from columns."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from etude.data.collection import Collection, parse_mapping
from etude.data.sources.table import collection
from etude.errors import DataError

COUNT = 40
CAFE = "Café"


def make_collection(folder: Path, columns: Mapping[str, list[Any]], **options: Any) -> Collection:
    """Return the collection of forty clips with a label `side` and other columns."""
    side = ["a", "b"] * (COUNT // 2)
    all_columns = {"path": [f"{i}.wav" for i in range(COUNT)], "side": side, **columns}
    lines = [",".join(all_columns), *(",".join(map(str, row)) for row in zip(*all_columns.values(), strict=True))]
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return collection(str(folder / "t.csv"), **options)


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_class_numbers_with_missing_cells_are_a_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_collection(tmp_path, {"digit": ["1.0", "2.0", "", "3.0"] * 10})
    assert source.targets["digit"]["classes"] == ["1", "2", "3"]
    assert set(source.table["digit"].dropna()) == {"1", "2", "3"}
    assert "column digit: integers from 1 to 3 are used as 3 classes" in caplog.text


def test_integer_scale_gives_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make_collection(tmp_path, {"rating": [*range(1, 9)] * 5}).targets["rating"]["kind"] == "label"
    assert "if they are a scale, set data.targets={rating: [1, 8]}" in caplog.text
    assert (
        make_collection(tmp_path, {"rating": [*range(1, 9)] * 5}, targets={"rating": [1, 9]}).targets["rating"]["high"]
        == 9
    )


@pytest.mark.parametrize(
    ("name", "cells", "reason"),
    [
        (
            "cv_fold",
            [1, 2, 3, 4],
            "it contains folds of a cross-validation; to split by it, set data.split.column=cv_fold, and to use it as "
            "a target, set data.targets={cv_fold: label}",
        ),
        (
            "vocals",
            ["True", "False", "", "True"],
            "it contains only False and True; to use it as a target, set data.targets=",
        ),
        ("vocals", ["yes", "no"] * 2, "it contains only no and yes"),
        ("same", ["1"] * 4, "all cells have the same value"),
    ],
)
def test_fold_boolean_and_constant_columns_are_not_targets(
    tmp_path: Path, name: str, cells: list[Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(make_collection(tmp_path, {name: cells * 10}).targets) == ["side"]
    assert f"column {name} is not used as a target: {reason}" in caplog.text


def test_declared_fold_and_boolean_are_targets(tmp_path: Path) -> None:
    columns = {"fold": [1, 2] * 20, "vocals": ["True", "False"] * 20}
    assert list(make_collection(tmp_path, columns, targets={"fold": "label", "vocals": "label"}).targets) == [
        "fold",
        "vocals",
    ]


def test_number_column_with_text_cell_is_refused(tmp_path: Path) -> None:
    tempo = [60.5 + i for i in range(COUNT)]
    with pytest.raises(
        DataError, match=r"t\.csv: column tempo contains numbers, but 'fast' in row 9; correct or empty"
    ):
        make_collection(tmp_path, {"tempo": [*tempo[:7], "fast", *tempo[8:]]})
    rating = [*range(1, 5)] * 10  # would be a label of five classes
    with pytest.raises(DataError, match=r"but '\?' in row 3, '\?' in row 5; .* set data.source.missing=\['\?'\]"):
        make_collection(tmp_path, {"rating": [rating[0], "?", rating[2], "?", *rating[4:]]})


def test_missing_values_can_be_declared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {"tempo": [60.5 + i for i in range(38)] + ["NA", "n/a"], "mood": ["x", "y", "NA", "z"] * 10}
    with pytest.raises(DataError, match=r"column tempo contains numbers"):
        make_collection(tmp_path, columns)
    source = make_collection(tmp_path, columns, missing=["na", "n/a"])
    assert source.table["tempo"].isna().sum() == 2
    assert source.targets["mood"]["classes"] == ["x", "y", "z"]
    caplog.clear()
    assert "NA" in make_collection(tmp_path, {"mood": columns["mood"]}).targets["mood"]["classes"]
    assert "10 cells are 'NA', which is used as a class" in caplog.text
    assert "set data.source.missing=['NA']" in caplog.text
    with pytest.raises(DataError, match=r"missing: .* has no cell unknown"):
        make_collection(tmp_path, columns, missing=["unknown", "na"])


def test_group_named_like_missing_value_gives_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_collection(tmp_path, {"artist": ["A", "B", "NA", "NA"] * 10})
    message = "clips whose artist is 'NA' are one group; if it means a missing value, set data.source.missing=['NA']"
    assert message in caplog.text


def test_decimal_commas_give_hint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert list(make_collection(tmp_path, {"valence": ['"0,5"', '"0,7"'] * 20}).targets) == ["side"]
    assert "its numbers have commas, such as '0,5'; use a decimal point" in caplog.text
    with pytest.raises(DataError, match="row 2: valence = '0,5' is not a number; use a decimal point"):
        make_collection(tmp_path, {"valence": ['"0,5"', '"0,7"'] * 20}, targets={"valence": [0, 1]})


@pytest.mark.parametrize("mark", ["|", ";"])
def test_cells_with_several_values_give_warning(tmp_path: Path, mark: str, caplog: pytest.LogCaptureFixture) -> None:
    assert (
        len(
            make_collection(tmp_path, {"style": ["rock", "pop", f"rock{mark}pop", "jazz"] * 10}).targets["style"][
                "classes"
            ]
        )
        == 4
    )
    assert f"cells such as 'rock{mark}pop' contain several values" in caplog.text and "(tags)" in caplog.text
    caplog.clear()
    make_collection(tmp_path, {"style": ["R&B/Soul", "Hip-Hop/Rap", "jazz", "pop"] * 10})
    assert "several values" not in caplog.text


def test_composed_and_decomposed_letters_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decomposed = unicodedata.normalize("NFD", CAFE)
    assert decomposed != CAFE
    source = make_collection(
        tmp_path, {"style": [CAFE, decomposed, "x", "x"] * 10, "artist": [CAFE, decomposed, "B", "C"] * 10}
    )
    assert source.targets["style"]["classes"] == [CAFE, "x"]
    assert source.table["group"].nunique() == 3
    assert f"column style has {CAFE!r} in two Unicode forms, which are merged" in caplog.text
    merging = {"style": {"one": [decomposed], "two": "x"}}
    assert make_collection(tmp_path, {"style": [CAFE, "x"] * 20}, classes=merging).targets["style"]["classes"] == [
        "one",
        "two",
    ]


def test_path_is_resolved_in_other_unicode_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decomposed = unicodedata.normalize("NFD", CAFE)
    (tmp_path / decomposed).mkdir()
    (tmp_path / decomposed / f"{CAFE}.wav").touch()
    paths = [f"{CAFE}/{CAFE}.wav", *(f"{CAFE}/{i}.wav" for i in range(1, COUNT))]
    source = make_collection(tmp_path, {"path": paths})
    assert Path(source.table["path"][0]).is_file()
    assert "1 paths exist in another Unicode form" in caplog.text


def test_classes_parsed_as_numbers_are_names(tmp_path: Path) -> None:
    columns = {"digit": [1, 2, 3, ""] * 10}
    source = make_collection(tmp_path, columns, classes={"digit": {"a": [1, 2.0], 7: 3}})
    assert source.targets["digit"]["classes"] == ["7", "a"]
    with pytest.raises(DataError, match=r"classes: a must name a class or a list of classes"):
        make_collection(tmp_path, columns, classes={"digit": {"a": None}})


def test_mappings_can_be_yaml_text(tmp_path: Path) -> None:
    source = make_collection(tmp_path, {"Größe": ["s", "l"] * 20}, targets="{Größe: label}")
    assert list(source.targets) == ["Größe"]
    with pytest.raises(DataError, match="targets: cannot be read as YAML"):
        parse_mapping("{a: [", "targets")
    with pytest.raises(DataError, match="targets: must be a mapping such as"):
        parse_mapping("genre", "targets")


def test_five_hundred_classes_of_two_clips_are_a_label(tmp_path: Path) -> None:
    rows = "".join(f"{i}.wav,class {i // 2}\n" for i in range(1000))
    (tmp_path / "many.csv").write_text("path,style\n" + rows)
    assert len(collection(str(tmp_path / "many.csv")).targets["style"]["classes"]) == 500


def test_column_with_reserved_name_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert list(make_collection(tmp_path, {"start": [i / 40 for i in range(COUNT)]}).targets) == ["side"]
    assert "column start is not used as a target: the name is reserved for packs; rename it" in caplog.text


@pytest.mark.parametrize("missing", ["NA", ["na"], -1])
def test_single_missing_value_needs_no_list(tmp_path: Path, missing: Any) -> None:
    cell = missing if isinstance(missing, int) else "NA"
    assert (
        make_collection(tmp_path, {"mood": ["x", "y", cell, "z"] * 10}, missing=missing).table["mood"].isna().sum()
        == 10
    )
