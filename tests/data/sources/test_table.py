"""Tests of the source of tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.data.sources.tables import GENRES, Make, six_clips, write_table

from etude.audio.log_mel import LogMelChroma
from etude.data.audio_files import SkippedItem
from etude.data.pack import PackOptions
from etude.data.packing import prepare_pack
from etude.data.sources.table import collection
from etude.errors import DataError


def test_path_and_genre_are_sufficient(make_collection: Make, tmp_path: Path) -> None:
    source = make_collection(six_clips())
    assert source.table["id"].tolist() == list("012345")
    assert source.table["path"].tolist() == [str(tmp_path / f"{i}.wav") for i in range(6)]
    assert source.table["genre"].tolist() == GENRES
    assert source.targets == {"genre": {"kind": "label", "classes": ["jazz", "rock"], "note": ""}}
    assert source.table["group"].isna().all()
    assert "split" not in source.table
    assert "artist" in source.note
    assert source.name == "my-clips"
    assert make_collection(six_clips(), name="Other Name!").name == "other-name"


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_all_file_formats_give_same_collection(tmp_path: Path, kind: str) -> None:
    columns = six_clips(valence=[0, 0.25, "", 0.5, 0.75, 1], count=[1, 2, 1, 2, 2, ""], id=[f"00{i}" for i in range(6)])
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


def test_text_is_not_converted(make_collection: Make) -> None:
    genre = ["None", "NA", "nan", "None", "NA", "nan"]
    source = make_collection(six_clips(genre=genre, id=["007", "1e3", "NULL", "08", "8", "true"]))
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


def test_unnamed_column_is_skipped(make_collection: Make) -> None:
    assert list(make_collection({"": list(range(6)), **six_clips()}).targets) == ["genre"]


def test_ids_are_paths_without_suffix(make_collection: Make, tmp_path: Path) -> None:
    audio = tmp_path / "sounds"
    audio.mkdir()
    paths = ["./rock/a.wav", "rock/b.tar.wav", "jazz\\c.wav", "x/../d.wav", "e", "f.MP3"]
    table = make_collection(six_clips(path=paths), audio=str(audio)).table
    assert table["id"].tolist() == ["rock/a", "rock/b.tar", "jazz/c", "x/../d", "e", "f"]
    assert table["path"][0] == str(audio / "rock/a.wav")
    assert table["path"][2] == str(audio / "jazz/c.wav")


def place_files(tmp_path: Path, *paths: str) -> None:
    """Create empty files at paths below a folder."""
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()


def test_paths_are_absolute_or_relative_to_known_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A path is relative to the first of three folders that has the file."""
    caplog.set_level(logging.INFO)
    place_files(tmp_path, "home/all.wav", "home/table.wav", "audio/all.wav", "audio/a b.wav", "work/all.wav",
                "work/w/x.wav", "elsewhere/y.wav", "user/z.wav")  # fmt: skip
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    paths = ["all.wav", "table.wav", "a b.wav", "w\\x.wav", f"{tmp_path}/elsewhere/y.wav", "~/z.wav"]
    columns = six_clips(path=paths)
    table = write_table(tmp_path / "home", columns)
    source = collection(table, audio=str(tmp_path / "audio"))
    expected = ["audio/all.wav", "home/table.wav", "audio/a b.wav", "work/w/x.wav", "elsewhere/y.wav", "user/z.wav"]
    assert [str(Path(path).absolute()) for path in source.table["path"]] == [str(tmp_path / path) for path in expected]
    assert source.table["id"].tolist() == ["all", "table", "a b", "w/x", f"{tmp_path}/elsewhere/y", "~/z"]
    assert source.missing_note == ""
    (line,) = [record.message for record in caplog.records if "paths of clips" in record.message]
    assert line == (
        f"{table}: paths of clips: 2 relative to data.source.audio ({tmp_path}/audio), 1 relative to the folder of the "
        f"table ({tmp_path}/home), 1 relative to the working folder ({tmp_path}/work), 2 absolute"
    )
    columns["path"][0] = "../work/w/x.wav"
    assert Path(collection(write_table(tmp_path / "home", columns)).table["path"][0]).samefile("w/x.wav")


