"""Tests of the search for audio files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.data import audio_files
from etude.data.audio_files import search_audio_files
from etude.data.collection import slug
from etude.data.sources.folder import collection
from etude.errors import DataError


def write_files(home: Path, *names: str) -> Path:
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return home


def create_link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("links are not allowed here")


def find_names(home: Path) -> tuple[list[str], dict[str, str]]:
    files, skipped_items = search_audio_files(home)
    return [file.relative_to(home).as_posix() for file in files], {item.item: item.reason for item in skipped_items}


def test_linked_folder_is_followed(tmp_path: Path) -> None:
    write_files(tmp_path, "albums/one/a.wav", "albums/one/cd2/b.flac", "rock/c.wav")
    create_link(tmp_path / "rock" / "album", tmp_path / "albums" / "one")
    assert find_names(tmp_path / "rock") == (["album/a.wav", "album/cd2/b.flac", "c.wav"], {})


def test_circular_link_is_listed(tmp_path: Path) -> None:
    home = write_files(tmp_path / "music", "rock/a.wav", "rock/deep/b.wav")
    create_link(home / "rock" / "deep" / "up", home)
    create_link(home / "rock" / "deep" / "out", tmp_path)
    create_link(home / "rock" / "again", home / "rock" / "deep")
    create_link(home / "rock" / "self", home / "rock" / "self")
    files, reasons = find_names(home)
    assert files == ["rock/a.wav", "rock/deep/b.wav"]
    circle = "link to a folder that was searched before or contains the link"
    assert {name: reasons[name] for name in ("rock/deep/up", "rock/deep/out", "rock/again")} == dict.fromkeys(
        ("rock/deep/up", "rock/deep/out", "rock/again"), circle
    )
    assert set(reasons) == {"rock/deep/up", "rock/deep/out", "rock/again", "rock/self"}


def test_class_folder_that_links_to_all_classes_is_skipped(tmp_path: Path) -> None:
    home = write_files(tmp_path / "music", "rock/a.wav", "rock/b.wav", "jazz/c.wav", "jazz/d.wav")
    create_link(home / "all", home)
    source = collection(str(home))
    assert source.targets["genre"]["classes"] == ["jazz", "rock"]
    assert ("all", "link to a folder that contains the link") in [
        (item.item, item.reason) for item in source.skipped_items
    ]


def test_other_files_are_listed_with_reason(tmp_path: Path) -> None:
    write_files(
        tmp_path, "a.wav", "b.WEBM", "c.oga", "d.caf", "e.aifc", "f.wv", "notes.txt", "cover.jpg", "README", ".x.wav"
    )
    write_files(tmp_path, ".git/g.wav")
    create_link(tmp_path / "gone.wav", tmp_path / "nowhere.wav")
    files, reasons = find_names(tmp_path)
    assert files == ["a.wav", "b.WEBM", "c.oga", "d.caf", "e.aifc", "f.wv"]
    assert reasons == {
        "notes.txt": "suffix .txt is not an audio format",
        "cover.jpg": "suffix .jpg is not an audio format",
        "README": "name has no suffix",
        ".x.wav": "hidden: the name begins with a dot",
        ".git": "hidden: the name begins with a dot",
        "gone.wav": "broken link",
    }


def test_unreadable_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write_files(tmp_path / "music", "rock/a.wav", "rock/b.wav", "rock/private/c.wav", "jazz/d.wav", "jazz/e.wav")

    def scandir(path: Any) -> Iterator[Any]:  # the user who runs the tests may have all permissions
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied")
        return original(path)

    original = os.scandir
    monkeypatch.setattr(audio_files.os, "scandir", scandir)
    source = collection(str(home))
    assert len(source.table) == 4
    assert [(item.item, item.reason) for item in source.skipped_items] == [
        ("rock/private", "folder cannot be read (Permission denied)")
    ]


def test_unreadable_root_folder_gives_error_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Any) -> Iterator[Any]:
        raise PermissionError(13, "Permission denied")

    write_files(tmp_path, "rock/a.wav")
    monkeypatch.setattr(audio_files.os, "scandir", scandir)
    with pytest.raises(DataError, match="cannot be read"):
        collection(str(tmp_path))


def test_long_names_are_cut_and_stay_distinct() -> None:
    name = "古" * 82
    assert len(f".{slug(name)}-01234567.stale0.lock".encode()) < 255
    assert slug(name) != slug(name + "典") and slug(name) == slug(name)
    assert slug("My Music") == "my-music"
    assert slug("Cafe\N{COMBINING ACUTE ACCENT}") == slug("Café")
