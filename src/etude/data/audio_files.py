"""Audio files in folders and in lists of paths."""

from __future__ import annotations

import codecs
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from etude.data.collection import SkippedItem, existing_path, expand_path, log_skipped_items
from etude.data.table_reader import read_table
from etude.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac",
    ".mp4", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".wma", ".webm", ".weba", ".mka", ".wv", ".ape", ".mpc",
    ".tta", ".ac3", ".3gp", ".amr",
)  # fmt: skip
"""Suffixes of files that libsndfile or ffmpeg decodes."""
TABLES, PLAYLISTS = (".csv", ".tsv", ".xlsx", ".parquet"), (".txt", ".m3u", ".m3u8")


def search_audio_files(folder: Path, root: Path | None = None) -> tuple[list[Path], list[SkippedItem]]:
    """Search a folder for audio files at any depth.

    Links to folders are followed. Each folder is searched once.

    Args:
        folder: Folder to search.
        root: Folder to which the paths of skipped items are relative. Links to its parents are not followed. None means
            `folder`.

    Returns:
        The sorted audio files, and the skipped items: hidden files and folders, files with other suffixes, broken or
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
            kind = _classify_entry(entry)
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


def _classify_entry(entry: os.DirEntry[str]) -> str:
    """Return `folder`, `audio`, or the reason for skipping an entry."""
    if entry.name.startswith("."):
        return "hidden: the name begins with a dot"
    if not is_text(entry.name):
        return "name is not UTF-8; rename it"
    try:
        if entry.is_dir():
            return "folder"
        suffix = Path(entry.name).suffix.lower()
        if suffix not in SUFFIXES:
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


def find_audio_files(inputs: Iterable[str | Path]) -> list[Path]:
    """Return the audio files in the given files, folders and lists, each once, in order.

    Args:
        inputs: Audio files, folders (searched at any depth) and lists. A list is a table (.csv, .tsv, .xlsx, .parquet)
            with a column `path`, or a text file (.txt, .m3u, .m3u8) with a path or a `file:` URL on each line. Relative
            paths in a list start at its folder. Files in a list may be missing; prediction reports them one by one.

    Raises:
        UserError: An input is missing, a list cannot be read, or there are no files.
    """
    files: dict[Path, None] = {}
    for value in inputs:
        if not isinstance(value, str | os.PathLike):
            raise UserError(f"audio must be given as paths, got {type(value).__name__}; write samples to a file first")
        if not str(value):  # Path("") is the current folder
            raise UserError("an input is empty; give the path of an audio file, a folder or a list")
        path = expand_path(str(value))
        if path.is_dir():
            inside, skipped_items = search_audio_files(path)
            log_skipped_items(path, skipped_items)
            if not inside:
                raise UserError(f"{path}: has no audio files; looked for {', '.join(SUFFIXES)}")
        elif not path.is_file():
            raise UserError(f"{path}: there is no such audio file, folder or list")
        elif path.suffix.lower() in (*TABLES, *PLAYLISTS):
            inside = _read_list(path)
        else:
            inside = [path]
        files |= dict.fromkeys(inside)
    if not files:
        raise UserError("no audio files are given; add files, folders, or a list such as list.csv")
    return list(files)


def _read_list(path: Path) -> list[Path]:
    """Return the files of a list."""
    if path.suffix.lower() in TABLES:
        columns, locations = read_table(path)
        if "path" not in columns:
            content = f"its columns are {', '.join(columns)}" if columns else "it has no columns"
            raise UserError(f"{path}: has no column named 'path'; {content}")
        lines = columns["path"]
        empty = [location for location, line in zip(locations, lines, strict=True) if not line]
        log_skipped_items(
            path, [SkippedItem(location.removeprefix(f"{path}, "), "path is empty") for location in empty]
        )
    else:
        lines = [line.strip() for line in _read_playlist(path) if not line.lstrip().startswith("#")]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path}: lists no files; add a path per line or row")
    return [_resolve_entry(path.parent, line) for line in lines]


def _read_playlist(path: Path) -> list[str]:
    """Return the lines of a playlist in UTF-8 or UTF-16, else in Windows-1252, which older players write.

    Raises:
        UserError: The file cannot be read, or is not text.
    """
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        elif b"\0" in data:
            raise ValueError("it is not text")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")  # five byte values are undefined
                log.warning("%s: is not UTF-8; it is read as Windows-1252", path)
        return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a list of paths ({error}); save it as UTF-8") from error


def _resolve_entry(folder: Path, line: str) -> Path:
    """Return the path of a list entry, in the first interpretation that exists, else the literal path.

    An entry is interpreted literally, with ~ as the home folder, with backslashes (Windows) as slashes, and with %20 as
    a space. A `file:` URL is always decoded as one.
    """
    if line.lower().startswith("file:"):
        address = line[5:]
        if address.startswith("//"):  # followed by a host name, usually empty
            address = "/" + address[2:].partition("/")[2]
        literal = existing_path(folder / address)
        return literal if os.path.lexists(literal) else existing_path(folder / unquote(address))
    literal = folder / line
    variants = dict.fromkeys(form for text in (line, unquote(line)) for form in (text, text.replace("\\", "/")))
    for variant in variants:
        for path in (folder / variant, _expand_home(variant)):
            if path is not None and os.path.lexists(path := existing_path(path)):
                return path
    return _expand_home(line) or literal


def _expand_home(line: str) -> Path | None:
    """Return a path with ~ or ~user expanded. None if it does not begin with ~, or there is no such user."""
    if not line.startswith("~"):
        return None
    try:
        return Path(line).expanduser()
    except RuntimeError:
        return None
