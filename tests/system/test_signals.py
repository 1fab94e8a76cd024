"""A command ends with a message and an exit status after a signal, and immediately after a second one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from etude.cli.runner import guard_command
from etude.system import signals
from etude.system.streams import track

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restored_handlers() -> Iterator[None]:
    """Restore the handlers after each test, because those of a command remain installed after a signal."""
    before = {number: signal.getsignal(number) for number in signals.HANDLED}
    for number in signals.HANDLED:
        signal.signal(number, signal.SIG_DFL)  # a shell may start tests in the background with ignored signals
    yield
    signals.restore_handlers(before)


def send(*names: str) -> Callable[[], int]:
    """Return a command that sends signals to itself."""

    def work() -> int:
        for name in names:
            os.kill(os.getpid(), getattr(signal, name))
        return 0

    return work


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("SIGINT", 130, "interrupted; run it again"),
        ("SIGTERM", 143, "terminated by SIGTERM; run it again"),
        ("SIGHUP", 129, "terminated by SIGHUP; run it again"),
    ],
)
def test_signal_ends_command_with_message_and_exit_status(
    name: str, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert guard_command(send(name), advice="; run it again") == status
    assert caplog.messages == [message]


def test_advice_of_inner_guard_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    assert guard_command(lambda: guard_command(send("SIGTERM"), advice="; inner"), advice="; outer") == 143
    assert caplog.messages == ["terminated by SIGTERM; inner"]


def test_second_signal_ends_process_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(signals, "_end_now", ended.append)

    def work() -> int:
        try:
            return send("SIGTERM")()
        finally:
            send("SIGINT")()

    guard_command(work)
    assert ended == [signal.SIGINT]


def test_suppressed_signal_is_raised_at_next_step() -> None:
    steps: list[int] = []

    def work() -> int:
        for step in track(range(5), 5, "work", "steps"):
            steps.append(step)
            with suppress(BaseException):  # as in a callback of a C library
                send("SIGTERM")()
        return 0

    assert guard_command(work) == 143
    assert steps == [0]


def test_handlers_are_restored_without_signal() -> None:
    before = {number: signal.getsignal(number) for number in signals.HANDLED}
    assert guard_command(lambda: 0) == 0
    assert {number: signal.getsignal(number) for number in signals.HANDLED} == before


def test_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert guard_command(send("SIGHUP")) == 0


def test_exception_after_signal_becomes_the_original_interruption() -> None:
    try:
        try:
            raise signals.Terminated(signal.SIGTERM)
        except KeyboardInterrupt:
            sys.exit(1)
    except SystemExit as stop:
        assert signals.exit_status(signals.original_interruption(stop)) == 143
    assert signals.exit_status(signals.original_interruption(SystemExit(1))) == 130


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find processes")
def test_two_interrupts_end_preparation_and_its_workers(tmp_path: Path) -> None:
    for number in range(32):
        folder = tmp_path / "music" / ("rock", "jazz")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(30000), 22050)
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "etude", "prepare", "data=folder", "data.source.path=music", "--workers=2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Frames of music"):  # the workers are starting
            break
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    output = process.stderr.read()
    assert process.wait(timeout=60) == 130, output
    assert "Traceback" not in output
    assert not list((tmp_path / "tmp").glob("pymp-*"))
    deadline = time.monotonic() + 20  # a killed process remains until its parent has read its status
    while running_processes(process.pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not running_processes(process.pid)


def running_processes(session: int) -> list[str]:
    """Return the ids of the running processes of a session."""
    ids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            ids.append(path.parent.name)
    return ids


ENDS = """
import atexit, sys
import etude.cli.app
import etude.cli.train

class Freed:
    def __del__(self):
        print("freed", flush=True)

kept = Freed()
kept.itself = kept
atexit.register(print, "exit function")
sys.argv = ["etude", *sys.argv[1:]]
sys.exit(etude.cli.train.main() if sys.argv[1] == "backbone=none" else etude.cli.app.main())
"""


@pytest.mark.parametrize(("argument", "status"), [("--version", 0), ("nothing", 2), ("backbone=none", 2)])
def test_process_ends_after_its_exit_functions_without_freeing_objects(argument: str, status: int) -> None:
    result = subprocess.run([sys.executable, "-c", ENDS, argument], capture_output=True, text=True, check=False)
    assert result.returncode == status
    assert result.stdout.splitlines()[-1] == "exit function"


def test_command_with_given_arguments_does_not_end_the_process() -> None:
    code = "import sys; from etude.cli.app import main; main(['nothing']); sys.exit(7)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 7
