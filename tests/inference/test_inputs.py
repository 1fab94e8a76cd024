"""Files, folders and lists name sounds, each once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etude.errors import UserError
from etude.inference.inputs import files


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


def test_lines_of_a_playlist_are_read_as_players_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert files([tmp_path / "list.m3u"]) == [tmp_path / name], line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_playlist_of_any_usual_encoding_is_read(
    tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "list.m3u8").write_bytes("Café.wav\r\nb.wav\r".encode(encoding))
    assert files([tmp_path / "list.m3u8"]) == [tmp_path / "Café.wav", tmp_path / "b.wav"]
    assert ("it is read as Windows-1252" in caplog.text) == (encoding == "cp1252")


def test_playlist_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    for content in (b"a\0b", b"\x81"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"list\.txt: cannot be read as a list of paths .* save it as UTF-8"):
            files([tmp_path / "list.txt"])


def test_rows_and_files_that_are_not_used_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.wav").touch()
    (tmp_path / "music" / "a.lrc").touch()
    (tmp_path / "list.csv").write_text("path,title\nmusic/a.wav,x\n,y\n")
    assert files([tmp_path / "music", tmp_path / "list.csv"]) == [tmp_path / "music" / "a.wav"]
    assert "1 item skipped (suffix .lrc is not an audio format: 1, such as a.lrc)" in caplog.text
    assert "1 item skipped (path is empty: 1, such as row 3)" in caplog.text
