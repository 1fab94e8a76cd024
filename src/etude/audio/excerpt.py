"""Writing of short excerpts of audio files for HTML pages."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from etude.audio.decode import stream
from etude.files.atomic import replacing, write_bytes

SECONDS, RATE = 15, 22050  # of an encoded excerpt
BLOCK = 1 << 16  # samples per call of the encoder
COPIED = 128_000  # bytes; a smaller OGG or MP3 is copied unchanged
SUFFIXES = {("OGG", "VORBIS"): ".ogg", ("MP3", "MPEG_LAYER_III"): ".mp3"}


def write_excerpt(path: Path, stem: Path, longest: int = SECONDS, copied: int = COPIED) -> dict[str, Any]:
    """Write the beginning of an audio file as a small audio file.

    A small Ogg Vorbis or MP3 file is copied. Other files are encoded as mono Ogg Vorbis at 22,050 Hz.

    Args:
        path: An audio file.
        stem: Path of the result without its suffix.
        longest: Maximum length of the excerpt, in seconds.
        copied: Maximum size of a file that is copied, in bytes.

    Returns:
        `audio`, the name of the file; `excerpt_seconds` and `seconds`, the lengths of the excerpt and of the audio
        file; `encoded`, whether the excerpt was encoded.

    Raises:
        DecodeError: The file is missing or cannot be decoded.
    """
    import soundfile

    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        info = None  # the file is missing, or requires ffmpeg
    suffix = SUFFIXES.get((info.format, info.subtype)) if info else None
    if info and suffix and info.duration <= longest and path.stat().st_size <= copied:
        write_bytes(stem.with_suffix(suffix), path.read_bytes())
        seconds = info.duration
        return {"audio": f"{stem.name}{suffix}", "excerpt_seconds": seconds, "seconds": seconds, "encoded": False}
    # libsndfile estimates the length of an MP3
    audio, seconds = _beginning(path, longest, info.duration if info and info.format != "MP3" else None)
    encoding: dict[str, Any] = {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.7}
    with replacing(stem.with_suffix(".ogg")) as draft, soundfile.SoundFile(draft, "w", RATE, 1, **encoding) as file:
        for start in range(0, len(audio), BLOCK):  # the encoder allocates a complete block on its stack
            file.write(audio[start : start + BLOCK])
    return {"audio": f"{stem.name}.ogg", "excerpt_seconds": len(audio) / RATE, "seconds": seconds, "encoded": True}


def _beginning(path: Path, longest: int, seconds: float | None) -> tuple[np.ndarray, float]:
    """Return the first seconds of a file as mono samples (N,), float32, and the length of the file in seconds.

    Args:
        path: The file.
        longest: Maximum length of the result, in seconds.
        seconds: Length of the file. None means that it is unknown, and the complete file is decoded.
    """
    kept: list[np.ndarray] = []
    count, limit = 0, longest * RATE
    with closing(stream(path, RATE)) as blocks:
        for block in blocks:
            if count < limit:
                kept.append(block[: limit - count])
            count += len(block)
            if seconds is not None and count >= limit:
                break
        else:
            seconds = count / RATE
    assert seconds is not None
    return np.concatenate(kept), max(seconds, min(count, limit) / RATE)
