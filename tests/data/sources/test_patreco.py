"""Tests of the source of PatReco arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.sources.patreco_arrays import (
    BEAT,
    COUNTS,
    DROPPED,
    MERGED,
    WrittenArrays,
    save_array,
)

from etude.audio.formats import DecodeError
from etude.audio.log_mel import LogMelChroma
from etude.data.audio_files import ARRAY_FRONT_END, locate_array, read_precomputed
from etude.data.collection import Collection
from etude.data.datamodule import build_datamodule
from etude.data.sources.patreco import collection
from etude.errors import DataError


def count_by_class(source: Collection) -> dict[str, tuple[int, int]]:
    counts = source.table.groupby(["genre", "split"]).size()
    return {name: (counts[name, "train"], counts[name, "test"]) for name in source.targets["genre"]["classes"]}


def test_without_merging_each_clip_occurs_once(genre_arrays: WrittenArrays, genre_collection: Collection) -> None:
    assert count_by_class(genre_collection) == COUNTS
    assert dict(zip(genre_collection.table["id"], genre_collection.table["genre"], strict=True)) == genre_arrays.genre
    assert dict(zip(genre_collection.table["id"], genre_collection.table["split"], strict=True)) == genre_arrays.split
    assert len(genre_collection.table) == len(genre_arrays.genre)
    assert "before" not in genre_collection.extra


def test_twenty_classes_become_ten(genre_arrays: WrittenArrays, config: Callable[..., dict[str, Any]]) -> None:
    ten = genre_arrays.collection(config)
    assert len(COUNTS) == 20
    assert ten.targets["genre"]["classes"] == sorted(MERGED)
    assert count_by_class(ten) == MERGED
    kept = {clip for clip, genre in genre_arrays.genre.items() if genre not in DROPPED}
    assert len(ten.table) == len(kept)
    assert set(ten.table["id"]) == kept
    assert {old for old, new in ten.extra["merged"]["genre"].items() if new is None} == DROPPED
    assert ten.extra["before"]["genre"] == {name: sum(counts) for name, counts in COUNTS.items()}
    assert ten.table.index.tolist() == list(range(len(kept)))
    old = ten.table["id"].map(genre_arrays.genre)
    assert set(ten.table["genre"][old.isin(["Punk", "Metal"])]) == {"Metal"}
    assert set(ten.table["genre"][old == "Chiptune"]) == {"Electronic"}
    assert set(ten.table["genre"][old == "Trip-Hop"]) == {"Trip-Hop"}


def test_dropped_clips_are_counted_in_log(
    genre_arrays: WrittenArrays, config: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    genre_arrays.collection(config)
    dropped = sum(sum(COUNTS[name]) for name in DROPPED)
    assert f"{dropped} items skipped (class is not named in data.source.classes: {dropped}, such as " in caplog.text
    assert "has no label" not in caplog.text


def test_unknown_groups_are_missing_and_noted(genre_collection: Collection) -> None:
    assert genre_collection.table["group"].isna().all()
    assert "one artist may be in both training and test; data.source.metadata names" in genre_collection.note
    assert "artists are unknown" in genre_collection.card
    assert genre_collection.name == "fma_genre_spectrograms"
    assert all(isinstance(clip, str) for clip in genre_collection.table["id"])
    assert any(clip.startswith("0") for clip in genre_collection.table["id"])


def write_tracks(folder: Path, artists: dict[str, str]) -> Path:
    """Write the columns of FMA's tracks.csv that a source reads."""
    rows = "".join(f"{track},training,{artist}\n" for track, artist in artists.items())
    folder.mkdir()
    (folder / "tracks.csv").write_text(f",set,artist\n,split,id\ntrack_id,,\n{rows}")
    return folder


