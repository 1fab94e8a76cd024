"""Append-only journals of complete lines, and stamps and hashes that identify a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from etude.files.atomic import open_file


class Journal:
    """Append-only file of complete lines, opened for writing. It is a context manager.

    A line is complete if its line break was written. If a process is killed, only the last line can be incomplete.
    `read_lines` does not yield an incomplete line. Remove it with `truncate` before you append more lines.

    Args:
        path: The file, which is created if it is missing. An existing file is opened only if Étude wrote it.

    Raises:
        UserError: Étude did not write the existing file; see `ownership.check`.
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
        """Append a line with its line break, and return the offset of its first byte."""
        start = self.size
        write_all(self._file, line)
        return start

    def read(self, start: int) -> bytes:
        """Return the line that begins at an offset."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.readline()

    def truncate(self, size: int) -> None:
        """Remove all bytes after the first `size` bytes."""
        self._file.truncate(size)

    def close(self) -> None:
        """Close the file. A second call has no effect."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the bytes of each complete line of a journal, with its line break.

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


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file, because one call of `write` may write only some of them."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[file.write(rest) :]


def file_stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and modification time in nanoseconds, or -1 and 0 if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def file_hash(path: Path) -> str:
    """Return the SHA-256 hash of a file as hexadecimal text.

    Raises:
        OSError: The file is missing or cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
