"""What is to be heard: sound files, folders of them, and lists."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from etude.data.cells import read
from etude.data.collection import expanded
from etude.data.sources.folder import SUFFIXES
from etude.errors import UserError

TABLES, PLAYLISTS = (".csv", ".tsv", ".parquet"), (".txt", ".m3u", ".m3u8")


def files(words: Iterable[str | Path]) -> list[Path]:
    """The files that some words name, each once, in order.

    Args:
        words: A sound file; a folder, whose sound files at any depth are taken; or a list: a table (.csv, .tsv,
            .parquet) with a column `path`, or a text (.txt, .m3u, .m3u8) with a path in each line. Paths in a list go
            on from its folder; what it names may be missing, and is said file by file.

    Raises:
        UserError: There is no such file, a list cannot be read, or nothing is named.
    """
    found: dict[Path, None] = {}
    for word in words:
        if not isinstance(word, str | os.PathLike):
            raise UserError(
                f"sounds are named by paths of files, got {type(word).__name__}; write samples to a file first"
            )
        path = expanded(str(word))
        if path.is_dir():
            inside = _sounds(path)
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


def _sounds(folder: Path) -> list[Path]:
    """Sound files at any depth, in the same order everywhere; none that is hidden or in a hidden folder."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def _listed(path: Path) -> list[Path]:
    """The files of a list."""
    if path.suffix.lower() in TABLES:
        cells, _ = read(path)
        if "path" not in cells:
            raise UserError(f"{path}: has no column path; it has {', '.join(cells) or 'none at all'}")
        lines = cells["path"]
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a list of paths ({error})") from error
        lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path}: names no files")
    return [path.parent / expanded(line) for line in lines]


def text(path: str | Path) -> str:
    """A path as it stands in tables and on pages; a file system may hold any bytes."""
    return str(path).encode("utf-8", "backslashreplace").decode()
