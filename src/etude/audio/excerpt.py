"""The beginning of a sound in a file small enough for a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from etude.audio.decode import DecodeError, decode
from etude.files.atomic import replacing, write_bytes

SECONDS, RATE = 15, 22050  # of a sound that is written anew
BLOCK = 1 << 16  # samples that are encoded at a time
COPIED = 128_000  # bytes; a short OGG or MP3 below this is kept as it is
KNOWN = {("OGG", "VORBIS"): ".ogg", ("MP3", "MPEG_LAYER_III"): ".mp3"}


def excerpt(path: Path, stem: Path, longest: int = SECONDS, copied: int = COPIED) -> dict[str, Any]:
    """Write the beginning of a sound file beside others.

    Args:
        path: A sound file.
        stem: Where the result goes, without its suffix. A small Ogg Vorbis or MP3 is copied; else it is one channel of
            Ogg Vorbis at 22,050 Hz.
        longest: Seconds that are kept.
        copied: Bytes below which a file is copied.

    Returns:
        `audio`, the name of the file; `heard` and `seconds`, its length and that of the whole, in seconds; `encoded`,
        whether it was encoded anew.

    Raises:
        DecodeError: The file is missing or cannot be played.
    """
    import soundfile

    try:
        found = soundfile.info(path)
    except soundfile.LibsndfileError:
        found = None  # there is none, or one for ffmpeg
    suffix = KNOWN.get((found.format, found.subtype)) if found else None
    if found and suffix and found.duration <= longest and path.stat().st_size <= copied:
        write_bytes(stem.with_suffix(suffix), path.read_bytes())
        return {"audio": f"{stem.name}{suffix}", "heard": found.duration, "seconds": found.duration, "encoded": False}
    audio, seconds = _beginning(path, found is not None, longest)
    look: dict[str, Any] = {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.7}
    with replacing(stem.with_suffix(".ogg")) as draft, soundfile.SoundFile(draft, "w", RATE, 1, **look) as file:
        for start in range(0, len(audio), BLOCK):  # the encoder keeps a whole block on its stack
            file.write(audio[start : start + BLOCK])
    return {"audio": f"{stem.name}.ogg", "heard": len(audio) / RATE, "seconds": seconds, "encoded": True}


def _beginning(path: Path, known: bool, longest: int) -> tuple[np.ndarray, float]:
    """The first seconds of a file as one channel (N,), float32, and how long all of it is, in seconds."""
    import soundfile
    import soxr

    if known:
        with soundfile.SoundFile(path) as file:
            audio = file.read(longest * file.samplerate, dtype="float32", always_2d=True).mean(1)
            rate, seconds = file.samplerate, len(file) / file.samplerate
        audio = audio if rate == RATE else soxr.resample(audio, rate, RATE)
    else:
        whole = decode(path, RATE)
        audio, seconds = whole[: longest * RATE], len(whole) / RATE
    if not len(audio) or not np.isfinite(audio).all():
        raise DecodeError(f"{path}: holds no samples that can be played")
    return audio, seconds
