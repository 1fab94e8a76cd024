"""Tests of the lock around the first use of compiled functions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from etude.audio import numba_lock
from etude.audio.numba_lock import first_use

pytestmark = pytest.mark.usefixtures("compiled_librosa")
OTHER_PROCESS = """
import sys
from pathlib import Path
from filelock import Timeout
import filelock
from etude.audio import numba_lock
numba_lock.lock_file = lambda: Path(sys.argv[1])
lock = filelock.FileLock
filelock.FileLock = lambda path: lock(path, timeout=0)
try:
    with numba_lock.first_use("beats"):
        print("used")
except Timeout:
    print("waits")
"""

PRINT_LOADS_WITHOUT_LOCK = """
from contextlib import contextmanager
import numpy as np
from numba.core.caching import Cache
from etude.audio import numba_lock

held, loads, original = [], [0], numba_lock.first_use

@contextmanager
def recorded(name):
    with original(name):
        held.append(name)
        yield
        held.pop()

def load(cache, *args):
    loads[0] += 1
    if not held:
        print(cache._py_func.__qualname__)
    return plain(cache, *args)

numba_lock.first_use = recorded
plain, Cache.load_overload = Cache.load_overload, load
from etude.audio import descriptors
from etude.audio.log_mel import LogMelChroma
audio = np.random.default_rng(0).standard_normal(22050 * 3).astype(np.float32)
for choice in CHOICES:
    LogMelChroma(**choice).frames(audio)
for name in ("pulse_clarity", "brightness", "mode"):
    getattr(descriptors, name)(audio, 22050)
assert loads[0] > 9
"""


@pytest.fixture
def other_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command of another process, which prints whether it waits for this one."""
    monkeypatch.setattr(numba_lock, "lock_file", lambda: tmp_path / "lock")
    monkeypatch.setattr(numba_lock, "_used", set())
    return [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "lock")]


def run_command(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_another_process_waits_only_for_the_first_use(other_command: list[str]) -> None:
    with first_use("beats"):
        assert run_command(other_command) == "waits"
    with first_use("beats"):
        assert run_command(other_command) == "used"


def test_failed_block_counts_as_unused(other_command: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), first_use("beats"):
        raise ZeroDivisionError
    with first_use("beats"):
        assert run_command(other_command) == "waits"
    with first_use("tuning"):
        assert run_command(other_command) == "waits"


@pytest.mark.full
def test_compiled_functions_are_first_used_with_the_lock() -> None:
    choices = [{}, {"tuning": None}, {"chroma": "cqt"}, {"sync": "beat"}]
    assert run_command([sys.executable, "-c", PRINT_LOADS_WITHOUT_LOCK.replace("CHOICES", repr(choices))]) == ""


def test_lock_file_does_not_need_a_user_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert numba_lock.lock_file().name.endswith(".lock")


@pytest.mark.parametrize(
    ("beside", "cache", "private"), [(True, False, False), (False, True, False), (False, False, True)]
)
def test_private_cache_folder_is_configured_if_necessary(
    beside: bool, cache: bool, private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(numba_lock.CACHE, raising=False)
    monkeypatch.setattr(numba_lock, "private_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(numba_lock, "_can_cache_beside_librosa", lambda: beside)
    monkeypatch.setattr(numba_lock, "_can_cache_for_user", lambda: cache)
    monkeypatch.setattr(numba_lock, "sys", SimpleNamespace(modules={}))
    numba_lock.provide_cache()
    assert os.environ.get(numba_lock.CACHE) == (str(tmp_path / "numba") if private else None)
    monkeypatch.delenv(numba_lock.CACHE, raising=False)


def test_compilation_is_disabled_without_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(numba_lock.CACHE, raising=False)
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    for name in ("_can_cache_beside_librosa", "_can_cache_for_user"):
        monkeypatch.setattr(numba_lock, name, lambda: False)
    monkeypatch.setattr(numba_lock, "private_folder", lambda _: None)
    monkeypatch.setattr(numba_lock, "sys", SimpleNamespace(modules={}))
    numba_lock.provide_cache()
    assert os.environ["NUMBA_DISABLE_JIT"] == "1"


def test_missing_folder_is_writable_if_its_parent_is(tmp_path: Path) -> None:
    assert numba_lock._is_writable(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    assert not numba_lock._is_writable(tmp_path / "file" / "b")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_block_runs_without_a_lock_if_no_file_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_lock, "lock_file", lambda: tmp_path / "file" / "lock")
    (tmp_path / "file").touch()
    monkeypatch.setattr(numba_lock, "_used", set())
    with first_use("beats"):
        pass
    assert numba_lock._used == {"beats"}
