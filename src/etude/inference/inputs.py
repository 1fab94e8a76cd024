"""Sound files to predict on: files, folders and lists."""

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


def files(words: Iterable[str | Path]) -> list[Path]:
    """The files that some words name, each once, in order.

    Args:
        words: A sound file; a folder, whose sound files at any depth are taken; or a list: a table (.csv, .tsv, .xlsx,
            .parquet) with a column `path`, or a text (.txt, .m3u, .m3u8) with a path or a `file:` address in each line.
            Paths in a list go on from its folder; what it names may be missing, and is said file by file.

    Raises:
        UserError: There is no such file, a list cannot be read, or nothing is named.
    """
    found: dict[Path, None] = {}
    for word in words:
        if not isinstance(word, str | os.PathLike):
            raise UserError(
                f"sounds are named by paths of files, got {type(word).__name__}; write samples to a file first"
            )
        path = expand_path(str(word))
        if path.is_dir():
            inside, skipped_items = search_audio_files(path)
            log_skipped_items(path, skipped_items)
            if not inside:
                raise UserError(f"{path}: has no sound files; looked for {', '.join(SUFFIXES)}")
        elif not path.is_file():
            raise UserError(f"{path}: there is no such sound file, folder or list")
        elif path.suffix.lower() in (*TABLES, *PLAYLISTS):
            inside = _listed(path)
        else:
            inside = [path]
        found |= dict.fromkeys(inside)
    if not found:
        raise UserError("no sound was named; add files, folders, or a list such as list.csv")
    return list(found)


def _listed(path: Path) -> list[Path]:
    """The files of a list."""
    if path.suffix.lower() in TABLES:
        cells, where = read_table(path)
        if "path" not in cells:
            raise UserError(f"{path}: has no column path; it has {', '.join(cells) or 'none at all'}")
        lines = cells["path"]
        empty = [place for place, line in zip(where, lines, strict=True) if not line]
        log_skipped_items(path, [SkippedItem(place.removeprefix(f"{path}, "), "path is empty") for place in empty])
    else:
        lines = [line.strip() for line in _lines(path) if not line.lstrip().startswith("#")]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path}: names no files")
    return [_named(path.parent, line) for line in lines]


def _lines(path: Path) -> list[str]:
    """Return the lines of a playlist, in UTF-8 or UTF-16, else in Windows-1252 as older players write it.

    Raises:
        UserError: The file cannot be read, or is no text.
    """
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        elif b"\0" in data:
            raise ValueError("it is no text")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")  # five bytes are none of its letters
                log.warning("%s: is not UTF-8; it is read as Windows-1252", path)
        return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a list of paths ({error}); save it as UTF-8") from error


def _named(folder: Path, line: str) -> Path:
    """Return the file that a line of a list names: the first of its readings that exists, else the plain one.

    A line is read as it stands, with ~ as the home, with the backslashes of Windows as slashes, and with %20 as a
    space; a `file:` address always by its rules.
    """
    if line.lower().startswith("file:"):
        address = line[5:]
        if address.startswith("//"):  # a host follows, mostly none
            address = "/" + address[2:].partition("/")[2]
        plain = existing_path(folder / address)
        return plain if os.path.lexists(plain) else existing_path(folder / unquote(address))
    plain = folder / line
    readings = dict.fromkeys(form for text in (line, unquote(line)) for form in (text, text.replace("\\", "/")))
    for form in readings:
        for path in (folder / form, _home(form)):
            if path is not None and os.path.lexists(path := existing_path(path)):
                return path
    return _home(line) or plain


def _home(line: str) -> Path | None:
    """Return a path that begins with ~ below the home that it names; None for others, or when nobody has that name."""
    if not line.startswith("~"):
        return None
    try:
        return Path(line).expanduser()
    except RuntimeError:
        return None