def test_clips_are_grouped_by_artists_of_fma(affect_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Read tracks.csv from a named folder, and from the folder `fma_metadata` beside the arrays."""
    artists = {"7": "1", "0": "54", "1": "54", "2": "54", "9": ""} | {str(clip): str(clip) for clip in range(100, 105)}
    metadata = write_tracks(affect_folder.parent / "tables", artists)
    named = collection(str(affect_folder), metadata=str(metadata))
    groups = dict(zip(named.table["id"], named.table["group"], strict=True))
    assert {clip: group for clip, group in groups.items() if group} == {
        "0": "artist 54", "1": "artist 54", "2": "artist 54", "7": "artist 1"
    }  # fmt: skip
    assert named.note == ""
    assert "4 of the 12 clips are by 2 artists, as in FMA's tracks.csv" in named.card
    assert "8 clips have no artist in tracks.csv, such as 3; each is a separate group" in caplog.text
    assert collection(str(affect_folder)).table["group"].isna().all()
    metadata.rename(affect_folder.parent / "fma_metadata")
    assert collection(str(affect_folder)).table.equals(named.table)
    other = write_tracks(affect_folder.parent / "other", {"99999": "3"})
    with pytest.raises(DataError, match=r"tracks\.csv: has none of the 12 clips of .*, such as 0"):
        collection(str(affect_folder), metadata=str(other))


def test_folder_of_beats_gives_same_collection(genre_arrays: WrittenArrays, genre_collection: Collection) -> None:
    beats = collection(str(genre_arrays.home) + "_beat")
    assert beats.table.equals(genre_collection.table)
    assert beats.name == genre_collection.name


def test_folder_of_beats_is_sufficient(tmp_path: Path) -> None:
    home = tmp_path / "mine_beat"
    for clip in ("7", "8", "9", "10"):
        save_array(home, "train", clip, np.zeros((140, 30)))
    rows = "Id\tGenre\r\n7\tRock\r\n8\tRock\r\n9\tJazz\r\n10\tJazz\r\n"  # with other line breaks
    (home / "train_labels.txt").write_bytes(rows.encode("utf-8-sig"))
    source = collection(str(tmp_path / "mine_beat/"))
    assert source.table["id"].tolist() == ["7", "8", "9", "10"]
    assert read_precomputed(locate_array(Path(source.table["path"][0]), BEAT), BEAT, 30.0).shape == (30, 140)
    with pytest.raises(DecodeError, match=r"mine/train/7\.fused\.full\.npy: there is no such file$"):
        read_precomputed(Path(source.table["path"][0]), ARRAY_FRONT_END, 0.0)


def test_ratings_are_scalars_and_unrated_clips_are_skipped(
    affect_folder: Path, config: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node = config("data=patreco_affect", f"data.source.path={affect_folder}", "task=multitask")["data"]
    source = collection(**{key: value for key, value in node["source"].items() if key != "_target_"})
    assert "5 items skipped (array has no row in a label file: 5, such as test/100.fused.full.npy)" in caplog.text
    assert source.table["id"].tolist() == [str(clip) for clip in range(12)]
    assert set(source.table["split"]) == {"train"}
    assert list(source.targets) == ["valence", "energy", "danceability"]
    assert all((t["kind"], t["low"], t["high"]) == ("scalar", 0.0, 1.0) for t in source.targets.values())
    np.testing.assert_array_equal(source.table["valence"], np.arange(12) / 11)
    np.testing.assert_array_equal(source.table["danceability"], 1 - np.arange(12) / 11)
    assert source.extra == {}
    assert (node["split"]["kind"], node["split"]["stratify"]) == ("grouped", "valence")
    assert node["split"]["fractions"] == [0.65, 0.15, 0.2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("13,much,0.5,0.5", r"train_labels\.txt, row 14: 'much' is not a number"),
        ("13,nan,0.5,0.5", r"row 14: 'nan' is not a number"),
        ("13,0.5,0.5", r"row 14: has '13,0\.5,0\.5', expected 'id,valence,energy,danceability'"),
        (",0.5,0.5,0.5", "row 14: has"),
        ("13,1.5,0.5,0.5", r"clip '13' has valence = 1\.5, which is outside the range of the target"),
        ("3.fused.full.npy,0.5,0.5,0.5", "id '3' occurs more than once"),
    ],
)
def test_invalid_row_is_named(affect_folder: Path, line: str, message: str) -> None:
    with (affect_folder / "train_labels.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        collection(str(affect_folder))


def test_one_rating_can_be_missing(affect_folder: Path) -> None:
    with (affect_folder / "train_labels.txt").open("a") as file:
        file.write("13,,0.5,0.5\n14,,,\n\n")
    table = collection(str(affect_folder)).table
    assert table["id"].tolist()[-1] == "13"
    assert table["valence"].isna().sum() == 1


def test_id_in_both_splits_is_refused(genre_arrays: WrittenArrays, tmp_path: Path) -> None:
    home = tmp_path / "twice"
    for split in ("train", "test"):
        save_array(home, split, "5", genre_arrays.full[next(iter(genre_arrays.full))])
        (home / f"{split}_labels.txt").write_text("Id\tGenre\n5.fused.full.npy\tRock\n")
    with pytest.raises(DataError, match="id '5' occurs more than once"):
        collection(str(home))


@pytest.mark.parametrize("text", ["", "1.npy\tRock\n", "Id,valence\n1,0.5\n", "Id\tArtist\n"])
def test_label_files_are_recognised_by_their_header(affect_folder: Path, text: str) -> None:
    (affect_folder / "test_labels.txt").write_text(text)
    if text.startswith("Id,genre"):  # identified by the column names, with any delimiter
        with pytest.raises(DataError, match="one of its label files has genres and the other ratings"):
            collection(str(affect_folder))
    else:
        with pytest.raises(
            DataError, match=r"test_labels\.txt: the header must be Id and Genre, separated by a tab, or Id,val"
        ):
            collection(str(affect_folder))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.source\.path: there is no folder .*; unpack geoparslp"):
        collection(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"has no train_labels\.txt; expected fma_genre_spectrograms or multitask"):
        collection(str(tmp_path))
    (tmp_path / "train_labels.txt").write_bytes(b"Id\tGenre\n\xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read"):
        collection(str(tmp_path))


def test_missing_array_keeps_row_unless_all_are_missing(affect_folder: Path) -> None:
    (affect_folder / "train" / "3.fused.full.npy").unlink()
    assert "3" in collection(str(affect_folder)).table["id"].tolist()
    for path in (affect_folder / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 12 arrays in its label files exists, for example .*npy$"):
        collection(str(affect_folder))


def test_config_sets_front_end(config: Callable[..., dict[str, Any]]) -> None:
    for name in ("patreco", "patreco_affect"):
        for override in ("feature=mel", "feature=chroma", "feature=fused"):
            node = config(f"data={name}", "data.source.path=x", override)["feature"]["front"]
            assert LogMelChroma(**{key: value for key, value in node.items() if key != "_target_"}) == ARRAY_FRONT_END
    node = config("data=patreco", "data.source.path=x", "feature/front=default")["feature"]["front"]
    assert node["chroma"] == "stft"  # another front end is composed, and the reader refuses it


def test_both_collections_train_one_network(
    genre_arrays: WrittenArrays, affect_folder: Path, tmp_path: Path, config: Callable[..., dict[str, Any]]
) -> None:
    common = next(clip for clip, genre in genre_arrays.genre.items() if genre == "Rock")  # a clip in both collections
    save_array(affect_folder, "train", common, genre_arrays.full[common])
    with (affect_folder / "train_labels.txt").open("a") as file:
        file.write(f"{common},0.25,0.5,0.75\n")
    where = [
        f"data.source.sources.{name}.path={path}"
        for name, path in (("genre", genre_arrays.home), ("affect", affect_folder))
    ]
    data = build_datamodule(
        config("data=patreco_joint", *where, f"data.packs={tmp_path}", "data.min_seconds=0", "task=joint")
    )
    data.setup()
    index = data.pack.index.set_index("id")
    assert set(data.targets) == {"genre", "valence", "energy", "danceability"}
    assert len(index) == genre_arrays.collection(config).table["id"].nunique() + 12
    assert index["genre"].notna().sum() == len(index) - 12
    assert index["valence"].notna().sum() == 13
    assert index.loc[common, ["genre", "valence", "danceability"]].tolist() == ["Rock", 0.25, 0.75]
    for split in ("train", "val", "test"):
        assert {"genre", "valence"} <= set(data.pack.index[data.splits == split].dropna(axis=1, how="all").columns)


def test_unused_files_and_rows_are_listed(affect_folder: Path) -> None:
    (affect_folder / "train" / "notes.txt").touch()
    with (affect_folder / "train_labels.txt").open("a") as file:
        file.write("987654,,,\n")
    reasons = {item.item: item.reason for item in collection(str(affect_folder)).skipped_items}
    assert reasons["987654"] == "clip has no label"
    assert reasons["train/notes.txt"] == "name does not end in .fused.full.npy"
    assert reasons["test/100.fused.full.npy"] == "array has no row in a label file"
