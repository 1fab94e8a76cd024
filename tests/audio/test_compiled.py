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
