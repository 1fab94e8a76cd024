"""A journal contains complete lines only, and only one process holds a lock."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from etude.errors import UserError
from etude.files import atomic
from etude.files.journal import Journal, Lock, file_stamp, read_lines, write_all

HOLD = """
import sys
from pathlib import Path
from etude.files.journal import Lock
lock = Lock(Path(sys.argv[1]), "a run")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_lines_are_read_back_with_their_offsets(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        starts = [journal.append(line) for line in (b"one\n", b"\xc2\x85two\r\n", b"three\n")]
        assert starts == [0, 4, 11] and journal.size == 17
        assert journal.read(4) == b"\xc2\x85two\r\n"  # only a line feed ends a line
    assert list(read_lines(tmp_path / "journal")) == [(0, b"one\n"), (4, b"\xc2\x85two\r\n"), (11, b"three\n")]


def test_incomplete_last_line_is_not_read_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.append(b"one\n")
    with path.open("ab") as file:
        file.write(b"two")
    lines = list(read_lines(path))
    assert lines == [(0, b"one\n")]
    with Journal(path) as journal:
        journal.truncate(sum(len(line) for _, line in lines))
        journal.append(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


def test_existing_file_of_another_program_is_not_opened_as_journal(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("other\n")
    with pytest.raises(UserError, match="exists and is not in"):
        Journal(tmp_path / "journal")


def test_partial_writes_are_continued() -> None:
    class Slow(io.BytesIO):
        def write(self, data: object) -> int:
            return super().write(memoryview(data)[:2])  # type: ignore[arg-type]

    file = Slow()
    write_all(file, b"seven b")
    assert file.getvalue() == b"seven b"


def test_stamp_is_size_and_modification_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_stamp(tmp_path / "file") == (3, (tmp_path / "file").stat().st_mtime_ns)
    assert file_stamp(tmp_path / "missing") == (-1, 0)


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
