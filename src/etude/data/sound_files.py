"""Search for sound files below a folder, with a list of everything that is not one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from etude.data.collection import LeftOut

SUFFIXES = (
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac",
    ".mp4", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".wma", ".webm", ".weba", ".mka", ".wv", ".ape", ".mpc",
    ".tta", ".ac3", ".3gp", ".amr",
)  # fmt: skip
"""Suffixes of files that libsndfile or ffmpeg decodes."""


def find_sound_files(folder: Path, root: Path | None = None) -> tuple[list[Path], list[LeftOut]]:
    """Find the sound files of a folder at any depth; links to folders are followed, each folder once.

    Args:
        folder: Where to search.
        root: Folder from which paths of what is left out are given, and which a link must not lead above; none means
            `folder`.

    Returns:
        The sound files, sorted; and what else there is: hidden files and folders, files of other suffixes, links that
        lead nowhere or in a circle, folders that cannot be read, names that are not UTF-8.
    """
    root = folder if root is None else root
    home = Path(os.path.realpath(root))
    above = {str(home), *map(str, home.parents)}
    files: list[Path] = []
    left_out: list[LeftOut] = []

    def leave_out(path: Path, reason: str) -> None:
        left_out.append(LeftOut(as_text(path.relative_to(root)), reason))

    # Links are followed after all folders that are there themselves: a new link changes no path that was found before.
    folders, links = [folder], list[Path]()
    visited: set[str] = set()
    if folder != root and os.path.realpath(folder) in above:
        leave_out(folder, "link to a folder that contains the link")
        folders = []
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(current)
        if real in visited or (current != root and real in above):
            leave_out(current, "link to a folder that is read already or contains the link")
            continue
        visited.add(real)
        try:
            with os.scandir(current) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            leave_out(current, f"folder cannot be read ({error.strerror or error})")
            continue
        for entry in found:
            path = current / entry.name
            kind = _kind(entry)
            if kind == "folder":
                (links if entry.is_symlink() else folders).append(path)
            elif kind == "sound":
                files.append(path)
            else:
                leave_out(path, kind)
    return sorted(files), sorted(left_out, key=lambda item: item.item)


def other_files(folder: Path, reason: str) -> Iterator[LeftOut]:
    """Yield the files directly in a folder as left out, sound files for a given reason.

    Raises:
        OSError: The folder cannot be read.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            kind = _kind(entry)
            if kind != "folder":
                yield LeftOut(as_text(entry.name), reason if kind == "sound" else kind)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return `folder`, `sound`, or the reason why an entry is neither."""
    if entry.name.startswith("."):
        return "hidden: the name begins with a dot"
    if not is_text(entry.name):
        return "name is not UTF-8; rename it"
    try:
        if entry.is_dir():
            return "folder"
        suffix = Path(entry.name).suffix.lower()
        if suffix not in SUFFIXES:
            return f"suffix {suffix} is not read as sound" if suffix else "name has no suffix"
        if entry.is_file():
            return "sound"
        return "link leads nowhere" if entry.is_symlink() else "is not a regular file"
    except OSError as error:  # such as a link that leads to itself
        return f"cannot be read ({error.strerror or error})"


def is_text(name: str | Path) -> bool:
    """Return whether a name can stand in a table; a file system may hold any bytes."""
    try:
        str(name).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_text(name: str | Path) -> str:
    """Return a name as it is shown; bytes that are not UTF-8 are escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode()
