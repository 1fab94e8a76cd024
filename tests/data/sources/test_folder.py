"""Tests of the source of folders with a subfolder for each class."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.data.collection import Collection
from etude.data.sources.folder import collection
from etude.errors import DataError

SUFFIXES = [
    "wav",
    "flac",
    "ogg",
    "oga",
    "opus",
    "mp3",
    "m4a",
    "aac",
    "aiff",
    "aif",
    "aifc",
    "au",
    "caf",
    "wma",
    "mp4",
    "webm",
    "wv",
]


def write_files(home: Path, *names: str) -> str:
    """Create empty files, because a collection does not read them."""
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return str(home)


def genres(source: Collection) -> dict[str, str]:
    return dict(zip(source.table["id"], source.table["genre"], strict=True))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "My Music"


def test_each_subfolder_is_class_with_audio_files(home: Path) -> None:
    path = write_files(
        home, "rock/a.wav", "rock/live/1999/b.ogg", "jazz/a.mp3", "jazz/c.flac", "jazz/notes.txt", "jazz/d"
    )
    source = collection(path)
    assert genres(source) == {"jazz/a": "jazz", "jazz/c": "jazz", "rock/a": "rock", "rock/live/1999/b": "rock"}
    assert source.targets == {"genre": {"kind": "label", "classes": ["jazz", "rock"], "note": ""}}
    assert source.name == "my-music"
    assert [Path(p).relative_to(home).as_posix() for p in source.table["path"]] == [
        "jazz/a.mp3", "jazz/c.flac", "rock/a.wav", "rock/live/1999/b.ogg"
    ]  # fmt: skip
    assert source.table["group"].isna().all()
    assert "artist" in source.note
    assert source.extra == {}


@pytest.mark.parametrize("suffix", [*SUFFIXES, *map(str.upper, SUFFIXES)])
def test_audio_files_are_recognised_by_suffix(home: Path, suffix: str) -> None:
    ids = collection(write_files(home, *(f"{genre}/{i}.{suffix}" for genre in "xy" for i in range(2)))).table["id"]
    assert ids.tolist() == ["x/0", "x/1", "y/0", "y/1"]


def test_hidden_files_are_skipped(home: Path) -> None:
    visible = ("x/a.wav", "x/b.wav", "y/a.wav", "y/b.wav")
    source = collection(
        write_files(home, *visible, "x/._a.wav", "x/.trash/c.wav", ".z/a.wav", ".z/b.wav", "x/d.wav.part")
    )
    assert source.table["id"].tolist() == [name.removesuffix(".wav") for name in visible]


def test_suffix_is_kept_if_ids_would_be_equal(home: Path) -> None:
    names = ("x/a.wav", "x/a.mp3", "x/a.wav.flac", "x/b.v2.wav", "y/a.wav", "y/c.wav")
    source = collection(write_files(home, *names))
    assert sorted(source.table["id"]) == sorted(["x/a.wav", "x/a.mp3", "x/a.wav.flac", "x/b.v2", "y/a", "y/c"])


def test_classes_are_merged_and_others_skipped(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write_files(home, "rock/a.wav", "punk/a.wav", "jazz/a.wav", "jazz/b.wav", "talk/a.wav")
    source = collection(path, {"loud": ["rock", "punk"], "quiet": ["jazz"]})
    assert genres(source) == {"jazz/a": "quiet", "jazz/b": "quiet", "punk/a": "loud", "rock/a": "loud"}
    assert source.extra["before"] == {"genre": {"jazz": 2, "punk": 1, "rock": 1, "talk": 1}}
    assert "1 item skipped (class is not named in data.source.classes: 1, such as talk/a)" in caplog.text
    with pytest.raises(DataError, match="the data has no clips of soft"):
        collection(path, {"loud": ["rock", "punk"], "soft": ["ambient"]})


def test_skipped_items_are_logged(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("x/a.wav", "x/b.wav", "y/a.wav", "y/b.wav", "covers/front.jpg", "intro.wav", "README.md")
    assert len(collection(write_files(home, *names)).table) == 4
    assert "4 items skipped" in caplog.text
    assert "folder has no audio files: 1, such as covers" in caplog.text
    assert "audio file is in no class folder: 1, such as intro.wav" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "there is no such folder"),
        (("a.wav", "b.wav"), "has no subfolders"),
        (("x/a.txt", "y/b.jpg"), "has no audio files in its 2 subfolders"),
        (("x/a.wav", "x/b.wav", "y/b.jpg"), "has the single class 'x', but at least two are required"),
    ],
)
def test_invalid_folder_is_refused(home: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=f"^{home}: {message}; expected a folder for each class with audio files in it"):
        collection(write_files(home, *names))


def test_class_with_single_clip_is_refused(home: Path) -> None:
    with pytest.raises(DataError, match=r"^my-music: genre 'y' has a single clip \(y/c\)"):
        collection(write_files(home, "x/a.wav", "x/b.wav", "y/c.wav"))


def test_config_instantiates_source(home: Path, config: Callable[..., dict[str, Any]]) -> None:
    path = write_files(home, "x/a.wav", "x/b.wav", "y/a.wav", "y/b.wav")
    node = config("data=folder", f"data.source.path='{path}'")["data"]
    assert len(collection(**{key: value for key, value in node["source"].items() if key != "_target_"}).table) == 4
    assert node["split"]["kind"] == "stratified"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
def test_name_that_is_not_utf8_is_skipped_and_logged(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_files(home, "rock/a.wav", "rock/b.wav", "jazz/a.wav", "jazz/b.wav")
    Path(os.fsdecode(os.fsencode(home / "jazz") + b"/caf\xe9.wav")).touch()
    assert sorted(genres(collection(path))) == ["jazz/a", "jazz/b", "rock/a", "rock/b"]
    assert "name is not UTF-8; rename it: 1, such as jazz/caf" in caplog.text
