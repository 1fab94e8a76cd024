"""Tests of the reader of precomputed frames."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.sources.patreco_arrays import (
    BEAT,
    LONG,
    WrittenArrays,
    save_array,
)

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.audio.log_mel import frames
from etude.data.audio_files import ARRAY_FRONT_END, locate_array, read_precomputed
from etude.data.collection import Collection
from etude.data.sources.demo import HOME
from etude.data.sources.patreco import collection
from etude.errors import DataError


def test_frames_match_written_arrays(genre_arrays: WrittenArrays, genre_collection: Collection) -> None:
    paths = dict(zip(genre_collection.table["id"], genre_collection.table["path"], strict=True))
    lengths = []
    for clip, path in paths.items():
        for front, arrays in ((ARRAY_FRONT_END, genre_arrays.full), (BEAT, genre_arrays.beat)):
            read = genre_collection.reader(locate_array(Path(path), front), front, 0.1)
            assert read.dtype == np.float32
            assert read.flags.c_contiguous
            np.testing.assert_array_equal(read, arrays[clip].T.astype(np.float32))
            lengths.append(len(read))
    assert len([length for length in lengths if 1291 <= length <= 1293]) == LONG
    assert len([length for length in lengths if 26 <= length <= 129]) == LONG


def test_frames_of_real_clips_are_read(tmp_path: Path) -> None:
    clips = [sorted((HOME / "clips" / genre).iterdir())[0] for genre in ("metal", "orchestral")]
    lines, arrays = ["Id\tGenre"], {}
    for index, clip in enumerate(clips):
        arrays[str(index)] = frames(decode(clip, ARRAY_FRONT_END.rate), ARRAY_FRONT_END)
        save_array(tmp_path / "real", "train", str(index), arrays[str(index)].T.astype(np.float64))
        save_array(tmp_path / "real", "train", f"{index}1", arrays[str(index)].T.astype(np.float64)[:, ::-1])
        lines += [f"{index}.fused.full.npy.gz\t{clip.parent.name}", f"{index}1.fused.full.npy\t{clip.parent.name}"]
    (tmp_path / "real" / "train_labels.txt").write_text("\n".join(lines))
    source = collection(str(tmp_path / "real"))
    assert source.targets["genre"]["classes"] == ["metal", "orchestral"]
    for row in source.table[source.table["id"].isin(arrays)].itertuples():
        np.testing.assert_array_equal(source.reader(Path(row.path), ARRAY_FRONT_END, 5.0), arrays[row.id])


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
    path = save_array(tmp_path, "train", "1", np.zeros((140, 9)))
    for sync in ("none", "beat"):
        with pytest.raises(DataError, match=message):
            read_precomputed(path, replace(ARRAY_FRONT_END, sync=sync, **changed), 0.0)


def write_zip(path: Path) -> None:
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
        (write_zip, "does not contain an array of numbers"),
        (lambda path: path.write_bytes(b"PK\3\4"), "cannot be read as an array of numbers"),
        (lambda path: path.unlink(), "there is no such file"),
    ],
)
def test_invalid_array_gives_reason(tmp_path: Path, write: Callable[[Path], Any], message: str) -> None:
    path = save_array(tmp_path, "train", "1", np.zeros((140, 9)))
    assert read_precomputed(path, ARRAY_FRONT_END, 0.2).shape == (9, 140)
    write(path)
    with pytest.raises(DecodeError, match=f"^{path}: {message}"):
        read_precomputed(path, ARRAY_FRONT_END, 0.2)


def test_minimum_length_is_ignored_for_beats(tmp_path: Path) -> None:
    path = save_array(tmp_path / "mine", "train", "1", np.zeros((140, 2000)))
    save_array(tmp_path / "mine_beat", "train", "1", np.zeros((140, 1)))
    assert read_precomputed(locate_array(path, BEAT), BEAT, 30.0).shape == (1, 140)
    save_array(tmp_path / "mine_beat", "train", "1", np.zeros((140, 0)))
    with pytest.raises(DecodeError, match="mine_beat"):
        read_precomputed(locate_array(path, BEAT), BEAT, 0.0)


def test_integers_and_other_floats_are_read(tmp_path: Path) -> None:
    for kind in (np.float16, np.float32, np.int16, ">f8"):
        values = np.arange(140 * 2).reshape(140, 2).astype(kind)
        np.testing.assert_array_equal(
            read_precomputed(save_array(tmp_path, "train", "1", values), ARRAY_FRONT_END, 0.0), values.T
        )
