"""A journal contains complete lines only, and an incomplete last line is not read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from etude.errors import UserError
from etude.files.journal import Journal, file_stamp, read_lines, write_all


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
