"""Search for audio files, and for arrays of frames, below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from etude.data.collection import SkippedItem
from etude.data.readers import is_array

SUFFIXES = (
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac",
    ".mp4", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".wma", ".webm", ".weba", ".mka", ".wv", ".ape", ".mpc",
    ".tta", ".ac3", ".3gp", ".amr",
)  # fmt: skip
"""Suffixes of files that libsndfile or ffmpeg decodes."""


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
