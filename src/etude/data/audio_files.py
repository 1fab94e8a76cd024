"""Search for audio files and for arrays of precomputed frames, and readers of their frames."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from etude.audio.clip_statistics import SoundProperties, SoundStatistics, SuspectSoundWarning
from etude.audio.decode import decode, stream
from etude.audio.formats import DecodeError, TooLongError
from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.errors import DataError

SUFFIXES = (
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac",
    ".mp4", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".wma", ".webm", ".weba", ".mka", ".wv", ".ape", ".mpc",
    ".tta", ".ac3", ".3gp", ".amr",
)  # fmt: skip
"""Suffixes of files that libsndfile or ffmpeg decodes."""
SILENT = 1e-4  # -80 dB of full scale, below the noise of a 16-bit recording of silence
BEAT = "_beat"  # suffix of the folder of beat-synchronous frames
GZIP = ".gz"
ARRAY_SUFFIXES = (".npy", f".npy{GZIP}")
MAX_UNPACKED = 256 << 20  # bytes of a compressed array; 90 minutes of float64 frames
ARRAY_FRONT_END = LogMelChroma(
    rate=22050, n_fft=2048, hop_length=512, n_mels=128, n_chroma=12, fmin=0.0, fmax=None, top_db=80.0, ref="max",
    chroma="cqt", tuning=None,
)  # fmt: skip


@dataclass(frozen=True)
class SkippedItem:
    """Row, file or folder that a source skips.

    Args:
        item: Path relative to the folder of the collection, id of a clip, or row of a table.
        reason: Reason, with the same text for all items of one kind, so that they can be counted.
        clip: True if the item should have been a clip. It then counts towards `data.max_skipped`, like a missing file.
    """

    item: str
    reason: str
    clip: bool = False


def search_audio_files(
    folder: Path, root: Path | None = None, arrays: bool = False
) -> tuple[list[Path], list[SkippedItem]]:
    """Search a folder for audio files at any depth.

    Links to folders are followed. Each folder is searched once.

    Args:
        folder: Folder to search.
        root: Folder to which the paths of skipped items are relative. Links to its parents are not followed. None means
            `folder`.
        arrays: Whether arrays of frames are searched for as well.

    Returns:
        The sorted files, and the skipped items: hidden files and folders, files with other suffixes, broken or
        circular links, unreadable folders, and names that are not UTF-8.
    """
    root = folder if root is None else root
    real_root = Path(os.path.realpath(root))
    ancestors = {str(real_root), *map(str, real_root.parents)}
    files: list[Path] = []
    skipped_items: list[SkippedItem] = []

    def skip(path: Path, reason: str) -> None:
        skipped_items.append(SkippedItem(as_text(path.relative_to(root)), reason))

    # Links are followed after all regular folders, so that a new link does not change the paths of existing files.
    folders, links = [folder], list[Path]()
    visited: set[str] = set()
    if folder != root and os.path.realpath(folder) in ancestors:
        skip(folder, "link to a folder that contains the link")
        folders = []
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(current)
        if real in visited or (current != root and real in ancestors):
            skip(current, "link to a folder that was searched before or contains the link")
            continue
        visited.add(real)
        try:
            with os.scandir(current) as entries:
                children = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            skip(current, f"folder cannot be read ({error.strerror or error})")
            continue
        for entry in children:
            path = current / entry.name
            kind = _classify_entry(entry, arrays)
            if kind == "folder":
                (links if entry.is_symlink() else folders).append(path)
            elif kind == "audio":
                files.append(path)
            else:
                skip(path, kind)
    return sorted(files), sorted(skipped_items, key=lambda item: item.item)


def list_other_files(folder: Path, reason: str) -> Iterator[SkippedItem]:
    """Yield the files directly in a folder as skipped items.

    Args:
        folder: Folder to list.
        reason: Reason for skipping audio files.

    Raises:
        OSError: The folder cannot be read.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            kind = _classify_entry(entry)
            if kind != "folder":
                yield SkippedItem(as_text(entry.name), reason if kind == "audio" else kind)


def _classify_entry(entry: os.DirEntry[str], arrays: bool = False) -> str:
    """Return `folder`, `audio` (also for an array if they are searched for), or the reason for skipping an entry."""
    if entry.name.startswith("."):
        return "hidden: the name begins with a dot"
    if not is_text(entry.name):
        return "name is not UTF-8; rename it"
    try:
        if entry.is_dir():
            return "folder"
        suffix = Path(entry.name).suffix.lower()
        if suffix not in SUFFIXES and not (arrays and is_array(Path(entry.name))):
            return f"suffix {suffix} is not an audio format" if suffix else "name has no suffix"
        if entry.is_file():
            return "audio"
        return "broken link" if entry.is_symlink() else "is not a regular file"
    except OSError as error:  # such as a link that leads to itself
        return f"cannot be read ({error.strerror or error})"


def is_text(name: str | Path) -> bool:
    """Return whether a file name is valid UTF-8. File systems allow other bytes too."""
    try:
        str(name).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_text(name: str | Path) -> str:
    """Return a printable file name, with bytes that are not UTF-8 escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode()


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
