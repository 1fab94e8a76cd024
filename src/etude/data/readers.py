"""Readers of frames from audio files and from arrays of precomputed features."""

from __future__ import annotations

import gzip
import io
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
GZIP = ".gz"
ARRAY_SUFFIXES = (".npy", f".npy{GZIP}")
MAX_UNPACKED = 256 << 20  # bytes of a compressed array; 90 minutes of float64 frames
ARRAY_FRONT_END = LogMelChroma(
    rate=22050, n_fft=2048, hop_length=512, n_mels=128, n_chroma=12, fmin=0.0, fmax=None, top_db=80.0, ref="max",
    chroma="cqt", tuning=None,
)  # fmt: skip


def is_array(path: Path) -> bool:
    """Return whether the suffix of a file is that of an array of precomputed frames."""
    return path.name.lower().endswith(ARRAY_SUFFIXES)


def clip_id(name: str) -> str:
    """Return the id in the name of an array, which is the text before the first dot."""
    return name.split(".")[0]


def locate_array(path: Path, front: FrontEnd) -> Path:
    """Return the path of the array with the time unit of a front end.

    Args:
        path: `<folder>/<split>/<id>.fused.full.npy`. The beat-synchronous array has the same name in `<folder>_beat`.
        front: Front end whose `sync` selects the array.
    """
    folder = path.parents[1]
    return path if front.sync == "none" else folder.with_name(folder.name + BEAT) / path.parent.name / path.name


def array_mismatch(front: FrontEnd) -> str:
    """Return why a front end does not compute the frames of arrays, or an empty text if it does.

    Args:
        front: A front end. Its `sync` is not compared.
    """
    if type(front) is not LogMelChroma:
        return (
            "the frames of this data are precomputed, but this feature requires audio files; "
            "use feature=mel, chroma or fused"
        )
    expected = asdict(ARRAY_FRONT_END)
    different = [key for key, value in asdict(front).items() if key != "sync" and value != expected[key]]
    values = ", ".join(f"feature.front.{key}={'null' if expected[key] is None else expected[key]}" for key in different)
    return f"the frames of this data are precomputed with {values}; use feature/front=patreco" if values else ""


def read_precomputed(path: Path, front: FrontEnd, shortest: float = 0.0) -> np.ndarray:
    """Read the precomputed frames of a clip.

    Args:
        path: A .npy file, or a .npy.gz file with at most MAX_UNPACKED bytes of data.
        front: The front end that computed the arrays. Only its `sync` may differ.
        shortest: Minimum length of a clip in seconds; it is ignored for beat-synchronous frames.

    Returns:
        Frames (T, 140), float32, from an array (140, T) of numbers.

    Raises:
        DataError: The arrays were computed by another front end.
        DecodeError: The file is missing, is not such an array, contains NaN or infinity, or is too short.
    """
    if reason := array_mismatch(front):
        raise DataError(reason)
    if not path.is_file():
        raise DecodeError(f"{path}: there is no such file")
    try:
        array = _load_array(path)
    except Exception as error:  # for a damaged file numpy raises ValueError, EOFError, TokenError, BadZipFile, ...
        # numpy takes any unknown content for pickled objects and advises to load them, which could run code
        fault = "it is not a .npy file of numbers" if "pickle" in str(error) else str(error)
        raise DecodeError(f"{path}: cannot be read as an array of numbers ({fault})") from error
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


def _load_array(path: Path) -> np.ndarray:
    """Return the content of a .npy or .npy.gz file. Pickled objects are refused.

    Raises:
        Exception: The file is damaged. numpy and gzip raise exceptions of many types.
    """
    if path.suffix.lower() != GZIP:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with gzip.open(path) as file:
        data = file.read(MAX_UNPACKED + 1)  # also compares the checksum at the end of the data
    if len(data) > MAX_UNPACKED:
        raise ValueError(f"it has more than {MAX_UNPACKED >> 20} MiB of compressed data; decompress it with gunzip")
    return np.load(io.BytesIO(data), allow_pickle=False)
