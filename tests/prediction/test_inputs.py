"""Files, folders and lists name sounds, each once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etude.errors import UserError
from etude.prediction.inputs import files


def test_folders_are_searched_and_lists_go_on_from_where_they_are(sounds: Path, tmp_path: Path) -> None:
    names = [path.relative_to(sounds).as_posix() for path in files([sounds])]
    assert names == sorted(names)
    assert {"deep/b.ogg", "broken.mp3", "song.flac"} <= set(names)
    assert not {"notes.md", "deep/.hidden/c.ogg"} & set(names)
    (tmp_path / "here.wav").touch()
    (tmp_path / "list.csv").write_text(f"title,path\nx,here.wav\ny,{sounds / 'a.ogg'}\nz,gone.mp3\n")
    (tmp_path / "list.m3u").write_text("#EXTM3U\n\nhere.wav\r\nother/gone.ogg\n")
    found = files([tmp_path / "list.csv", str(sounds / "a.ogg"), tmp_path / "list.m3u"])
    assert found == [tmp_path / "here.wav", sounds / "a.ogg", tmp_path / "gone.mp3", tmp_path / "other" / "gone.ogg"]


def test_what_names_nothing_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,genre\na.wav,rock\n")
    (tmp_path / "list.txt").write_text("# nothing\n")
    for word, said in (
        ("list.csv", "has no column path; it has file, genre"),
        ("list.txt", "names no files"),
        ("gone.wav", "there is no such sound file, folder or list"),
        (".", "has no sound files; looked for .wav"),
    ):
        with pytest.raises(UserError, match=said):
            files([tmp_path / word])
    with pytest.raises(UserError, match="no sound was named"):
        files([])


def test_samples_are_no_paths() -> None:
    with pytest.raises(UserError, match="sounds are named by paths of files, got float64; write samples to a file"):
        files(np.zeros(3))  # type: ignore[arg-type]
