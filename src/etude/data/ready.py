"""A file to frames that are ready in it: the reader of collections that come as arrays."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from etude.audio.decode import DecodeError
from etude.audio.front import Front
from etude.audio.spectral import FrontEnd
from etude.errors import DataError

BEAT = "_beat"  # what the folder of frames that are synchronised to beats has after its name
MADE = FrontEnd(
    rate=22050, n_fft=2048, hop_length=512, n_mels=128, n_chroma=12, fmin=0.0, fmax=None, top_db=80.0, ref="max",
    chroma="cqt", tuning=None,
)  # fmt: skip


def beside(path: Path, front: Front) -> Path:
    """The file of frames that are synchronised as `front` is.

    Args:
        path: `<folder>/<part>/<id>.fused.full.npy`; its neighbour by the beat is of that name in `<folder>_beat`.
        front: Says which.
    """
    folder = path.parents[1]
    return path if front.sync == "none" else folder.with_name(folder.name + BEAT) / path.parent.name / path.name


def ready(path: Path, front: Front, shortest: float = 0.0) -> np.ndarray:
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
    if type(front) is not FrontEnd:
        raise DataError("these frames are ready, and this feature needs the sound: choose feature=mel, chroma or fused")
    made = asdict(MADE)
    if other := [key for key, value in asdict(front).items() if key != "sync" and value != made[key]]:
        values = ", ".join(f"feature.front.{key}={'null' if made[key] is None else made[key]}" for key in other)
        raise DataError(f"these frames are ready, and were made with {values}: choose feature/front=lab")
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
