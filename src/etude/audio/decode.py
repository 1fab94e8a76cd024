"""A sound file to mono float32 samples at the asked rate: soundfile reads, soxr resamples."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class DecodeError(ValueError):
    """A file that gives no usable sound; the message names it and says what was wrong."""


def decode(path: Path, rate: int) -> np.ndarray:
    """Read a sound file as one channel.

    Args:
        path: Any file that libsndfile reads (wav, flac, ogg, mp3, ...).
        rate: Sample rate of the result, in Hz. Another one is resampled by soxr at high quality.

    Returns:
        Samples (N,), float32, channels averaged.

    Raises:
        DecodeError: The file is missing, is not sound, is empty, or holds NaN or infinity.
    """
    import soundfile
    import soxr

    if not path.is_file():
        raise DecodeError(f"{path}: there is no such file")
    try:
        audio, native = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).split(": ")[-1].strip()
        if "does not exist" in reason:  # libsndfile's word for an MP3 that is none
            reason = "it holds no sound that libsndfile knows"
        raise DecodeError(f"{path}: cannot be decoded ({reason})") from error
    mono = audio.mean(axis=1, dtype=np.float32)
    if not len(mono):
        raise DecodeError(f"{path}: holds no samples")
    if not np.isfinite(mono).all():
        raise DecodeError(f"{path}: holds NaN or infinite samples")
    return mono if native == rate else soxr.resample(mono, native, rate)
