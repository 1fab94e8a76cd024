"""Only one process writes to a folder, and another one is refused or waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from etude.errors import UserError
from etude.files import atomic
from etude.files.lock import Lock

HOLD = """
import sys
from pathlib import Path
from etude.files.lock import Lock
lock = Lock(Path(sys.argv[1]), "a run")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_second_process_is_refused_and_first_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for _ in range(2):  # a refused process must not change the description of the holder
            with pytest.raises(UserError, match=rf"a run: another process is writing to it \(process {holder.pid} on "):
                Lock(path, "a run").acquire()
        holder.kill()
        holder.wait()
    lock = Lock(path, "a run")
    lock.acquire()  # the lock ended with its process
    assert f"process {os.getpid()} on" in lock.holder()
    lock.release()
    lock.release()
    assert lock.holder() == "unknown process"


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_path_that_is_no_file_is_refused_as_lock(kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("other")
    path = tmp_path / "run" / ".lock"
    path.parent.mkdir()
    if kind == "link":
        path.symlink_to(other)
    else:
        path.mkdir()
    with pytest.raises(UserError, match=r"\.lock: is not a regular file"):
        Lock(path, "a run").acquire()
    assert other.read_text() == "other"


def test_file_of_another_program_is_not_changed_by_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("other")
    with pytest.raises(UserError, match=r"\.lock: was not created by Étude"):
        Lock(path, "a run").acquire()
    atomic.remove_created(tmp_path)
    assert path.read_text() == "other"
    path.write_text("")  # as a lock of a process that ended before it was listed
    with Lock(path, "a run") as lock:
        lock.acquire()
    atomic.remove_created(tmp_path)
    assert path.exists()
