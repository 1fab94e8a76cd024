"""The first use of compiled code in a process is had while no other process has its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etude.audio import compiled
from etude.audio.compiled import first_use

OTHER = """
import sys
from pathlib import Path
from filelock import Timeout
import filelock
from etude.audio import compiled
compiled.lock_file = lambda: Path(sys.argv[1])
lock = filelock.FileLock
filelock.FileLock = lambda path: lock(path, timeout=0)
try:
    with compiled.first_use("beats"):
        print("used")
except Timeout:
    print("waits")
"""

EACH = """
from contextlib import contextmanager
import numpy as np
from numba.core.caching import Cache
from etude.audio import compiled

held, loads, alone = [], [0], compiled.first_use

@contextmanager
def seen(name):
    with alone(name):
        held.append(name)
        yield
        held.pop()

def load(cache, *args):
    loads[0] += 1
    if not held:
        print(cache._py_func.__qualname__)
    return plain(cache, *args)

compiled.first_use = seen
plain, Cache.load_overload = Cache.load_overload, load
from etude.audio import descriptors
from etude.audio.spectral import FrontEnd
audio = np.random.default_rng(0).standard_normal(22050 * 3).astype(np.float32)
for choice in CHOICES:
    FrontEnd(**choice).frames(audio)
for name in ("pulse_clarity", "brightness", "mode"):
    getattr(descriptors, name)(audio, 22050)
assert loads[0] > 9
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of another process, which says whether it had to wait for this one."""
    monkeypatch.setattr(compiled, "lock_file", lambda: tmp_path / "lock")
    monkeypatch.setattr(compiled, "_used", set())
    return [sys.executable, "-c", OTHER, str(tmp_path / "lock")]


def said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_another_process_waits_for_the_first_use_and_for_no_later_one(other: list[str]) -> None:
    with first_use("beats"):
        assert said(other) == "waits"
    with first_use("beats"):
        assert said(other) == "used"


def test_what_failed_is_not_yet_used(other: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), first_use("beats"):
        raise ZeroDivisionError
    with first_use("beats"):
        assert said(other) == "waits"
    with first_use("tuning"):
        assert said(other) == "waits"


def test_whatever_is_compiled_is_used_first_behind_the_lock() -> None:
    choices = [{}, {"tuning": None}, {"chroma": "cqt"}, {"sync": "beat"}]
    assert said([sys.executable, "-c", EACH.replace("CHOICES", repr(choices))]) == ""
