"""Readers of frames from audio files and from arrays of precomputed features."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from etude.audio.clip_statistics import SoundProperties, SoundStatistics, SuspectSoundWarning
from etude.audio.decode import decode, stream
from etude.audio.formats import DecodeError, TooLongError
from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.errors import DataError

SILENT = 1e-4  # -80 dB of full scale, below the noise of a 16-bit recording of silence


def read_sound(path: Path, front: FrontEnd, shortest: float = 0.0, longest: float | None = None) -> np.ndarray:
    """Decode an audio file and compute its frames.

    Args:
        path: An audio file.
        front: Front end that computes the frames.
        shortest: Minimum length of a clip in seconds.
        longest: Maximum length of a clip in seconds. None sets no limit.

    Returns:
        Frames (T, F), float32.

    Raises:
        DecodeError: The file cannot be decoded, is silent, too short or too long.

    Warns:
        SuspectSoundWarning: The file can be decoded, but may not be music.
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


def read_properties(path: Path, front: FrontEnd, shortest: float = 0.0, longest: float | None = None) -> np.ndarray:
    """Decode an audio file and compute its level, bandwidth, length and silence at its own sample rate.

    Args:
        path: An audio file.
        front: A PropertiesFront.
        shortest: Not used.
        longest: Maximum length of a clip in seconds. None sets no limit.

    Returns:
        Properties (1, 6), float32.

    Raises:
        DecodeError: The file cannot be decoded, or is too long.
    """
    properties = SoundProperties()
    for _ in stream(path, front.rate, longest, properties):
        pass
    return properties.values()[None]


BEAT = "_beat"  # suffix of the folder of beat-synchronous frames
ARRAY_FRONT_END = LogMelChroma(
    rate=22050, n_fft=2048, hop_length=512, n_mels=128, n_chroma=12, fmin=0.0, fmax=None, top_db=80.0, ref="max",
    chroma="cqt", tuning=None,
)  # fmt: skip


def locate_array(path: Path, front: FrontEnd) -> Path:
    """Return the path of the array with the time unit of a front end.

    Args:
        path: `<folder>/<split>/<id>.fused.full.npy`. The beat-synchronous array has the same name in `<folder>_beat`.
        front: Front end whose `sync` selects the array.
    """
    folder = path.parents[1]
    return path if front.sync == "none" else folder.with_name(folder.name + BEAT) / path.parent.name / path.name


def read_precomputed(path: Path, front: FrontEnd, shortest: float = 0.0) -> np.ndarray:
    """Read the precomputed frames of a clip.

    Args:
        path: A .npy file.
        front: The front end that computed the arrays. Only its `sync` may differ.
        shortest: Minimum length of a clip in seconds; it is ignored for beat-synchronous frames.

    Returns:
        Frames (T, 140), float32, from an array (140, T) of numbers.

    Raises:
        DataError: The arrays were computed by another front end.
        DecodeError: The file is missing, is not such an array, contains NaN or infinity, or is too short.
    """
    if type(front) is not LogMelChroma:
        raise DataError(
            "the frames of this data are precomputed, but this feature requires audio files; "
            "use feature=mel, chroma or fused"
        )
    expected = asdict(ARRAY_FRONT_END)
    different = [key for key, value in asdict(front).items() if key != "sync" and value != expected[key]]
    if different:
        values = ", ".join(
            f"feature.front.{key}={'null' if expected[key] is None else expected[key]}" for key in different
        )
        raise DataError(f"the frames of this data are precomputed with {values}; use feature/front=patreco")
    if not path.is_file():
        raise DecodeError(f"{path}: there is no such file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # for a damaged file numpy raises ValueError, EOFError, TokenError, BadZipFile, ...
        raise DecodeError(f"{path}: cannot be read as an array of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DecodeError(f"{path}: does not contain an array of numbers")
    if array.ndim != 2 or array.shape[0] != front.bins or not array.shape[1]:
        raise DecodeError(f"{path}: has shape {array.shape}, expected ({front.bins}, T)")
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which is checked below
        frames = np.ascontiguousarray(array.T, dtype=np.float32)
    if not np.isfinite(frames).all():
        raise DecodeError(f"{path}: contains NaN or infinite values")
    if front.sync == "none" and (seconds := len(frames) / front.frames_per_second) < shortest:
        raise DecodeError(f"{path}: is too short ({seconds:.2f} s, at least {shortest:g} s are needed)")
    return frames
