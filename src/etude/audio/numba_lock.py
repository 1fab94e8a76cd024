"""First use of librosa's numba functions, one process at a time.

numba compiles them on import or at the first call and caches the code for later processes. Two processes that compile
at the same time can leave an inconsistent cache, and the next process that loads it crashes (numba issue 10128). Etude
starts a process for each core, so in a fresh environment all of them would compile at once.

numba cannot import a function that it caches without a writable cache folder. It tries the folder of the module and the
user's cache folder. Where both are read-only, as in many containers, a private folder is configured.
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
    """Return the path of the lock file, one per user of a machine, because caches may be per user."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")  # a UID may have no name
    return Path(tempfile.gettempdir()) / f"etude-numba-{user}.lock"


@contextmanager
def first_use(name: str) -> Iterator[None]:
    """Hold the lock while a block is executed for the first time in this process.

    Args:
        name: Name of the block. A block that raised an error counts as not yet executed. Later executions need no lock.
    """
    if name in _used:
        yield
        return
    provide_cache()
    with _lock():
        yield
    _used.add(name)


def provide_cache() -> None:
    """Configure a private cache folder for numba if no default folder is writable.

    Without any writable folder, compilation is disabled, which is slow but gives the same results.
    """
    if os.environ.get(CACHE) or _can_cache_beside_librosa() or _can_cache_for_user():
        return
    folder = private_folder("numba")
    if folder is None:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    else:
        os.environ[CACHE] = str(folder)
    if "numba" in sys.modules:  # numba was imported before and has read its environment
        from numba.core import config

        config.reload_config()  # type: ignore[no-untyped-call]


@contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock, or continue without it where no file can be locked."""
    from filelock import FileLock

    lock = FileLock(lock_file())
    try:
        lock.acquire()
    except TimeoutError:  # a subclass of OSError; another process holds the lock
        raise
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _can_cache_beside_librosa() -> bool:
    """Return whether numba can write into the folder of librosa's modules, which it tries first."""
    spec = find_spec("librosa")
    if spec is None or spec.origin is None:
        return True  # the import raises the error
    return _is_writable(Path(spec.origin).parent / "core" / "__pycache__")


def _can_cache_for_user() -> bool:
    """Return whether numba can write into the user's cache folder, which it tries second."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return not root.startswith("~") and _is_writable(Path(root) / "numba")


def _is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder, which may not exist yet."""
    while not folder.exists():
        if folder == folder.parent:
            return False
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder.is_dir()
    except OSError:
        return False
