"""Text that cannot be written to stdout or stderr is written to the log or to the other stream."""

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


class UnwritableStream(io.StringIO):
    """Stream that cannot be written."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, "refused")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Return the path of an open log file."""
    handler = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(handler)
    yield tmp_path / "train.log"
    logging.getLogger().removeHandler(handler)
    handler.close()


def print_lines(*lines: str) -> int:
    """Print lines, as a command with exit status 0."""
    for line in lines:
        print(line)  # noqa: T201
    return 0


@pytest.mark.parametrize("stdout", [None, UnwritableStream()], ids=["closed", "full"])
def test_log_contains_the_text_of_unwritable_stdout(
    stdout: Any, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    assert guard_command(lambda: print_lines("first", "second")) == 0
    assert "stdout cannot be written" in log_file.read_text()
    assert log_file.read_text().endswith("first\nsecond\n")


def test_other_stream_contains_the_text_without_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stdout", UnwritableStream())
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    assert guard_command(lambda: print_lines("first", "second")) == 0
    assert shown.getvalue() == "stdout cannot be written (refused); its text is:\nfirst\nsecond\n"


def test_exit_status_is_1_if_all_streams_are_unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, UnwritableStream())
    assert guard_command(lambda: print_lines("results")) == 1
    assert guard_command(lambda: 0) == 0


def test_closed_pipe_is_no_error(
    log_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", UnwritableStream(errno.EPIPE))
    assert guard_command(lambda: print_lines("first", "second")) == 0
    assert log_file.read_text() == ""
    assert capsys.readouterr().err == ""


def test_logged_record_is_not_repeated_in_log(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", UnwritableStream())

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
    assert guard_command(lambda: print_lines("Étude")) == 0
    assert raw.getvalue() == b"\\xc9tude\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_device_and_closed_descriptor_cause_no_traceback() -> None:
    code = "import sys; from etude.cli.app import main; sys.argv = ['etude', '--help']; sys.exit(main())"
    command = f'"{sys.executable}" -c "{code}"'
    script = f"{command} >/dev/full; echo $?; {command} 2>&1 >&- | tail -n 1; {command} >/dev/full 2>&-; echo $?"
    environment = {"PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run(script, shell=True, capture_output=True, text=True, env=environment)
    assert run.stdout == "0\n  done, 1 failed, 2 input must be corrected, 130 interrupted, 143 terminated.\n1\n"
    assert run.stderr.startswith("stdout cannot be written (No space left on device); its text is:\n")


@pytest.mark.parametrize("target", [None, io.StringIO()], ids=["closed", "open"])
def test_bytes_are_refused(target: io.StringIO | None) -> None:
    stream = streams.GuardedStream(1, target)
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"")  # type: ignore[arg-type]
    assert stream.kept == []


def test_stream_used_after_its_command_sets_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log handler may write to a guarded stream after the command has ended and the target is closed."""
    monkeypatch.delenv(streams.CLOSED_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stderr", target := io.StringIO())
    with streams.guarded():
        stream = sys.stderr
    target.close()
    stream.write("late\n")
    assert streams.CLOSED_VARIABLE not in os.environ
