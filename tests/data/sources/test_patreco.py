"""Tests of the source of PatReco arrays."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.audio.log_mel import LogMelChroma, frames
from etude.data.collection import Collection
from etude.data.datamodule import build_datamodule
from etude.data.readers import ARRAY_FRONT_END, locate_array, read_precomputed
from etude.data.sources.demo import HOME
from etude.data.sources.patreco import collection
from etude.errors import DataError

# Clips per original class (train, test), about a twentieth of the real counts.
COUNTS = {
    "Rock": (12, 3), "Psych-Rock": (6, 1), "Post-Rock": (3, 1), "Folk": (10, 3), "Psych-Folk": (6, 1),
    "Electronic": (10, 3), "Chiptune": (6, 1), "Metal": (10, 3), "Punk": (6, 1), "Trip-Hop": (7, 2), "Pop": (8, 2),
    "Hip-Hop": (8, 2), "Classical": (8, 2), "Blues": (8, 2), "Jazz": (8, 2), "Indie-Rock": (9, 2), "Post-Punk": (5, 1),
    "Soundtrack": (9, 2), "International": (8, 2), "Old-Time": (6, 2),
}  # fmt: skip
DROPPED = {"Indie-Rock", "Post-Punk", "Soundtrack", "International", "Old-Time"}
DOCUMENTED = {  # counts of the ten classes in the real data
    "Rock": (415, 103), "Electronic": (320, 80), "Folk": (320, 80), "Metal": (313, 78), "Blues": (160, 40),
    "Classical": (160, 40), "Hip-Hop": (160, 40), "Jazz": (160, 40), "Pop": (160, 40), "Trip-Hop": (137, 34),
}  # fmt: skip
MERGED = {name: (round(train / 20), round(test / 20)) for name, (train, test) in DOCUMENTED.items()}
BEAT = replace(ARRAY_FRONT_END, sync="beat")
FEW = 8  # frames of most clips; the first LONG clips have 1291 to 1293 frames, and 26 to 129 beats
LONG = 4


@dataclass
class WrittenArrays:
    """Folder of arrays and the values that were written."""

    home: Path
    genre: dict[str, str]
    split: dict[str, str]
    full: dict[str, np.ndarray]
    beat: dict[str, np.ndarray]

    def collection(self, config: Callable[..., dict[str, Any]]) -> Collection:
        """Return the collection with the classes of the config."""
        return collection(str(self.home), config("data=patreco", "data.source.path=x")["data"]["source"]["classes"])


def array(rng: np.random.Generator, length: int) -> np.ndarray:
    """Return a float64 array (140, T) with mel bands in [-80, 0] dB and pitch classes in [0, 1]."""
    mel = rng.uniform(-80, 0, (128, length))
    mel.flat[0] = 0.0
    return np.concatenate([mel, rng.uniform(0, 1, (12, length))])


def save(home: Path, split: str, clip: str, values: np.ndarray) -> Path:
    path = home / split / f"{clip}.fused.full.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def row_name(clip: str, split: str, beat: bool, zipped: bool) -> str:
    """Return the name of a clip in the rows of a label file."""
    suffix = "beatsync.fused" if beat else "full.fused" if split == "test" else "fused.full"
    return f"{clip}.{suffix}.npy" + ".gz" * zipped


@pytest.fixture(scope="module")
def genres(tmp_path_factory: pytest.TempPathFactory) -> WrittenArrays:
    """Write twenty classes to both folders, with unordered ids of which some begin with a zero."""
    rng = np.random.default_rng(0)
    written = WrittenArrays(tmp_path_factory.mktemp("data") / "fma_genre_spectrograms", {}, {}, {}, {})
    rows = [
        (split, genre)
        for genre, counts in COUNTS.items()
        for split, count in zip(("train", "test"), counts, strict=True)
        for _ in range(count)
    ]
    ids = rng.choice(99_999, len(rows), replace=False)
    for index in rng.permutation(len(rows)):
        clip, (split, genre) = f"{ids[index]:05d}" if index % 7 == 0 else str(ids[index]), rows[index]
        written.genre[clip], written.split[clip] = genre, split
        long = len(written.full) < LONG
        written.full[clip] = array(rng, int(rng.integers(1291, 1294)) if long else FEW)
        written.beat[clip] = array(rng, int(rng.integers(26, 130)) if long else 3)
    beats = written.home.with_name(written.home.name + "_beat")
    for home, arrays in ((written.home, written.full), (beats, written.beat)):
        for clip, values in arrays.items():
            save(home, written.split[clip], clip, values)
        for split in ("train", "test"):
            lines = [f"{row_name(clip, split, home is beats, index % 3 > 0)}\t{written.genre[clip]}"
                     for index, clip in enumerate(written.split) if written.split[clip] == split]  # fmt: skip
            (home / f"{split}_labels.txt").write_text("\n".join(["Id\tGenre", *lines]) + "\n")
    return written


@pytest.fixture(scope="module")
def twenty(genres: WrittenArrays) -> Collection:
    return collection(str(genres.home))


def by_class(source: Collection) -> dict[str, tuple[int, int]]:
    counts = source.table.groupby(["genre", "split"]).size()
    return {name: (counts[name, "train"], counts[name, "test"]) for name in source.targets["genre"]["classes"]}


def test_without_merging_each_clip_occurs_once(genres: WrittenArrays, twenty: Collection) -> None:
    assert by_class(twenty) == COUNTS
    assert dict(zip(twenty.table["id"], twenty.table["genre"], strict=True)) == genres.genre
    assert dict(zip(twenty.table["id"], twenty.table["split"], strict=True)) == genres.split
    assert len(twenty.table) == len(genres.genre)
    assert "before" not in twenty.extra


def test_twenty_classes_become_ten(genres: WrittenArrays, config: Callable[..., dict[str, Any]]) -> None:
    ten = genres.collection(config)
    assert len(COUNTS) == 20
    assert ten.targets["genre"]["classes"] == sorted(MERGED)
    assert by_class(ten) == MERGED
    kept = {clip for clip, genre in genres.genre.items() if genre not in DROPPED}
    assert len(ten.table) == len(kept)
    assert set(ten.table["id"]) == kept
    assert ten.extra["before"]["genre"] == {name: sum(counts) for name, counts in COUNTS.items()}
    assert ten.table.index.tolist() == list(range(len(kept)))
    old = ten.table["id"].map(genres.genre)
    assert set(ten.table["genre"][old.isin(["Punk", "Metal"])]) == {"Metal"}
    assert set(ten.table["genre"][old == "Chiptune"]) == {"Electronic"}
    assert set(ten.table["genre"][old == "Trip-Hop"]) == {"Trip-Hop"}


def test_dropped_clips_are_counted_in_log(
    genres: WrittenArrays, config: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    genres.collection(config)
    dropped = sum(sum(COUNTS[name]) for name in DROPPED)
    assert f"{dropped} items skipped (class is not named in data.source.classes: {dropped}, such as " in caplog.text
    assert "has no label" not in caplog.text


def test_unknown_groups_are_missing_and_noted(twenty: Collection) -> None:
    assert twenty.table["group"].isna().all()
    assert "artist" in twenty.note
    assert twenty.name == "fma_genre_spectrograms"
    assert all(isinstance(clip, str) for clip in twenty.table["id"])
    assert any(clip.startswith("0") for clip in twenty.table["id"])


def test_frames_match_written_arrays(genres: WrittenArrays, twenty: Collection) -> None:
    paths = dict(zip(twenty.table["id"], twenty.table["path"], strict=True))
    lengths = []
    for clip, path in paths.items():
        for front, arrays in ((ARRAY_FRONT_END, genres.full), (BEAT, genres.beat)):
            read = twenty.reader(locate_array(Path(path), front), front, 0.1)
            assert read.dtype == np.float32
            assert read.flags.c_contiguous
            np.testing.assert_array_equal(read, arrays[clip].T.astype(np.float32))
            lengths.append(len(read))
    assert len([length for length in lengths if 1291 <= length <= 1293]) == LONG
    assert len([length for length in lengths if 26 <= length <= 129]) == LONG


def test_folder_of_beats_gives_same_collection(genres: WrittenArrays, twenty: Collection) -> None:
    beats = collection(str(genres.home) + "_beat")
    assert beats.table.equals(twenty.table)
    assert beats.name == twenty.name


def test_folder_of_beats_is_sufficient(tmp_path: Path) -> None:
    home = tmp_path / "mine_beat"
    for clip in ("7", "8", "9", "10"):
        save(home, "train", clip, np.zeros((140, 30)))
    rows = "Id\tGenre\r\n7\tRock\r\n8\tRock\r\n9\tJazz\r\n10\tJazz\r\n"  # with other line breaks
    (home / "train_labels.txt").write_bytes(rows.encode("utf-8-sig"))
    source = collection(str(tmp_path / "mine_beat/"))
    assert source.table["id"].tolist() == ["7", "8", "9", "10"]
    assert read_precomputed(locate_array(Path(source.table["path"][0]), BEAT), BEAT, 30.0).shape == (30, 140)
    with pytest.raises(DecodeError, match=r"mine/train/7\.fused\.full\.npy: there is no such file$"):
        read_precomputed(Path(source.table["path"][0]), ARRAY_FRONT_END, 0.0)


def test_frames_of_real_clips_are_read(tmp_path: Path) -> None:
    clips = [sorted((HOME / "clips" / genre).iterdir())[0] for genre in ("metal", "orchestral")]
    lines, arrays = ["Id\tGenre"], {}
    for index, clip in enumerate(clips):
        arrays[str(index)] = frames(decode(clip, ARRAY_FRONT_END.rate), ARRAY_FRONT_END)
        save(tmp_path / "real", "train", str(index), arrays[str(index)].T.astype(np.float64))
        save(tmp_path / "real", "train", f"{index}1", arrays[str(index)].T.astype(np.float64)[:, ::-1])
        lines += [f"{index}.fused.full.npy.gz\t{clip.parent.name}", f"{index}1.fused.full.npy\t{clip.parent.name}"]
    (tmp_path / "real" / "train_labels.txt").write_text("\n".join(lines))
    source = collection(str(tmp_path / "real"))
    assert source.targets["genre"]["classes"] == ["metal", "orchestral"]
    for row in source.table[source.table["id"].isin(arrays)].itertuples():
        np.testing.assert_array_equal(source.reader(Path(row.path), ARRAY_FRONT_END, 5.0), arrays[row.id])


@pytest.fixture
def affect(tmp_path: Path) -> Path:
    """Write twelve clips with ratings and five without."""
    rng = np.random.default_rng(1)
    home = tmp_path / "multitask_dataset"
    lines = ["Id,valence,energy,danceability"]
    for clip in range(12):
        save(home, "train", str(clip), array(rng, FEW))
        lines.append(f"{clip},{clip / 11},{0.5},{1 - clip / 11}")
    for clip in range(100, 105):
        save(home, "test", str(clip), array(rng, FEW))
    (home / "train_labels.txt").write_text("\n".join(lines) + "\n")
    return home


def test_ratings_are_scalars_and_unrated_clips_are_skipped(
    affect: Path, config: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node = config("data=patreco_affect", f"data.source.path={affect}", "task=multitask")["data"]
    source = collection(**{key: value for key, value in node["source"].items() if key != "_target_"})
    assert "5 items skipped (array has no row in a label file: 5, such as test/100.fused.full.npy)" in caplog.text
    assert source.table["id"].tolist() == [str(clip) for clip in range(12)]
    assert set(source.table["split"]) == {"train"}
    assert list(source.targets) == ["valence", "energy", "danceability"]
    assert all((t["kind"], t["low"], t["high"]) == ("scalar", 0.0, 1.0) for t in source.targets.values())
    np.testing.assert_array_equal(source.table["valence"], np.arange(12) / 11)
    np.testing.assert_array_equal(source.table["danceability"], 1 - np.arange(12) / 11)
    assert source.extra == {}
    assert (node["split"]["kind"], node["split"]["stratify"]) == ("stratified", "valence")
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
def test_invalid_row_is_named(affect: Path, line: str, message: str) -> None:
    with (affect / "train_labels.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        collection(str(affect))


def test_one_rating_can_be_missing(affect: Path) -> None:
    with (affect / "train_labels.txt").open("a") as file:
        file.write("13,,0.5,0.5\n14,,,\n\n")
    table = collection(str(affect)).table
    assert table["id"].tolist()[-1] == "13"
    assert table["valence"].isna().sum() == 1


def test_id_in_both_splits_is_refused(genres: WrittenArrays, tmp_path: Path) -> None:
    home = tmp_path / "twice"
    for split in ("train", "test"):
        save(home, split, "5", genres.full[next(iter(genres.full))])
        (home / f"{split}_labels.txt").write_text("Id\tGenre\n5.fused.full.npy\tRock\n")
    with pytest.raises(DataError, match="id '5' occurs more than once"):
        collection(str(home))


@pytest.mark.parametrize("text", ["", "1.npy\tRock\n", "Id,valence\n1,0.5\n", "Id\tArtist\n"])
def test_label_files_are_recognised_by_their_header(affect: Path, text: str) -> None:
    (affect / "test_labels.txt").write_text(text)
    if text.startswith("Id,genre"):  # identified by the column names, with any delimiter
        with pytest.raises(DataError, match="one of its label files has genres and the other ratings"):
            collection(str(affect))
    else:
        with pytest.raises(
            DataError, match=r"test_labels\.txt: the header must be Id and Genre, separated by a tab, or Id,val"
        ):
            collection(str(affect))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.source\.path: there is no folder .*; unpack Kaggle's geoparslp"):
        collection(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"has no train_labels\.txt; expected fma_genre_spectrograms or multitask"):
        collection(str(tmp_path))
    (tmp_path / "train_labels.txt").write_bytes(b"Id\tGenre\n\xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read"):
        collection(str(tmp_path))


def test_missing_array_keeps_row_unless_all_are_missing(affect: Path) -> None:
    (affect / "train" / "3.fused.full.npy").unlink()
    assert "3" in collection(str(affect)).table["id"].tolist()
    for path in (affect / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"has none of the 12 arrays of its label files, for example .*npy$"):
        collection(str(affect))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chroma": "stft"}, r"feature\.front\.chroma=cqt; use feature/front=patreco$"),
        ({"tuning": 0.0}, r"feature\.front\.tuning=null; "),
        ({"n_mels": 64, "hop_length": 256}, r"with feature\.front\.hop_length=512, feature\.front\.n_mels=128; "),
        *(
            ({key: value}, rf"feature\.front\.{key}=")
            for key, value in {
                "rate": 44100, "n_fft": 1024, "n_chroma": 24, "fmin": 20.0, "fmax": 8000.0, "top_db": 60.0,
                "ref": "one",
            }.items()
        ),
    ],
)  # fmt: skip
def test_other_front_end_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = save(tmp_path, "train", "1", np.zeros((140, 9)))
    for sync in ("none", "beat"):
        with pytest.raises(DataError, match=message):
            read_precomputed(path, replace(ARRAY_FRONT_END, sync=sync, **changed), 0.0)


def test_config_sets_front_end(config: Callable[..., dict[str, Any]]) -> None:
    for name in ("patreco", "patreco_affect"):
        for override in ("feature=mel", "feature=chroma", "feature=fused"):
            node = config(f"data={name}", "data.source.path=x", override)["feature"]["front"]
            assert LogMelChroma(**{key: value for key, value in node.items() if key != "_target_"}) == ARRAY_FRONT_END
    node = config("data=patreco", "data.source.path=x", "feature/front=default")["feature"]["front"]
    assert node["chroma"] == "stft"  # another front end is composed, and the reader refuses it


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", path.name)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.save(path, np.full((140, 9), np.nan)), "contains NaN or infinite values"),
        (lambda path: np.save(path, np.full((140, 9), np.inf)), "contains NaN or infinite values"),
        (lambda path: np.save(path, np.full((140, 9), 1e300)), "contains NaN or infinite values"),
        (lambda path: np.save(path, np.zeros((128, 9))), r"has shape \(128, 9\), expected \(140, T\)"),
        (lambda path: np.save(path, np.zeros((9, 140))), r"has shape \(9, 140\)"),
        (lambda path: np.save(path, np.zeros((1, 140, 9))), r"has shape \(1, 140, 9\)"),
        (lambda path: np.save(path, np.full((140, 9), "a")), "does not contain an array of numbers"),
        (
            lambda path: np.save(path, np.full((140, 9), None), allow_pickle=True),
            "cannot be read as an array of numbers",
        ),
        (lambda path: np.save(path, np.zeros((140, 3))), r"is too short \(0\.07 s, at least 0\.2 s are needed\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read as an array of numbers"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"(140, 9)", b"(140, 9,")), "cannot be read as an"),
        (lambda path: path.write_bytes(b""), "cannot be read as an array of numbers"),
        (lambda path: path.write_text("no array"), "cannot be read as an array of numbers"),
        (zipped, "does not contain an array of numbers"),
        (lambda path: path.write_bytes(b"PK\3\4"), "cannot be read as an array of numbers"),
        (lambda path: path.unlink(), "there is no such file"),
    ],
)
def test_invalid_array_gives_reason(tmp_path: Path, write: Callable[[Path], Any], message: str) -> None:
    path = save(tmp_path, "train", "1", np.zeros((140, 9)))
    assert read_precomputed(path, ARRAY_FRONT_END, 0.2).shape == (9, 140)
    write(path)
    with pytest.raises(DecodeError, match=f"^{path}: {message}"):
        read_precomputed(path, ARRAY_FRONT_END, 0.2)


def test_minimum_length_is_ignored_for_beats(tmp_path: Path) -> None:
    path = save(tmp_path / "mine", "train", "1", np.zeros((140, 2000)))
    save(tmp_path / "mine_beat", "train", "1", np.zeros((140, 1)))
    assert read_precomputed(locate_array(path, BEAT), BEAT, 30.0).shape == (1, 140)
    save(tmp_path / "mine_beat", "train", "1", np.zeros((140, 0)))
    with pytest.raises(DecodeError, match="mine_beat"):
        read_precomputed(locate_array(path, BEAT), BEAT, 0.0)


def test_integers_and_other_floats_are_read(tmp_path: Path) -> None:
    for kind in (np.float16, np.float32, np.int16, ">f8"):
        values = np.arange(140 * 2).reshape(140, 2).astype(kind)
        np.testing.assert_array_equal(
            read_precomputed(save(tmp_path, "train", "1", values), ARRAY_FRONT_END, 0.0), values.T
        )


def test_both_collections_train_one_network(
    genres: WrittenArrays, affect: Path, tmp_path: Path, config: Callable[..., dict[str, Any]]
) -> None:
    common = next(clip for clip, genre in genres.genre.items() if genre == "Rock")  # a clip in both collections
    save(affect, "train", common, genres.full[common])
    with (affect / "train_labels.txt").open("a") as file:
        file.write(f"{common},0.25,0.5,0.75\n")
    where = [f"data.source.sources.{name}.path={path}" for name, path in (("genre", genres.home), ("affect", affect))]
    data = build_datamodule(
        config("data=patreco_joint", *where, f"data.packs={tmp_path}", "data.min_seconds=0", "task=joint")
    )
    data.setup()
    index = data.pack.index.set_index("id")
    assert set(data.targets) == {"genre", "valence", "energy", "danceability"}
    assert len(index) == genres.collection(config).table["id"].nunique() + 12
    assert index["genre"].notna().sum() == len(index) - 12
    assert index["valence"].notna().sum() == 13
    assert index.loc[common, ["genre", "valence", "danceability"]].tolist() == ["Rock", 0.25, 0.75]
    for split in ("train", "val", "test"):
        assert {"genre", "valence"} <= set(data.pack.index[data.splits == split].dropna(axis=1, how="all").columns)


def test_unused_files_and_rows_are_listed(affect: Path) -> None:
    (affect / "train" / "notes.txt").touch()
    with (affect / "train_labels.txt").open("a") as file:
        file.write("987654,,,\n")
    reasons = {item.item: item.reason for item in collection(str(affect)).skipped_items}
    assert reasons["987654"] == "clip has no label"
    assert reasons["train/notes.txt"] == "name does not end in .fused.full.npy"
    assert reasons["test/100.fused.full.npy"] == "array has no row in a label file"
