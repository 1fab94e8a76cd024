"""Encoding of audio files for tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def write_audio(path: Path, audio: np.ndarray, rate: int = 22050, subtype: str | None = None) -> Path:
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def encode_with_ffmpeg(path: Path, audio: np.ndarray, rate: int, *options: str) -> Path:
    """Encode a file with ffmpeg, in the codec of its suffix."""
    source = write_audio(path.with_name("source.wav"), audio, rate)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", str(source), *options, str(path)], check=True)
    return path
