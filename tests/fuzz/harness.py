"""Check of one fuzzed input in a sandbox folder, with a time limit.

Allowed results of an input are the exit statuses 0, 1 and 2, a message for each failure, and files in the output
folders only. Everything else is a violation.

An input is determined by the name of its fuzzer and its seed. The message of a failure contains the seed. The
environment variable ETUDE_FUZZ_SEEDS selects seeds:

    ETUDE_FUZZ_SEEDS=17 python -m pytest tests/fuzz/test_overrides.py -m full
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import io
import logging
import os
import pickle
import re
import shutil
import signal
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.util import get_temp_dir
from pathlib import Path
from types import FrameType
from typing import Any

# the first import of these modules writes into the home folder
import matplotlib.pyplot  # noqa: F401
import pytest
import pytorch_lightning  # noqa: F401

from etude.errors import RunError, UserError

LIMIT = 120  # seconds for one input
INTERNAL_ERROR = re.compile(
    r"Traceback \(most recent call last\)|\b(Type|Key|Attribute|Index|Assertion|Name|UnboundLocal|Recursion|Overflow|"
    r"ZeroDivision|NotImplemented|Lookup|StopIteration|ModuleNotFound|Unicode(De|En)code)Error\b"
)
Snapshot = dict[str, str]


class InputTimeout(BaseException):
    """Time limit of an input that is exceeded.

    It is not an `Exception`, so that the code under test does not catch it.
    """


@contextmanager
def time_limit(seconds: int = LIMIT) -> Iterator[None]:
    """Raise InputTimeout in the main thread after some seconds.

    If the code does not end within another minute, all stacks are printed and the process exits.
    """

    def expire(signum: int, frame: FrameType | None) -> None:
        raise InputTimeout(f"not finished after {seconds} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        faulthandler.cancel_dump_traceback_later()


def seed_chunks(default: int, full: int, chunk: int = 25) -> list[Any]:
    """Return pytest parameters, each a range of seeds. All except the first are marked `full`.

    Args:
        default: Number of seeds in the default suite.
        full: Number of seeds in the full suite.
        chunk: Number of seeds in one test of the full suite.
    """
    if selected := os.environ.get("ETUDE_FUZZ_SEEDS"):
        return [pytest.param([int(seed) for seed in selected.split(",")], id="selected", marks=pytest.mark.full)]
    first = [pytest.param(range(default), id=f"0-{default - 1}")]
    starts = range(0, full, chunk)
    return first + [
        pytest.param(range(k, min(k + chunk, full)), id=f"full-{k}-{min(k + chunk, full) - 1}", marks=pytest.mark.full)
        for k in starts
    ]


def take_snapshot(folder: Path, without: Sequence[Path] = ()) -> Snapshot:
    """Return kind and content of every path below a folder. Links are not followed.

    Args:
        folder: Root of the tree.
        without: Folders that are skipped.
    """
    skipped, content = {str(path) for path in without}, {}
    for parent, folders, files in () if str(folder) in skipped else os.walk(folder):
        folders[:] = [name for name in folders if f"{parent}/{name}" not in skipped]
        for name in (*folders, *files):
            path = f"{parent}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                content[path] = f"link to {Path(path).readlink()}"
            elif stat.S_ISREG(mode):
                content[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            else:
                content[path] = "folder" if stat.S_ISDIR(mode) else "special"
    return content


def list_changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return a line for each path that was created, changed or deleted."""
    lines = [f"deleted {path}" for path in before.keys() - after.keys()]
    lines += [f"created {path}" for path in after.keys() - before.keys()]
    lines += [f"changed {path}" for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted(lines)


class Payload:
    """Object that creates a marker folder when its pickle is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.marker,)


class Sandbox:
    """Folder tree with bait files that must not change, a home folder and a temporary folder.

    Args:
        top: Root of the tree. The working folder is `top/middle/work`, and bait files are above and beside it.

    Attributes:
        work: Working folder.
        home: Home folder.
        tmp: Folder of temporary files.
        marker: Path that exists after a pickle of `pickled` was loaded.
    """

    def __init__(self, top: Path) -> None:
        self.top, self.work, self.home, self.tmp = top, top / "middle" / "work", top / "home", top / "tmp"
        for folder in (self.work, self.home, self.tmp, top / "middle" / "beside" / "deep", top / "outputs"):
            folder.mkdir(parents=True)
        for path in ("above.txt", "middle/beside/deep/beside.wav", "middle/train.log", "home/own.yaml", "outputs/own"):
            (top / path).write_text(f"bait {path}")
        (top / "middle" / "beside" / "link").symlink_to(top / "above.txt")
        self.marker = top / "code-was-run"

    def pickled(self) -> bytes:
        """Return a pickle that creates the marker when it is loaded."""
        return pickle.dumps(Payload(self.marker))


@contextmanager
def open_sandbox(monkeypatch: pytest.MonkeyPatch, top: Path) -> Iterator[Sandbox]:
    """Yield a sandbox, with its working, home and temporary folder in use, and delete it at the end."""
    sandbox = Sandbox(top)
    get_temp_dir()  # multiprocessing creates this folder once per process, so it must be outside of the tree
    with monkeypatch.context() as patch:
        patch.chdir(sandbox.work)
        patch.setenv("HOME", str(sandbox.home))
        patch.setenv("TMPDIR", str(sandbox.tmp))
        patch.setattr(tempfile, "tempdir", str(sandbox.tmp))
        yield sandbox
    shutil.rmtree(top, ignore_errors=True)


def run_captured(action: Callable[[], int | None]) -> tuple[int, str]:
    """Return exit status and printed text of a command or a function.

    Raises:
        Exception: Any error except the errors with messages for users.
    """
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.addHandler(handler)
    try:
        with (
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
            warnings.catch_warnings(),
            time_limit(),
        ):
            warnings.simplefilter("ignore")
            status = int(action() or 0)
    except (UserError, RunError) as error:
        return (2 if isinstance(error, UserError) else 1), f"{text.getvalue()}{error}\n"
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        return code, f"{text.getvalue()}{'' if isinstance(stop.code, int | None) else stop.code}"
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return status, text.getvalue()


def find_violations(
    sandbox: Sandbox, action: Callable[[], int | None], writes: Sequence[Path] = (), atomic: bool = False
) -> list[str]:
    """Run one input and return its violations, none if its result is allowed.

    Args:
        sandbox: Folder tree that contains the input.
        action: Command or function, which returns an exit status or raises UserError.
        writes: The only folders in which it may create, change or delete files.
        atomic: Whether a refusal (status 2) must leave these folders unchanged.
    """
    writable = [sandbox.tmp, *writes]
    before, inner = take_snapshot(sandbox.top, writable), {path: take_snapshot(path) for path in writable}
    try:
        status, text = run_captured(action)
    except InputTimeout as timeout:
        return [f"timeout: {timeout}"]
    except BaseException as error:  # not only Exception, because a library in Rust raises other errors
        return [f"exception: {type(error).__module__}.{type(error).__name__}: {error}"[:600] + _format_frames(error)]
    violations = [f"outside: {line}" for line in list_changes(before, take_snapshot(sandbox.top, writable))]
    if status not in (0, 1, 2):
        violations.append(f"status: {status}: {text[-600:]}")
    if status and not text.strip():
        violations.append(f"no message: status {status}")
    if status and (match := INTERNAL_ERROR.search(text)):
        violations.append(f"internal: {text[max(0, match.start() - 200) : match.end() + 300]}")
    for path in writable:
        after = take_snapshot(path)
        violations += [f"draft: {name}" for name in after.keys() - inner[path].keys() if name.endswith(".part")]
        if atomic and status == 2:
            violations += [f"leftover: {line}" for line in list_changes(inner[path], after)]
    temporary = list_changes(inner[sandbox.tmp], take_snapshot(sandbox.tmp))
    # the lock of numba's compilation stays for the next process
    violations += [f"temporary: {line}" for line in temporary if not re.search(r"etude-numba-\d+\.lock$", line)]
    if os.path.lexists(sandbox.marker):
        violations.append("code: a pickle of the input was loaded")
    return violations


def _format_frames(error: BaseException) -> str:
    """Return the frames of an error that are in this project, innermost last."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if f"{os.sep}etude{os.sep}" in code.co_filename:
            lines.append(f"{code.co_filename.rpartition(f'{os.sep}etude{os.sep}')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f" [{' > '.join(lines[-6:])}]"


def assert_no_violations(name: str, results: dict[int, tuple[str, list[str]]]) -> None:
    """Fail with seed, input and violations of every input that has violations.

    Args:
        name: Name of the fuzzer.
        results: Description of the input and its violations by seed.
    """
    lines = [
        f"{name} seed {seed}: {description}\n    " + "\n    ".join(violations)
        for seed, (description, violations) in results.items()
        if violations
    ]
    sys.stdout.write("\n".join(lines))  # shown immediately with `pytest -s`
    assert not lines, (
        f"{len(lines)} of {len(results)} inputs have violations; repeat one with ETUDE_FUZZ_SEEDS=<seed>\n"
        + ("\n".join(lines))
    )
