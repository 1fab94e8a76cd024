"""Locks: of several processes, one writes into a folder."""

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
RUN = ".lock"  # of the folder of a run


class Lock:
    """Exclusive lock that ends with its process, however the process ends; as a context manager it is released.

    Args:
        path: The lock file; it stays. A file beside it, `<name>.holder`, names the process that holds the lock.
        subject: The locked folder, as error messages name it.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self.path, self.subject = path, subject
        self._holder = path.with_name(f"{path.name}.holder")
        self._lock: BaseFileLock | None = None

    def acquire(self, wait: bool = False) -> None:
        """Take the lock.

        Args:
            wait: Whether to wait for a process that holds it.

        Raises:
            UserError: Another process holds it and this one does not wait; or something else has the name of the lock.
            OSError: The lock file cannot be created.
        """
        from filelock import FileLock, Timeout  # heavy: asyncio

        new = not os.path.lexists(self.path)
        if not new and (self.path.is_symlink() or not self.path.is_file()):
            raise UserError(f"{self.path}: is not a file, and a lock must have this name; remove it")
        if not new and self.path.stat().st_size and not ownership.owned(self.path):  # locks are empty
            raise UserError(f"{self.path}: is not a lock of Étude, and a lock must have this name; move it away")
        ownership.record(self.path)
        lock = FileLock(self.path)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                if not wait:
                    raise UserError(f"{self.subject}: another process writes there ({self.holder()})") from error
                log.info("%s: waiting for another process (%s)", self.subject, self.holder())
                lock.acquire()
        except NotImplementedError:  # a file system without locks, as some network file systems are
            log.warning("%s: this file system has no locks; start no second process there", self.subject)
            return
        self._lock = lock
        if new:  # else another process wrote it, and this one may not remove it
            ownership.mark_created(self.path)
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        with suppress(OSError, UserError):
            atomic.write_text(self._holder, f"process {os.getpid()} on {socket.gethostname()}: {command}\n")

    def release(self) -> None:
        """Let the lock go; a second call does nothing."""
        if self._lock is not None:
            with suppress(OSError):
                atomic.remove(self._holder, keep_listed=True)
            self._lock.release()
            self._lock = None

    def holder(self) -> str:
        """Return the process that holds the lock, as text."""
        try:
            return self._holder.read_text("utf-8").strip() or "unknown process"
        except (OSError, ValueError):
            return "unknown process"

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *ended: object) -> None:
        self.release()
