"""The first use of librosa's compiled functions in a process, while no other process has its first.

numba compiles them on import or at the first call and keeps the code in a cache for later processes. Two processes
that compile at the same time leave a cache whose parts do not belong together, and whoever loads it next crashes
(numba issue 10128). Etude starts a process for each core, so in a fresh environment they all compile at once.
"""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_used: set[str] = set()


def lock_file() -> Path:
    """The file that is locked: one for each user of a machine, because the cache may be the user's own."""
    return Path(tempfile.gettempdir()) / f"etude-numba-{getpass.getuser()}.lock"


@contextmanager
def first_use(name: str) -> Iterator[None]:
    """Hold the machine's lock while a block is run for the first time in this process; later, do nothing.

    Args:
        name: Of the block. What ended with an error counts as not yet used.
    """
    if name in _used:
        yield
        return
    from filelock import FileLock

    with FileLock(lock_file()):
        yield
    _used.add(name)
