"""Tests of the source of FMA with synthetic tables."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from etude.config.validation import config_errors
from etude.data.collection import Collection
from etude.data.sources.fma import COMPUTED, SHORT, collection
from etude.errors import DataError

GROUPS = {  # columns of tracks.csv, in order
    "album": "comments date_created date_released engineer favorites id information listens producer tags title tracks "
    "type",
    "artist": "active_year_begin active_year_end associated_labels bio comments date_created favorites id latitude "
    "location longitude members name related_projects tags website wikipedia_page",
    "set": "split subset",
    "track": "bit_rate comments composer date_created date_recorded duration favorites genre_top genres genres_all "
    "information interest language_code license listens lyricist number publisher tags title",
}
COLUMNS = [(group, name) for group, names in GROUPS.items() for name in names.split()]
ECHONEST_GROUPS = {  # columns of echonest.csv
    "audio_features": "acousticness danceability energy instrumentalness liveness speechiness tempo valence",
    "metadata": "album_date album_name artist_latitude artist_location artist_longitude artist_name release",
    "ranks": "artist_discovery_rank artist_familiarity_rank artist_hotttnesss_rank song_currency_rank "
    "song_hotttnesss_rank",
    "social_features": "artist_discovery artist_familiarity artist_hotttnesss song_currency song_hotttnesss",
    "temporal_features": " ".join(f"{i:03d}" for i in range(224)),
}
ECHONEST_COLUMNS = [("echonest", group, name) for group, names in ECHONEST_GROUPS.items() for name in names.split()]
BY, NC = "Attribution", "Attribution-NonCommercial"
TRACKS = [  # id, subset, split, artist, genre, licence
    (2, "small", "training", 1, "Hip-Hop", BY),
    (5, "small", "training", 1, "Hip-Hop", BY),
    (140, "small", "validation", 54, "Folk", NC),
    (141, "small", "test", 55, "Folk", NC),
    (98565, "small", "training", 7, "Folk", NC),  # listed as short
    (1486, "medium", "training", 8, "Rock", NC),  # listed as empty
    (3000, "medium", "training", 60, "Rock", NC),
    (3001, "medium", "test", 61, "Rock", BY),
    (20, "large", "training", 4, "", ""),  # no genre
    (26, "large", "training", 4, "", ""),  # no genre, but features of The Echo Nest
    (155320, "large", "test", 99, "Rock", BY),
]
FEATURES = {2: (0.5, 0.25, 0.75), 140: (0.0, 1.0, 0.5), 26: (0.125, 0.5, 0.0), 77777: (0.1, 0.1, 0.1)}
SHORT_IN_SMALL = {98565, 98567, 98569, 99134, 108925, 133297}  # the wiki's list for fma_small


class FmaFolders:
    """Folders of the metadata and the audio of FMA, whose files a test may damage."""

    def __init__(self, folder: Path) -> None:
        self.audio, self.metadata = folder / "fma_large", folder / "fma_metadata"
        self.tracks, self.echonest = self.metadata / "tracks.csv", self.metadata / "echonest.csv"

    def read(self, subset: str = "large", **options: Any) -> Collection:
        return collection(str(self.audio), str(self.metadata), subset, **options)


def write_table(path: Path, columns: Sequence[tuple[str, ...]], rows: dict[int, dict[tuple[str, ...], Any]]) -> None:
    """Write a table whose columns have several levels, in the format of pandas."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for level in zip(*columns, strict=True):
            writer.writerow(["", *level])
        writer.writerow(["track_id", *[""] * len(columns)])
        for track, cells in rows.items():
            writer.writerow([track, *(cells.get(column, "") for column in columns)])


def make_row(subset: str, split: str, artist: int, genre: str, licence: str) -> dict[tuple[str, ...], Any]:
    cells = {("set", "subset"): subset, ("set", "split"): split, ("artist", "id"): artist, ("album", "id"): 9}
    track = {("track", "genre_top"): genre, ("track", "license"): licence, ("track", "tags"): "[]"}
    return {**cells, **track, ("artist", "bio"): 'Two lines,\n"quoted", of a bio', ("artist", "name"): "NA"}


@pytest.fixture
def fma(tmp_path: Path) -> FmaFolders:
    fma = FmaFolders(tmp_path)
    fma.metadata.mkdir()
    write_table(fma.tracks, COLUMNS, {track: make_row(*values) for track, *values in TRACKS})
    names = [("echonest", "audio_features", name) for name in ("valence", "energy", "danceability")]
    features = {track: dict(zip(names, values, strict=True)) for track, values in FEATURES.items()}
    write_table(fma.echonest, ECHONEST_COLUMNS, features)
    for track, *_ in TRACKS:
        file = fma.audio / f"{track:06d}"[:3] / f"{track:06d}.mp3"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, 0.1 * np.sin(np.arange(4410) / 9), 44100, format="MP3")
    return fma


def test_tables_have_columns_of_fma() -> None:
    assert (len(COLUMNS), len(ECHONEST_COLUMNS)) == (52, 249)


