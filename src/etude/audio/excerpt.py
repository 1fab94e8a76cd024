"""The beginning of a sound in a file small enough for a page."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from etude.audio.decode import stream
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
    # libsndfile estimates the length of an MP3
    audio, seconds = _beginning(path, longest, found.duration if found and found.format != "MP3" else None)
    look: dict[str, Any] = {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.7}
    with replacing(stem.with_suffix(".ogg")) as draft, soundfile.SoundFile(draft, "w", RATE, 1, **look) as file:
        for start in range(0, len(audio), BLOCK):  # the encoder keeps a whole block on its stack
            file.write(audio[start : start + BLOCK])
    return {"audio": f"{stem.name}.ogg", "heard": len(audio) / RATE, "seconds": seconds, "encoded": True}


def _beginning(path: Path, longest: int, seconds: float | None) -> tuple[np.ndarray, float]:
    """Return the first seconds of a file as one channel (N,), float32, and the length of all of it in seconds.

    Args:
        path: The file.
        longest: Seconds that are kept.
        seconds: Its length if it is known; None decodes it to its end.
    """
    kept: list[np.ndarray] = []
    count, wanted = 0, longest * RATE
    with closing(stream(path, RATE)) as blocks:
        for block in blocks:
            if count < wanted:
                kept.append(block[: wanted - count])
            count += len(block)
            if seconds is not None and count >= wanted:
                break
        else:
            seconds = count / RATE
    assert seconds is not None
    return np.concatenate(kept), max(seconds, min(count, wanted) / RATE)