def test_addresses_of_files_are_read(make_collection: Make, tmp_path: Path) -> None:
    place_files(tmp_path, "a b.wav", "c/d.wav")
    paths = [f"file://{tmp_path}/a%20b.wav", f"file://localhost{tmp_path}/c/d.wav", f"{tmp_path}/e.wav"]
    table = make_collection(six_clips(path=[*paths, "3.wav", "4.wav", "5.wav"])).table
    assert table["path"].tolist()[:3] == [str(tmp_path / name) for name in ("a b.wav", "c/d.wav", "e.wav")]
    assert table["id"].tolist()[:3] == ["a b", "c/d", "e"]  # relative to the table, as far as possible


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("C:\\music\\a.wav", r"is a path of Windows; copy the file and write its path on this system"),
        ("\\\\server\\a.wav", r"is a path of Windows; copy the file and write its path on this system"),
        ("https://a.org/a.wav", r"is an address; download the file and write its path on this system"),
    ],
)
def test_paths_of_other_systems_are_refused(make_collection: Make, path: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"My clips\.csv, row 4: path '.*' {message}"):
        make_collection(six_clips(path=["0.wav", "1.wav", path, "3.wav", "4.wav", "5.wav"]))


def test_missing_files_name_the_searched_folders_once(make_collection: Make, tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    source = make_collection(six_clips(), audio=str(tmp_path / "sounds"))
    searched = (
        f"paths were searched in data.source.audio ({tmp_path}/sounds), the folder of the table ({tmp_path}), the "
        f"working folder ({os.path.realpath('.')})"
    )
    assert source.missing_note == searched
    with pytest.raises(DataError) as caught:
        prepare_pack(source, LogMelChroma(), PackOptions(tmp_path / "packs", workers=1))
    text = str(caught.value)
    assert text.startswith("my-clips: 1 of 6 clips were skipped, more than data.max_skipped=0.1 allows; for example ")
    assert text.count(searched) == 1 and f"{tmp_path}/sounds/0.wav: there is no such file; paths were" in text


@pytest.mark.parametrize("names", [("manifest.json", "frames.f16"), ("config.yaml", "record.json")])
def test_tables_of_packs_and_runs_stay_inside_their_folder(make_collection: Make, tmp_path: Path, names: Any) -> None:
    """A pack or run of another user must not add other files of this machine to pages or packs."""
    outside = tmp_path / "secret.wav"
    outside.touch()
    inner = tmp_path / "pack" / "tables"
    place_files(inner, "0.wav")
    for name in names:
        (inner.parent / name).touch()
    (inner / "link.wav").symlink_to(outside)
    rest = ["3.wav", "4.wav", "5.wav"]
    for path in ("../a.wav", "x/../../a.wav", str(outside), "..\\a.wav", "~/a.wav", f"file://{outside}", "link.wav"):
        with pytest.raises(DataError, match=r"row 4: path '.*' is outside .*pack/tables; .* inside the pack or run "):
            collection(write_table(inner, six_clips(path=["0.wav", "1.wav", path, *rest])))
    source = collection(write_table(inner, six_clips()))
    assert source.table["path"].tolist() == [str(inner / f"{i}.wav") for i in range(6)]
    assert "working folder" not in source.missing_note


@pytest.mark.parametrize("path", ["", ".", "  "])
def test_row_without_path_is_skipped_and_listed(
    make_collection: Make, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_collection(six_clips(path=["0.wav", path, "2.wav", "3.wav", "4.wav", "5.wav"], genre=[*"xxyyxy"]))
    assert source.table["id"].tolist() == ["0", "2", "3", "4", "5"]
    assert source.skipped_items == (SkippedItem("row 3", "path is empty", clip=True),)
    assert "1 item skipped (path is empty: 1, such as row 3)" in caplog.text
    with pytest.raises(DataError, match="the column path is empty in all 6 rows"):
        make_collection(six_clips(path=[path] * 6))


def test_duplicate_id_is_reported_with_both_rows(make_collection: Make) -> None:
    with pytest.raises(DataError, match=r"clips\.csv, row 3 and row 6 both have id 'b'$"):
        make_collection(six_clips(id=["a", "b", "c", "d", "b", "f"]))
    paths = ["0.wav", "1.wav", "0.mp3", "3.wav", "4.wav", "5.wav"]
    with pytest.raises(DataError, match=r"row 2 and row 4 both have id '0', the path without suffix; add a column id"):
        make_collection(six_clips(path=paths))
    assert make_collection(six_clips(path=paths, id=list("abcdef"))).table["id"].tolist() == list("abcdef")
    with pytest.raises(DataError, match="row 4: id is empty"):
        make_collection(six_clips(id=["a", "b", "", "d", "e", "f"]))


def test_common_names_of_splits_are_read(make_collection: Make) -> None:
    source = make_collection(six_clips(split=["train", "Training", "val", "valid", "", "test"]))
    assert source.table["split"].tolist() == ["train", "train", "val", "val", "", "test"]
    assert list(source.targets) == ["genre"]


def test_official_folds_are_no_target(make_collection: Make) -> None:
    folds = {"fold": ["1.0", "2.0", "3.0"] * 2, "cv": list("aabbcc")}
    source = make_collection(six_clips(**folds), split_column="cv")
    assert list(source.targets) == ["genre"]
    assert source.table["fold"].tolist() == ["1", "2", "3"] * 2
    assert source.table["cv"].tolist() == list("aabbcc")
    assert list(make_collection(six_clips(**folds)).targets) == ["genre", "cv"]
    with pytest.raises(
        DataError, match=r"column=vc: .* has no such column of splits; other columns are genre, fold, cv"
    ):
        make_collection(six_clips(**folds), split_column="vc")
    with pytest.raises(DataError, match=r"column=cv: cv is also declared as a target; remove it"):
        make_collection(six_clips(**folds), split_column="cv", targets={"cv": "label"})


def test_artists_are_default_groups(make_collection: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = make_collection(six_clips(artist=["A", "A", "", "B", "B", "None"]))
    assert source.table["group"].fillna("-").tolist() == ["A", "A", "-", "B", "B", "None"]
    assert "has no column group; clips are grouped by artist" in caplog.text
    assert "1 clips have no artist; each is a separate group" in caplog.text
    assert source.note == ""
    assert list(source.targets) == ["genre"]
    caplog.clear()
    source = make_collection(six_clips(artist=list("AABBCC"), group=["g", "g", "h", "h", "", ""]))
    assert source.table["group"].fillna("-").tolist() == ["g", "g", "h", "h", "-", "-"]
    assert source.table["artist"].tolist() == list("AABBCC")
    assert "has no column group" not in caplog.text


def test_spellings_of_one_artist_are_named(make_collection: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Spaces around a name have no meaning. Other differences make different groups, which splits can separate."""
    make_collection(six_clips(artist=["Ann Lee", "Ann  Lee", "ann lee ", "Bob", " Bob", ""]))
    text = "1 names in the column artist are written in several forms, which are different groups"
    assert text in caplog.text and "'Ann Lee', 'Ann  Lee', 'ann lee'" in caplog.text
    caplog.clear()
    make_collection(six_clips(artist=["Ann Lee", "Ann Leo", "Bob", "Bob ", "", ""]))
    assert "several forms" not in caplog.text


def test_artist_target_is_not_used_as_group(make_collection: Make) -> None:
    source = make_collection(six_clips(artist=list("AABBCC")), targets={"artist": "label"})
    assert source.targets["artist"]["classes"] == ["A", "B", "C"]
    assert source.table["group"].isna().all()
    assert source.note == ""


@pytest.mark.parametrize("column", ["licence", "license"])
def test_titles_and_licences_are_kept_but_not_targets(make_collection: Make, column: str) -> None:
    source = make_collection(six_clips(title=list("ABABAB"), **{column: ["CC BY", "CC0", "CC BY", "", "CC BY", "CC0"]}))
    assert list(source.targets) == ["genre"]
    assert source.table["title"].tolist() == list("ABABAB")
    assert source.extra == {"licences": {"CC BY": 3, "CC0": 2}}
    assert "- CC BY: 3 clips" in source.card


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column named 'path'; it has no columns"),
        ("file,genre\na.wav,x\n", "has no column named 'path'; its columns are file, genre"),
        ("path;genre\na.wav;x\n", "its cells are separated by ';', expected ','; save it as"),
        ("path,genre\n", "has a header but no rows"),
        ("path,genre\n,\n\n", "has a header but no rows"),
        ("path,genre\na.wav,x\nb.wav,x,y\n", r"t\.csv, row 3: has 3 cells, the header has 2"),
        ("path,genre\na.wav\n", r"t\.csv, row 2: has 1 cells, the header has 2"),
        ("path,genre,genre\na.wav,x,y\n", "has two columns 'genre'"),
        ("path,title\na.wav,x\nb.wav,x\n", r"has no target column; declare one in data\.targets"),
        ("path,extra\na.wav,x\nb.wav,y\n", "has no target column"),
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
        reason = "there is no such table" if content is None else "cannot be read as a table"
        with pytest.raises(DataError, match=f"{name}: {reason}"):
            collection(str(tmp_path / name))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: cannot be read as a table"):
        collection(str(tmp_path / "folder.csv"))


def test_missing_audio_folder_is_refused(make_collection: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^audio: there is no folder {tmp_path / 'nowhere'}$"):
        make_collection(six_clips(), audio=str(tmp_path / "nowhere"))


def test_config_instantiates_source(tmp_path: Path, config: Callable[..., dict[str, Any]]) -> None:
    path = write_table(tmp_path, six_clips(tempo=[60, 90, 60, 120, 130, 200]), "t.csv")
    targets = "data.source.targets={genre: label, tempo: [40, 220]}"
    node = config("data=table", f"data.source.table={path}", targets)["data"]["source"]
    source = collection(**{key: value for key, value in node.items() if key != "_target_"})
    assert list(source.targets) == ["genre", "tempo"]
    assert source.targets["tempo"]["high"] == 220.0