@pytest.mark.parametrize(
    ("subset", "ids"),
    [
        ("small", "2 5 140 141"),
        ("medium", "2 5 140 141 3000 3001"),
        ("large", "2 5 140 141 3000 3001 26 155320"),
        ("full", "2 5 140 141 98565 1486 3000 3001 26 155320"),
    ],
)
def test_subset_contains_smaller_ones_without_short_clips(fma: FmaFolders, subset: str, ids: str) -> None:
    source = fma.read(subset)
    assert source.table["id"].tolist() == ids.split()
    assert source.name == f"fma_{subset}"
    assert f"FMA {subset}: {len(ids.split())} " in source.title
    assert source.title in source.card


def test_short_clips_match_wiki() -> None:
    assert len(SHORT) == len(set(SHORT)) == 21
    assert set(SHORT) > SHORT_IN_SMALL


def test_cells_match_reader_of_fma(fma: FmaFolders) -> None:
    tracks = pd.read_csv(fma.tracks, index_col=0, header=[0, 1])  # utils.load of the repository mdeff/fma
    echonest = pd.read_csv(fma.echonest, index_col=0, header=[0, 1, 2])
    table = fma.read().table
    published = tracks.loc[table["id"].astype(int)]
    split_names = {"training": "train", "validation": "val", "test": "test"}
    assert table["split"].tolist() == published["set", "split"].map(split_names).tolist()
    assert table["group"].tolist() == [f"artist {artist}" for artist in published["artist", "id"]]
    assert table["genre"].fillna("").tolist() == published["track", "genre_top"].fillna("").tolist()
    for name in ("valence", "energy", "danceability"):
        column = echonest["echonest", "audio_features", name].reindex(published.index)
        np.testing.assert_array_equal(table[name].to_numpy(), column.to_numpy())


def test_file_path_has_six_digits_in_folder_of_three(fma: FmaFolders) -> None:
    table = fma.read().table.set_index("id")
    assert table.loc["2", "path"] == str(fma.audio / "000" / "000002.mp3")
    assert table.loc["155320", "path"] == str(fma.audio / "155" / "155320.mp3")
    assert {soundfile.info(path).format for path in table["path"]} == {"MP3"}


def test_targets_are_genre_and_computed_scalars(fma: FmaFolders) -> None:
    targets = fma.read().targets
    assert list(targets) == ["genre", "valence", "energy", "danceability"]
    assert targets["genre"] == {"kind": "label", "classes": ["Folk", "Hip-Hop", "Rock"], "note": ""}
    for name in ("valence", "energy", "danceability"):
        assert targets[name] == {"kind": "scalar", "low": 0.0, "high": 1.0, "note": COMPUTED}


def test_without_echonest_only_genre_is_target(fma: FmaFolders, caplog: pytest.LogCaptureFixture) -> None:
    fma.echonest.unlink()
    with caplog.at_level(logging.INFO):
        source = fma.read()
    assert list(source.targets) == ["genre"]
    assert list(source.table) == ["id", "path", "group", "split", "genre"]
    assert source.table["genre"].notna().all()
    assert "clip has no label: 2, such as 20" in caplog.text


def test_target_without_labels_in_subset_is_dropped(fma: FmaFolders) -> None:
    write_table(fma.echonest, ECHONEST_COLUMNS, {26: {("echonest", "audio_features", "energy"): 0.5}})
    assert list(fma.read("medium").targets) == ["genre"]
    assert list(fma.read("large").targets) == ["genre", "energy"]
    write_table(fma.tracks, COLUMNS, {26: make_row("large", "test", 4, "", "")})
    assert list(fma.read("large").targets) == ["energy"]


