"""Append-only journals, locks that allow only one process to write, and stamps and hashes that identify a file."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from etude.errors import UserError
from etude.files import atomic, ownership

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger(__name__)
RUN_LOCK = ".lock"  # name of the lock file in a run folder


class Lock:
    """Exclusive lock on a folder, which the system releases when the process ends or is killed.

    As a context manager, the lock is released at the end of the block.

    Args:
        path: The lock file, which is kept after the release. A file beside it, `<name>.holder`, describes the process
            that holds the lock.
        subject: The locked folder, for error messages.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self.path, self.subject = path, subject
        self._holder_path = path.with_name(f"{path.name}.holder")
        self._lock: BaseFileLock | None = None

    def acquire(self, wait: bool = False) -> None:
        """Acquire the lock.

        Args:
            wait: Whether to wait while another process holds the lock.

        Raises:
            UserError: Another process holds the lock and `wait` is false, or the path is not a lock file.
            OSError: The lock file cannot be created.
        """
        from filelock import FileLock, Timeout  # heavy: asyncio

        new = not os.path.lexists(self.path)
        if not new and (self.path.is_symlink() or not self.path.is_file()):
            raise UserError(
                f"{self.path}: is not a regular file, but this path is needed for the lock file; move or delete it"
            )
        if not new and self.path.stat().st_size and not ownership.owned(self.path):  # lock files are empty
            raise UserError(
                f"{self.path}: was not created by Étude, but its lock file needs this name; move the existing file away"
            )
        ownership.record(self.path)
        lock = FileLock(self.path)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                if not wait:
                    raise UserError(f"{self.subject}: another process is writing to it ({self.holder()})") from error
                log.info("%s: waiting for another process (%s)", self.subject, self.holder())
                lock.acquire()
        except NotImplementedError:  # a file system without locks, such as some network file systems
            log.warning("%s: this file system has no locks; do not start a second process for it", self.subject)
            return
        self._lock = lock
        if new:  # otherwise another process created it, and this process must not remove it
            ownership.mark_created(self.path)
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        with suppress(OSError, UserError):
            atomic.write_text(self._holder_path, f"process {os.getpid()} on {socket.gethostname()}: {command}\n")

    def release(self) -> None:
        """Release the lock. A second call has no effect."""
        if self._lock is not None:
            with suppress(OSError):
                atomic.remove(self._holder_path, keep_listed=True)
            self._lock.release()
            self._lock = None

    def holder(self) -> str:
        """Return a description of the process that holds the lock."""
        try:
            return self._holder_path.read_text("utf-8").strip() or "unknown process"
        except (OSError, ValueError):
            return "unknown process"

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


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
        self._file = atomic.open_file(path, "ab", buffering=0)

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
