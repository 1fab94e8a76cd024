"""First use of librosa's numba functions, one process at a time.

numba compiles them on import or at the first call and keeps the code in a cache for later processes. Two processes
that compile at the same time leave a cache whose parts do not belong together, and whoever loads it next crashes
(numba issue 10128). Etude starts a process for each core, so in a fresh environment they all compile at once.

numba refuses to import such a function where it finds no folder for its cache. It looks beside the module and in the
user's cache folder; where both are read-only, as in many containers, it is given a private one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from etude.system.machine import private_folder

CACHE = "NUMBA_CACHE_DIR"
_used: set[str] = set()


def lock_file() -> Path:
    """Return the file that is locked: one for each user of a machine, because the cache may be the user's own."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")  # a number needs no entry
    return Path(tempfile.gettempdir()) / f"etude-numba-{user}.lock"


@contextmanager
def first_use(name: str) -> Iterator[None]:
    """Hold the machine's lock while a block is run for the first time in this process; later, do nothing.

    Args:
        name: Of the block. What ended with an error counts as not yet used.
    """
    if name in _used:
        yield
        return
    provide_cache()
    with _lock():
        yield
    _used.add(name)


def provide_cache() -> None:
    """Give numba a private folder for its cache where it would find none.

    Without any writable folder its functions are not compiled: slow, with the same results.
    """
    if os.environ.get(CACHE) or _beside_librosa() or _user_cache():
        return
    folder = private_folder("numba")
    if folder is None:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    else:
        os.environ[CACHE] = str(folder)
    if "numba" in sys.modules:  # it has read its environment already
        from numba.core import config

        config.reload_config()  # type: ignore[no-untyped-call]


@contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock, or nothing where no file can be locked."""
    from filelock import FileLock

    lock = FileLock(lock_file())
    try:
        lock.acquire()
    except TimeoutError:  # an OSError as well: another process holds it
        raise
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _beside_librosa() -> bool:
    """Return whether numba may write beside librosa's modules, the first folder that it tries."""
    spec = find_spec("librosa")
    if spec is None or spec.origin is None:
        return True  # the import will say so
    return _writable(Path(spec.origin).parent / "core" / "__pycache__")


def _user_cache() -> bool:
    """Return whether numba may write into the user's cache folder, the second that it tries."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return not root.startswith("~") and _writable(Path(root) / "numba")


def _writable(folder: Path) -> bool:
    """Return whether a file can be made in a folder, or the folder itself where it is not there yet."""
    while not folder.exists():
        if folder == folder.parent:
            return False
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder.is_dir()
    except OSError:
        return False
