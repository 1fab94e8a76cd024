"""Tests of the source of tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from etude.data.collection import Collection, SkippedItem
from etude.data.sources.table import collection
from etude.data.splits import Split
from etude.errors import DataError

GENRES = ["rock", "jazz", "rock", "jazz", "rock", "jazz"]


def write_table(folder: Path, columns: Mapping[str, list[Any]], name: str = "My clips.csv") -> str:
    """Write a text table with commas or tabs between cells."""
    mark = "\t" if name.endswith(".tsv") else ","
    lines = [mark.join(columns), *(mark.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def six(**columns: list[Any]) -> dict[str, list[Any]]:
    """Return the columns of six clips in two genres."""
    return {"path": [f"{i}.wav" for i in range(6)], "genre": GENRES, **columns}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Collection]:
    """Return a function that writes a table and returns its collection."""

    def write_and_load(columns: Mapping[str, list[Any]], **options: Any) -> Collection:
        return collection(write_table(tmp_path, columns), **options)

    return write_and_load


Make = Callable[..., Collection]


def test_path_and_genre_are_sufficient(make: Make, tmp_path: Path) -> None:
    source = make(six())
    assert source.table["id"].tolist() == list("012345")
    assert source.table["path"].tolist() == [str(tmp_path / f"{i}.wav") for i in range(6)]
    assert source.table["genre"].tolist() == GENRES
    assert source.targets == {"genre": {"kind": "label", "classes": ["jazz", "rock"], "note": ""}}
    assert source.table["group"].isna().all()
    assert "split" not in source.table
    assert "artist" in source.note
    assert source.name == "my-clips"
    assert make(six(), name="Other Name!").name == "other-name"


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_all_file_formats_give_same_collection(tmp_path: Path, kind: str) -> None:
    columns = six(valence=[0, 0.25, "", 0.5, 0.75, 1], count=[1, 2, 1, 2, 2, ""], id=[f"00{i}" for i in range(6)])
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        frame = pd.DataFrame(columns).replace("", None)
        frame["valence"] = frame["valence"].astype(float)
        frame["count"] = frame["count"].astype("Int64")
        frame.set_index("id", drop=False).rename_axis(None).to_parquet(path)
    else:
        write_table(tmp_path, columns, path.name)
    source = collection(str(path))
    assert source.table["id"].tolist() == ["000", "001", "002", "003", "004", "005"]
    np.testing.assert_array_equal(source.table["valence"], [0, 0.25, np.nan, 0.5, 0.75, 1])
    assert source.targets["valence"] == {"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""}
    assert source.targets["count"]["classes"] == ["1", "2"]
    assert source.table["count"].tolist()[:5] == ["1", "2", "1", "2", "2"]
    assert source.table["count"].isna().tolist() == [False] * 5 + [True]


def test_text_is_not_converted(make: Make) -> None:
    genre = ["None", "NA", "nan", "None", "NA", "nan"]
    source = make(six(genre=genre, id=["007", "1e3", "NULL", "08", "8", "true"]))
    assert source.table["genre"].tolist() == genre
    assert source.targets["genre"]["classes"] == ["NA", "None", "nan"]
    assert source.table["id"].tolist() == ["007", "1e3", "NULL", "08", "8", "true"]


def test_cells_match_csv_reader(tmp_path: Path) -> None:
    rows = [
        "path, genre ,note",
        '"a, b.wav",rock,"two\nlines"',
        " c.wav , rock,",
        '"d ""x"".wav",jazz,',
        "é.wav,jazz,",
        "",
    ]
    (tmp_path / "t.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    source = collection(str(tmp_path / "t.csv"))
    assert source.table["id"].tolist() == ["a, b", "c", 'd "x"', "é"]
    assert source.table["genre"].tolist() == ["rock", "rock", "jazz", "jazz"]


def test_empty_rows_are_skipped_but_counted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,genre\na.wav,x\n\n,\nb.wav,y\nb.wav,x\n")
    with pytest.raises(DataError, match="row 5 and row 6 both have id 'b'"):
        collection(str(tmp_path / "t.csv"))


def test_unnamed_column_is_skipped(make: Make) -> None:
    assert list(make({"": list(range(6)), **six()}).targets) == ["genre"]


def test_ids_are_paths_without_suffix(make: Make, tmp_path: Path) -> None:
    audio = tmp_path / "sounds"
    audio.mkdir()
    paths = ["./rock/a.wav", "rock/b.tar.wav", "jazz\\c.wav", "x/../d.wav", "e", "f.MP3"]
    table = make(six(path=paths), audio=str(audio)).table
    assert table["id"].tolist() == ["rock/a", "rock/b.tar", "jazz/c", "x/../d", "e", "f"]
    assert table["path"][0] == str(audio / "rock/a.wav")
    assert table["path"][2] == str(audio / "jazz/c.wav")


@pytest.mark.parametrize("path", ["../a.wav", "x/../../a.wav", "/etc/a.wav", "..\\a.wav"])
def test_paths_stay_inside_folder(make: Make, path: str) -> None:
    with pytest.raises(DataError, match=r"My clips\.csv, row 4: path '.*' is outside "):
        make(six(path=["0.wav", "1.wav", path, "3.wav", "4.wav", "5.wav"]))


@pytest.mark.parametrize("path", ["", ".", "  "])
def test_row_without_path_is_skipped_and_listed(make: Make, path: str, caplog: pytest.LogCaptureFixture) -> None:
    source = make(six(path=["0.wav", path, "2.wav", "3.wav", "4.wav", "5.wav"], genre=[*"xxyyxy"]))
    assert source.table["id"].tolist() == ["0", "2", "3", "4", "5"]
    assert source.skipped_items == (SkippedItem("row 3", "path is empty", clip=True),)
    assert "1 item skipped (path is empty: 1, such as row 3)" in caplog.text
    with pytest.raises(DataError, match="the column path is empty in all 6 rows"):
        make(six(path=[path] * 6))


def test_duplicate_id_is_reported_with_both_rows(make: Make) -> None:
    with pytest.raises(DataError, match=r"clips\.csv, row 3 and row 6 both have id 'b'$"):
        make(six(id=["a", "b", "c", "d", "b", "f"]))
    paths = ["0.wav", "1.wav", "0.mp3", "3.wav", "4.wav", "5.wav"]
    with pytest.raises(DataError, match=r"row 2 and row 4 both have id '0', the path without suffix; add a column id"):
        make(six(path=paths))
    assert make(six(path=paths, id=list("abcdef"))).table["id"].tolist() == list("abcdef")
    with pytest.raises(DataError, match="row 4: id is empty"):
        make(six(id=["a", "b", "", "d", "e", "f"]))


def test_common_names_of_splits_are_read(make: Make) -> None:
    source = make(six(split=["train", "Training", "val", "valid", "validation", "test"]))
    assert source.table["split"].tolist() == ["train", "train", "val", "val", "val", "test"]
    assert list(source.targets) == ["genre"]
    for wrong in ("dev", ""):
        with pytest.raises(DataError, match=f"row 5: split is '{wrong}', which must be train, val or test"):
            make(six(split=["train", "train", "val", wrong, "test", "test"]))


def test_artists_are_default_groups(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = make(six(artist=["A", "A", "", "B", "B", "None"]))
    assert source.table["group"].fillna("-").tolist() == ["A", "A", "-", "B", "B", "None"]
    assert "has no column group; clips are grouped by artist" in caplog.text
    assert "1 clips have no artist; each is a separate group" in caplog.text
    assert source.note == ""
    assert list(source.targets) == ["genre"]
    caplog.clear()
    source = make(six(artist=list("AABBCC"), group=["g", "g", "h", "h", "", ""]))
    assert source.table["group"].fillna("-").tolist() == ["g", "g", "h", "h", "-", "-"]
    assert source.table["artist"].tolist() == list("AABBCC")
    assert "has no column group" not in caplog.text


def test_artist_target_is_not_used_as_group(make: Make) -> None:
    source = make(six(artist=list("AABBCC")), targets={"artist": "label"})
    assert source.targets["artist"]["classes"] == ["A", "B", "C"]
    assert source.table["group"].isna().all()
    assert source.note == ""


@pytest.mark.parametrize("spelt", ["licence", "license"])
def test_titles_and_licences_are_kept_but_not_targets(make: Make, spelt: str) -> None:
    source = make(six(title=list("ABABAB"), **{spelt: ["CC BY", "CC0", "CC BY", "", "CC BY", "CC0"]}))
    assert list(source.targets) == ["genre"]
    assert source.table["title"].tolist() == list("ABABAB")
    assert source.extra == {"licences": {"CC BY": 3, "CC0": 2}}
    assert "- CC BY: 3 clips" in source.card


def test_official_split_with_shared_group_is_refused(make: Make) -> None:
    source = make(six(split=["train", "train", "val", "val", "test", "test"], group=["a", "a", "b", "b", "b", "c"]))
    with pytest.raises(DataError, match="group"):
        Split(kind="official").assign(source.table)


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
def test_kind_of_target_is_inferred_from_column(make: Make, cells: list[Any], spec: tuple[Any, ...]) -> None:
    source = make(six(mine=cells))
    target = source.targets["mine"]
    assert target["kind"] == spec[0]
    if spec[0] == "label":
        assert target["classes"] == list(spec[1:])
        assert source.table["mine"].dropna().tolist() == [str(cell) for cell in cells if cell != ""]
    else:
        assert (target["low"], target["high"]) == pytest.approx(spec[1:], abs=1e-12)
        observed = spec[1:] != (0.0, 1.0)
        assert ("is the range of the values in the table" in target["note"]) == observed
        np.testing.assert_array_equal(source.table["mine"].dropna(), [float(c) for c in cells if c != ""])


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (list("abcdef"), "it has 6 values in 6 clips, too many for classes"),
        (["a", "a", "b", "b", "c", "d"], "it has 4 values in 6 clips, too many for classes"),
        (["a", "a", "a", "a", "a", "d"], "'d' has a single clip, which cannot be in both training and test"),
        ([""] * 6, "it is empty"),
        (["a"] * 6, "all cells have the same value"),
        ([3, 3, 3, "3.0", 3, 3], "all cells have the same value"),
        (
            ["True", "False", "True", "False", "", ""],
            "it contains only False and True; to use it as a target, set targets=",
        ),
        (
            ["yes", "no", "yes", "no", "yes", "no"],
            "it contains only no and yes; to use it as a target, set targets={mine: label}",
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
    make: Make, cells: list[Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(make(six(mine=cells)).targets) == ["genre"]
    assert f"column mine is not used as a target: {why}" in caplog.text


def test_number_of_classes_is_at_most_half_of_clips(make: Make) -> None:
    assert make(six(mine=list("aabbcc"))).targets["mine"]["classes"] == ["a", "b", "c"]


def test_integers_with_many_values_are_scalar(tmp_path: Path) -> None:
    def kind(values: int) -> str:
        columns = {"path": [f"{i}.wav" for i in range(3 * values)], "mine": [i % values for i in range(3 * values)]}
        return collection(write_table(tmp_path, columns)).targets["mine"]["kind"]

    assert (kind(20), kind(21)) == ("label", "scalar")


def test_declared_targets_are_used(make: Make) -> None:
    columns = six(
        valence=[0, 1, 0, 1, 0, 1], tempo=[60, 90, "", 120, 130, 200], code=[1, 2, 3, 1, 2, 3], mood=list("aabbcd")
    )
    declared = {"genre": "label", "valence": [0, 1], "tempo": [40, 220], "code": "scalar"}
    source = make(columns, targets=declared)
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
def test_invalid_declaration_is_refused(make: Make, targets: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(six(tempo=[60, "", "fast", 120, 130, 200]), targets=targets)


@pytest.mark.parametrize("cell", ["nan", "inf", "1_0", "1,5"])
def test_cells_that_only_python_parses_are_not_numbers(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f'path,tempo\na.wav,10\nb.wav,"{cell}"\nc.wav,20\n')
    with pytest.raises(DataError, match=f"row 3: tempo = '{cell}' is not a number"):
        collection(str(tmp_path / "t.csv"), targets={"tempo": "scalar"})


def test_value_outside_range_and_single_clip_class_are_refused(make: Make) -> None:
    with pytest.raises(
        DataError, match=r"my-clips: clip '5' has tempo = 230\.0, which is outside the range of the target"
    ):
        make(six(tempo=[60, 90, 60, 120, 130, 230]), targets={"tempo": [40, 220]})
    with pytest.raises(DataError, match=r"genre 'pop' has a single clip \(5\)"):
        make(six(genre=[*GENRES[:5], "pop"]), targets={"genre": "label"})
    with pytest.raises(DataError, match=r"^targets: column genre has the single value 'rock'; a target needs"):
        make(six(genre=["rock"] * 6), targets={"genre": "label"})
    with pytest.raises(DataError, match="targets: column genre is empty; a target needs at least two values"):
        make(six(genre=[""] * 6, mine=[1, 2, 1, 2, 1, 2]), targets={"genre": "label"})
    with pytest.raises(DataError, match="targets: a scalar cannot be predicted if all values are 3"):
        make(six(mine=[3, "3.0", 3, 3, 3, 3]), targets={"mine": "scalar"})


def test_classes_are_merged_for_each_target(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    genre = ["Rock", "Punk", "Jazz", "Jazz", "Talk", ""]
    columns = six(genre=genre, mood=["up", "up", "down", "down", "", "up"])
    source = make(columns, classes={"genre": {"loud": ["Rock", "Punk"], "quiet": ["Jazz"]}})
    assert source.targets["genre"]["classes"] == ["loud", "quiet"]
    assert source.table["genre"].fillna("-").tolist() == ["loud", "loud", "quiet", "quiet", "-"]
    assert source.table["id"].tolist() == ["0", "1", "2", "3", "5"]  # clip 4 has no label after merging
    assert source.table.index.tolist() == list(range(5))
    assert "1 item skipped (clip has no label: 1, such as 4)" in caplog.text
    assert source.extra == {"before": {"genre": {"Jazz": 2, "Rock": 1, "Punk": 1, "Talk": 1}}}
    assert source.targets["mood"]["classes"] == ["down", "up"]
    with pytest.raises(DataError, match="has no target column style; columns are genre, mood"):
        make(columns, classes={"style": {"loud": ["Rock"]}})
    with pytest.raises(DataError, match="classes: genre is not declared as a label"):
        make(columns, targets={"mood": "label"}, classes={"genre": {"loud": ["Rock"]}})
    with pytest.raises(DataError, match="the data has no clips of soft"):
        make(columns, classes={"genre": {"loud": ["Rock", "Punk"], "soft": ["Folk"]}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column path; it has no columns"),
        ("file,genre\na.wav,x\n", "has no column path; it has file, genre"),
        ("path;genre\na.wav;x\n", "its cells are separated by ';', expected ','; save it as"),
        ("path,genre\n", "has a header but no rows"),
        ("path,genre\n,\n\n", "has a header but no rows"),
        ("path,genre\na.wav,x\nb.wav,x,y\n", r"t\.csv, row 3: has 3 cells, the header has 2"),
        ("path,genre\na.wav\n", r"t\.csv, row 2: has 1 cells, the header has 2"),
        ("path,genre,genre\na.wav,x,y\n", "has two columns 'genre'"),
        ("path,title\na.wav,x\nb.wav,x\n", r"has no target column; declare one in data\.source\.targets"),
        ("path,mine\na.wav,x\nb.wav,y\n", "has no target column"),
    ],
)
def test_invalid_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        collection(str(tmp_path / "t.csv"))


def test_unreadable_table_is_refused(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", b"path\xff\xfe,x"),
        ("b.parquet", b"no parquet"),
        ("c.csv", None),
        ("d.parquet", None),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be read as a table"):
            collection(str(tmp_path / name))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: cannot be read as a table"):
        collection(str(tmp_path / "folder.csv"))


def test_missing_audio_folder_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^audio: there is no folder {tmp_path / 'nowhere'}$"):
        make(six(), audio=str(tmp_path / "nowhere"))


def test_config_instantiates_source(tmp_path: Path, config: Callable[..., dict[str, Any]]) -> None:
    path = write_table(tmp_path, six(tempo=[60, 90, 60, 120, 130, 200]), "t.csv")
    targets = "data.source.targets={genre: label, tempo: [40, 220]}"
    node = config("data=table", f"data.source.table={path}", targets)["data"]["source"]
    source = collection(**{key: value for key, value in node.items() if key != "_target_"})
    assert list(source.targets) == ["genre", "tempo"]
    assert source.targets["tempo"]["high"] == 220.0
