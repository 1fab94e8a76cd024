"""Audio files to predict, given as files, folders and lists."""

from __future__ import annotations

import codecs
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from etude.data.audio_files import SUFFIXES, search_audio_files
from etude.data.collection import SkippedItem, existing_path, expand_path, log_skipped_items
from etude.data.table_reader import read_table
from etude.errors import UserError

log = logging.getLogger(__name__)
TABLES, PLAYLISTS = (".csv", ".tsv", ".xlsx", ".parquet"), (".txt", ".m3u", ".m3u8")


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
