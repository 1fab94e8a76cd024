"""Locks that allow only one process to write to a folder."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

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
