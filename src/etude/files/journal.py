"""Append-only journals of whole lines, and the stamp and hash by which a file is recognised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from etude.files.atomic import open_file


class Journal:
    """Append-only file of whole lines, opened for writing; a context manager.

    A line is complete once its line break is on the disk. A process that is killed leaves at most one incomplete line,
    the last; `read_lines` does not yield it, and whoever opens the journal again removes it with `truncate`.

    Args:
        path: The file; created where it is missing. One that exists is opened only if Étude wrote it.

    Raises:
        UserError: The file belongs to somebody else; see `ownership.check`.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_file(path, "ab", buffering=0)

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._file.seek(0, os.SEEK_END)

    def append(self, line: bytes) -> int:
        """Append a line, which ends with a line break, and return the offset of its first byte."""
        start = self.size
        write_whole(self._file, line)
        return start

    def read(self, start: int) -> bytes:
        """Return the line that begins at an offset."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.readline()

    def truncate(self, size: int) -> None:
        """Remove everything behind the first `size` bytes."""
        self._file.truncate(size)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield offset and content of each complete line of a journal, with its line break.

    Raises:
        OSError: The file is missing or cannot be read.
    """
    start = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield start, line
            start += len(line)


def write_whole(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file; the operating system may take a part at a time."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[file.write(rest) :]


def file_stamp(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of change in nanoseconds since 1970 of a file; -1 and 0 if there is none."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: The file is missing or cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
