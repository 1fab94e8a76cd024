"""Readers from a file to frames: sound files, and arrays with precomputed features."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from etude.audio.decode import decode
from etude.audio.formats import DecodeError, TooLongError
from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.audio.plausibility import SoundStatistics, SuspectSoundWarning
from etude.errors import DataError

SILENT = 1e-4  # -80 dB of full scale: below the noise of a 16-bit recording of nothing


def read_sound(path: Path, front: FrontEnd, shortest: float = 0.0, longest: float | None = None) -> np.ndarray:
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


BEAT = "_beat"  # what the folder of frames that are synchronised to beats has after its name
MADE = LogMelChroma(
    rate=22050, n_fft=2048, hop_length=512, n_mels=128, n_chroma=12, fmin=0.0, fmax=None, top_db=80.0, ref="max",
    chroma="cqt", tuning=None,
)  # fmt: skip


def beside(path: Path, front: FrontEnd) -> Path:
    """The file of frames that are synchronised as `front` is.

    Args:
        path: `<folder>/<part>/<id>.fused.full.npy`; its neighbour by the beat is of that name in `<folder>_beat`.
        front: Says which.
    """
    folder = path.parents[1]
    return path if front.sync == "none" else folder.with_name(folder.name + BEAT) / path.parent.name / path.name


def read_precomputed(path: Path, front: FrontEnd, shortest: float = 0.0) -> np.ndarray:
    """Read the frames of a clip.

    Args:
        path: A .npy file.
        front: The front end that the arrays were made with; only `sync` is free.
        shortest: Length below which a clip is of no use, in seconds; it says nothing about beats.

    Returns:
        Frames (T, 140), float32, of an array (140, T) of numbers.

    Raises:
        DataError: The front end is another one.
        DecodeError: The file is missing, is no such array, holds NaN or infinity, or is too short.
    """
    if type(front) is not LogMelChroma:
        raise DataError("these frames are ready, and this feature needs the sound: choose feature=mel, chroma or fused")
    made = asdict(MADE)
    if other := [key for key, value in asdict(front).items() if key != "sync" and value != made[key]]:
        values = ", ".join(f"feature.front.{key}={'null' if made[key] is None else made[key]}" for key in other)
        raise DataError(f"these frames are ready, and were made with {values}: choose feature/front=patreco")
    if not path.is_file():
        raise DecodeError(f"{path}: there is no such file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a damaged file numpy raises ValueError, EOFError, TokenError, BadZipFile, ...
        raise DecodeError(f"{path}: cannot be read as an array of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DecodeError(f"{path}: does not hold an array of numbers")
    if array.ndim != 2 or array.shape[0] != front.bins or not array.shape[1]:
        raise DecodeError(f"{path}: has shape {array.shape}, expected is ({front.bins}, T)")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is said below
        frames = np.ascontiguousarray(array.T, dtype=np.float32)
    if not np.isfinite(frames).all():
        raise DecodeError(f"{path}: holds NaN or infinite values")
    if front.sync == "none" and (seconds := len(frames) / front.frames_per_second) < shortest:
        raise DecodeError(f"{path}: is too short ({seconds:.2f} s, at least {shortest:g} s are needed)")
    return frames
