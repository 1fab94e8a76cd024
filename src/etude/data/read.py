"""A file to frames: the reader of every collection of sound files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from etude.audio.decode import DecodeError, decode
from etude.audio.formats import TooLongError
from etude.audio.front import Front
from etude.audio.plausibility import SoundStatistics, SuspectSoundWarning

SILENT = 1e-4  # -80 dB of full scale: below the noise of a 16-bit recording of nothing


def sound(path: Path, front: Front, shortest: float = 0.0, longest: float | None = None) -> np.ndarray:
    """Decode a sound file and compute its frames.

    Args:
        path: A sound file.
        front: How frames are made.
        shortest: Length below which a clip is of no use, in seconds.
        longest: Length from which a clip is refused, in seconds; None accepts any.

    Returns:
        Frames (T, F), float32.

    Raises:
        DecodeError: The file cannot be decoded, is silent, too short or too long; the message says which.

    Warns:
        SuspectSoundWarning: The file can be decoded, and may not be music.
    """
    statistics = SoundStatistics()
    try:
        audio = decode(path, front.rate, longest, statistics)
    except TooLongError as error:
        raise TooLongError(f"{error}; data.max_seconds sets the limit") from error
    if (seconds := len(audio) / front.rate) < shortest:
        raise DecodeError(f"{path}: is too short ({seconds:.2f} s, at least {shortest:g} s are needed)")
    if np.abs(audio).max() < SILENT:
        raise DecodeError(f"{path}: is silent")
    for finding in statistics.findings():
        warnings.warn(f"{path}: {finding}", SuspectSoundWarning, stacklevel=2)
    return front.frames(audio)
