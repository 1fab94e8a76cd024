"""Text that stdout or stderr does not take is in the log or on the other stream."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.cli.runner import guard_command
from etude.system import streams

ROOT = Path(__file__).parents[2]


class Refusing(io.StringIO):
    """Stream that takes nothing."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, "refused")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    handler = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(handler)
    yield tmp_path / "train.log"
    logging.getLogger().removeHandler(handler)
    handler.close()


def show(*lines: str) -> int:
    for line in lines:
        print(line)  # noqa: T201
    return 0


@pytest.mark.parametrize("stdout", [None, Refusing()], ids=["closed", "full"])
def test_log_has_what_stdout_does_not_take(stdout: Any, log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    assert guard_command(lambda: show("first", "second")) == 0
    assert "stdout cannot be written" in log_file.read_text()
    assert log_file.read_text().endswith("first\nsecond\n")


def test_other_stream_has_it_where_there_is_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stdout", Refusing())
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    assert guard_command(lambda: show("first", "second")) == 0
    assert shown.getvalue() == "stdout cannot be written (refused); it would have shown:\nfirst\nsecond\n"


def test_status_is_1_where_nothing_else_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Refusing())
    assert guard_command(lambda: show("results")) == 1
    assert guard_command(lambda: 0) == 0


def test_reader_that_has_read_enough_is_no_fault(
    log_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Refusing(errno.EPIPE))
    assert guard_command(lambda: show("first", "second")) == 0
    assert log_file.read_text() == ""
    assert capsys.readouterr().err == ""


def test_logged_record_is_not_repeated_in_log(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Refusing())

    def work() -> int:
        handler = streams.ScreenHandler(sys.stderr)
        logging.getLogger().addHandler(handler)
        logging.getLogger().warning("epoch 1")
        logging.getLogger().removeHandler(handler)
        return 0

    assert guard_command(work) == 0
    assert log_file.read_text() == "epoch 1\n"


def test_character_outside_the_encoding_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii"))
    assert guard_command(lambda: show("Étude")) == 0
    assert raw.getvalue() == b"\\xc9tude\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_real_full_device_and_closed_descriptor_give_no_traceback() -> None:
    code = "import sys; from etude.__main__ import main; sys.argv = ['etude', '--help']; sys.exit(main())"
    line = f'"{sys.executable}" -c "{code}"'
    run = subprocess.run(f"{line} >/dev/full; echo $?; {line} 2>&1 >&- | tail -n 1; {line} >/dev/full 2>&-; echo $?",
                         shell=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")})  # fmt: skip
    assert run.stdout == "0\n`etude <command> --help` says more.\n1\n"
    assert run.stderr.startswith("stdout cannot be written (No space left on device); it would have shown:\n")


def test_stream_that_is_used_after_its_command_tells_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log handler keeps the guarded stream of a command that has ended, and its target is closed by then."""
    monkeypatch.delenv(streams.LOST, raising=False)
    monkeypatch.setattr(sys, "stderr", target := io.StringIO())
    with streams.guarded():
        kept = sys.stderr
    target.close()
    kept.write("late\n")
    assert streams.LOST not in os.environ
