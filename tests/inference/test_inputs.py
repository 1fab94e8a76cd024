"""Tests of the search for audio files in folders and lists."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from etude.errors import UserError
from etude.inference import inputs
from etude.inference.inputs import find_audio_files


def test_folders_are_searched_and_paths_in_lists_are_relative_to_the_list(audio_folder: Path, tmp_path: Path) -> None:
    names = [path.relative_to(audio_folder).as_posix() for path in find_audio_files([audio_folder])]
    assert names == sorted(names)
    assert {"deep/b.ogg", "broken.mp3", "song.flac"} <= set(names)
    assert not {"notes.md", "deep/.hidden/c.ogg"} & set(names)
    (tmp_path / "here.wav").touch()
    (tmp_path / "list.csv").write_text(f"title,path\nx,here.wav\ny,{audio_folder / 'a.ogg'}\nz,gone.mp3\n")
    (tmp_path / "list.m3u").write_text("#EXTM3U\n\nhere.wav\r\nother/gone.ogg\n")
    files = find_audio_files([tmp_path / "list.csv", str(audio_folder / "a.ogg"), tmp_path / "list.m3u"])
    assert files == [
        tmp_path / "here.wav",
        audio_folder / "a.ogg",
        tmp_path / "gone.mp3",
        tmp_path / "other" / "gone.ogg",
    ]


def test_invalid_inputs_are_reported(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,genre\na.wav,rock\n")
    (tmp_path / "list.txt").write_text("# nothing\n")
    for name, message in (
        ("list.csv", "has no column named 'path'; its columns are file, genre"),
        ("list.txt", "lists no files; add a path per line or row"),
        ("gone.wav", "there is no such audio file, folder or list"),
        (".", "has no audio files; looked for .wav"),
    ):
        with pytest.raises(UserError, match=message):
            find_audio_files([tmp_path / name])
    with pytest.raises(UserError, match="no audio files are given"):
        find_audio_files([])


def test_samples_are_refused() -> None:
    with pytest.raises(UserError, match="audio must be given as paths, got float64; write samples to a file"):
        find_audio_files(np.zeros(3))  # type: ignore[arg-type]


def test_entries_of_playlists_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    names = ("my song.wav", "100%.wav", "a%20b.wav", "sub/x.wav", "~temp.wav", "home/y.wav", "a#b.wav")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    address = f"file://{tmp_path.as_posix()}"
    lines = {
        "my%20song.wav": "my song.wav",
        f"{address}/my%20song.wav": "my song.wav",
        address.replace("file://", "file://localhost") + "/a%23b.wav": "a#b.wav",
        f"{address}/a#b.wav": "a#b.wav",
        "100%.wav": "100%.wav",
        "a%20b.wav": "a%20b.wav",
        "sub\\x.wav": "sub/x.wav",
        "~temp.wav": "~temp.wav",
        "~/y.wav": "home/y.wav",
        "~nobody_of_that_name/z.wav": "~nobody_of_that_name/z.wav",
        "C:\\Music\\gone.mp3": "C:\\Music\\gone.mp3",
    }
    for line, name in lines.items():
        (tmp_path / "list.m3u").write_text(f"#EXTM3U\n{line}\n", encoding="utf-8")
        assert find_audio_files([tmp_path / "list.m3u"]) == [tmp_path / name], line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encoding_of_a_playlist_is_detected(tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "list.m3u8").write_bytes("Café.wav\r\nb.wav\r".encode(encoding))
    assert find_audio_files([tmp_path / "list.m3u8"]) == [tmp_path / "Café.wav", tmp_path / "b.wav"]
    assert ("it is read as Windows-1252" in caplog.text) == (encoding == "cp1252")


def test_playlist_that_is_not_text_is_refused(tmp_path: Path) -> None:
    for content in (b"a\0b", b"\x81"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"list\.txt: cannot be read as a list of paths .* save it as UTF-8"):
            find_audio_files([tmp_path / "list.txt"])


def test_skipped_rows_and_files_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.wav").touch()
    (tmp_path / "music" / "a.lrc").touch()
    (tmp_path / "list.csv").write_text("path,title\nmusic/a.wav,x\n,y\n")
    assert find_audio_files([tmp_path / "music", tmp_path / "list.csv"]) == [tmp_path / "music" / "a.wav"]
    assert "1 item skipped (suffix .lrc is not an audio format: 1, such as a.lrc)" in caplog.text
    assert "1 item skipped (path is empty: 1, such as row 3)" in caplog.text


def test_files_are_divided_by_number_and_size(tmp_path: Path) -> None:
    files = [tmp_path / f"{number:02}.wav" for number in range(60)]
    for path in files:
        path.touch()
    shards = inputs.divide_files(files, 8, 2)
    assert [path for shard in shards for path in shard] == files
    sizes = [len(shard) for shard in shards]
    assert sizes[:4] == [8] * 4 and sizes == sorted(sizes, reverse=True) and sizes[-4:] == [1] * 4
    for path in files[1:]:  # a sparse file needs no space on disk
        os.truncate(path, inputs.MAX_SHARD_BYTES // 3)
    assert [len(shard) for shard in inputs.divide_files(files, 8, 2)][:3] == [4, 3, 3]
    assert inputs.divide_files([], 8, 2) == []


def test_names_of_runs_are_distinct(tmp_path: Path) -> None:
    """A dot in the name of a folder is kept, and names that some systems do not distinguish have numbers."""
    runs = [tmp_path / name for name in ("lr_0.1", "lr_0.2", "x/a", "y/A", "z/2_A")]
    for run in runs:
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").touch()
        (run / "checkpoints" / "last.ckpt").touch()
    assert inputs.name_runs(runs[:2]) == ["lr_0.1", "lr_0.2"]
    assert inputs.name_runs(runs[2:]) == ["1_a", "2_A", "3_2_A"]
    assert inputs.name_runs([run / "checkpoints" / "last.ckpt" for run in runs[:2]]) == ["1_last", "2_last"]
    (runs[1] / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"lr_0\.2"):
        inputs.name_runs(runs[:2])