def test_clips_without_label_are_skipped_and_counted(fma: FmaFolders, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source = fma.read()
    assert "20" not in set(source.table["id"])
    assert [item.item for item in source.skipped_items] == ["1486", "98565", "20"]
    assert "clip is listed as empty or short: 2, such as 1486; clip has no label: 1, such as 20" in caplog.text


def test_genres_are_merged_and_others_become_missing(fma: FmaFolders) -> None:
    source = fma.read(classes={"strings": ["Folk", "Rock"]})
    assert source.targets["genre"]["classes"] == ["strings"]
    genre = source.table.set_index("id")["genre"]
    assert genre[["140", "3000", "155320"]].tolist() == ["strings"] * 3
    assert genre[["2", "26"]].isna().all()  # kept because of their scalars
    assert "5" not in genre.index
    assert source.extra["before"] == {"genre": {"Rock": 3, "Hip-Hop": 2, "Folk": 2}}
    assert "before" not in fma.read().extra


def test_no_artist_is_in_two_splits(fma: FmaFolders) -> None:
    table = fma.read("full").table
    assert set(table["split"]) == {"train", "val", "test"}
    assert table.groupby("group")["split"].nunique().max() == 1


def test_licences_are_counted(fma: FmaFolders) -> None:
    assert fma.read().extra["licences"] == {BY: 4, NC: 3, "not stated": 1}


def test_only_empty_cells_are_missing(fma: FmaFolders) -> None:
    replace_text(NC, "NA")(fma)
    assert fma.read().extra["licences"]["NA"] == 1


def test_missing_file_keeps_its_row(fma: FmaFolders) -> None:
    (fma.audio / "000" / "000140.mp3").unlink()
    assert "140" in set(fma.read().table["id"])


def replace_text(old: str, new: str, name: str = "tracks") -> Callable[[FmaFolders], Any]:
    def change(fma: FmaFolders) -> None:
        file = getattr(fma, name)
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


DAMAGES: list[tuple[Callable[[FmaFolders], Any], str]] = [
    (
        lambda fma: fma.tracks.unlink(),
        r"^\S*tracks\.csv: there is no such file; data\.source\.metadata must be the folder from fma_metadata\.zip$",
    ),
    (
        replace_text("genre_top", "genre"),
        r"^\S*tracks\.csv: the header differs from the file in fma_metadata\.zip \(it lacks track\.genre_top\); "
        r"use the original file$",
    ),
    (replace_text("track_id", "id"), r"tracks\.csv: the header differs .* \(row 3 does not begin with track_id\)"),
    (lambda fma: fma.tracks.write_text(""), r"tracks\.csv: the header differs .* \(it lacks set\.subset, "),
    (lambda fma: fma.tracks.write_text("a,b\n1\n"), r"tracks\.csv: the header differs .* \(it lacks set\.subset, "),
    (
        lambda fma: shutil.copy(fma.tracks, fma.echonest),
        r"echonest\.csv: the header differs .* \(it lacks echonest\.audio_features\.valence, echonest\.",
    ),
    (
        replace_text("\n140,", "\nforty,"),
        r"^\S*tracks\.csv: cannot be read \(.*'forty'.*\); unpack fma_metadata\.zip again$",
    ),
    (replace_text("\n140,", "\n,"), r"tracks\.csv: cannot be read \("),
    (replace_text("0.75", "much", "echonest"), r"echonest\.csv: cannot be read \(.*'much'"),
    (
        replace_text('of a bio"', "of a bio"),
        r"tracks\.csv: cannot be read \(",
    ),  # cut off inside a cell, as by a full disk
    (lambda fma: fma.tracks.write_bytes(b"\xff\xfe\x00"), r"tracks\.csv: cannot be read \('utf-8' codec"),
    (lambda fma: write_table(fma.tracks, COLUMNS, {}), r"tracks\.csv: cannot be read \("),
    (
        lambda fma: write_table(fma.tracks, COLUMNS, {20: make_row("large", "training", 4, "", "")}),
        r"^\S*tracks\.csv: no track of the subset large has a label$",
    ),
    (
        replace_text("validation", "dev"),
        r"^\S*tracks\.csv: track 140 has set\.split = 'dev', expected training, validation, test$",
    ),
    (
        replace_text("validation", ""),
        r"tracks\.csv: track 140 has set\.split = nan, expected training, validation, test$",
    ),
    (
        lambda fma: shutil.rmtree(fma.audio),
        r"^\S*fma_large: has none of the 8 files of FMA large, such as \S*/000/000002\.mp3; data\.source\.path must be "
        r"the folder from fma_large\.zip that contains 000, 001, \.\.\.$",
    ),
    (replace_text("\n141,", "\n140,"), r"^fma_large: id '140' occurs more than once"),
    (replace_text("\n140,", "\n2,", "echonest"), r"^fma_large: id '2' occurs more than once"),
    (
        replace_text("0.75", "1.75", "echonest"),
        r"^fma_large: clip '2' has danceability = 1\.75, which is outside the range of the target",
    ),
    (
        lambda fma: write_table(fma.tracks, COLUMNS, {2: make_row("small", "test", 4, "Soul", BY)}),
        r"^fma_large: genre 'Soul' has a single clip \(2\)",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_invalid_files_give_error_message(fma: FmaFolders, damage: Callable[[FmaFolders], Any], message: str) -> None:
    damage(fma)
    with pytest.raises(DataError, match=message) as caught:
        fma.read()
    assert "\n" not in str(caught.value)


def test_invalid_options_give_error_message(fma: FmaFolders) -> None:
    with pytest.raises(
        DataError, match=r"^data\.source\.subset must be one of small, medium, large, full, got 'tiny'$"
    ):
        fma.read("tiny")
    with pytest.raises(DataError, match=r"^classes: the data has no clips of loud; its classes are Folk, Hip-Hop"):
        fma.read("small", classes={"quiet": ["Folk"], "loud": ["Rock"]})


def test_config_instantiates_source(fma: FmaFolders, config: Callable[..., dict[str, Any]]) -> None:
    overrides = (f"data.source.path={fma.audio}", f"data.source.metadata={fma.metadata}")
    composed = config(
        "data=fma", *overrides, "data.source.classes={strings: [Folk, Rock]}", "data.source.subset=medium"
    )
    assert config_errors(composed) == []
    assert composed["data"]["split"]["kind"] == "official"
    source = dict(composed["data"]["source"])
    assert source.pop("_target_") == "etude.data.sources.fma.collection"
    assert collection(**source).targets["genre"]["classes"] == ["strings"]
