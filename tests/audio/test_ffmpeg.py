"""Tests of the options that are passed to ffmpeg."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.audio.encoding import encode_with_ffmpeg, needs_ffmpeg

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.demo.predictor import read_duration

PLAYLIST = """#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:10
#EXT-X-MEDIA-SEQUENCE:0
#EXTINF:10.0,
{url}
#EXT-X-ENDLIST
"""


@needs_ffmpeg
@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.ts", "https://127.0.0.1:9/a.m4a"])
def test_playlist_opens_no_connection(url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_text(PLAYLIST.format(url=url))
    with pytest.raises(DecodeError, match=rf"^{path}: cannot be decoded \(") as error:
        decode(path, 22050)
    # rejected by the options of ffmpeg, and not by a failed connection
    assert any(rule in str(error.value) for rule in ("not on whitelist 'file'", "Not detecting m3u8"))


@needs_ffmpeg
def test_file_names_are_never_options_or_addresses(clip: np.ndarray, tmp_path: Path) -> None:
    """Decode files whose names contain colons, dashes and percent signs, which are special to ffmpeg."""
    source = encode_with_ffmpeg(tmp_path / "a.m4a", clip, 22050)
    original_folder = Path.cwd()
    os.chdir(tmp_path)
    try:
        for name in ("-y.m4a", "http:x.m4a", "%03d.m4a", "a b'c\".m4a", "ö\u2028.m4a"):
            shutil.copy(source, tmp_path / name)
            assert len(decode(Path(name), 22050)) == pytest.approx(len(clip), abs=2500)
    finally:
        os.chdir(original_folder)


def test_ffmpeg_opens_no_file_named_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode a list of segments, which names other files."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        commands.append(command)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)

    def start(command: list[str], **_: Any) -> None:
        commands.append(command)
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "Popen", start)
    path = tmp_path / "list.m4a"
    path.write_bytes(b"ffconcat version 1.0\n#\xff\xfe\nfile private.wav\n")
    with pytest.raises(DecodeError, match="cannot be decoded"):
        decode(path, 16000)
    assert read_duration(path) is None
    for command in commands:
        options = dict(itertools.pairwise(command))
        assert options["-protocol_whitelist"] == "file"
        assert not {"hls", "concat", "dash", "imf", "sdp", "lavfi"} & set(options["-format_whitelist"].split(","))
        assert command.index("-format_whitelist") < command.index(f"file:{path}")
    assert [command[0] for command in commands] == ["ffmpeg", "ffprobe"]
