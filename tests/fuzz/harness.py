"""Watchdog, bait tree and property that every fuzzed input is checked by.

An input is known by the name of its fuzzer and its seed. The seed is part of every failure's message, and
`ETUDE_FUZZ_SEEDS=17,23` runs these seeds alone:

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

import matplotlib.pyplot  # noqa: F401  # writes into the home folder when it is imported first
import pytest
import pytorch_lightning  # noqa: F401  # and so do libraries of it

from etude.errors import RunError, UserError

LIMIT = 120  # seconds of one input
INTERNAL = re.compile(
    r"Traceback \(most recent call last\)|\b(Type|Key|Attribute|Index|Assertion|Name|UnboundLocal|Recursion|Overflow|"
    r"ZeroDivision|NotImplemented|Lookup|StopIteration|ModuleNotFound|Unicode(De|En)code)Error\b"
)
Snapshot = dict[str, str]


class Hang(BaseException):
    """An input took longer than the limit. Not an `Exception`, so that no handler of the code under test takes it."""


@contextmanager
def watchdog(seconds: int = LIMIT) -> Iterator[None]:
    """Raise Hang in the main thread after some seconds; print all stacks and end if that does not help."""

    def expire(signum: int, frame: FrameType | None) -> None:
        raise Hang(f"no end after {seconds} s")

    kept = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
        faulthandler.cancel_dump_traceback_later()


def seeds(default: int, full: int, chunk: int = 25) -> list[Any]:
    """Return pytest parameters, each a range of seeds: the first for every day, the others marked `full`.

    Args:
        default: Seeds of the default suite.
        full: Seeds of the full one, in chunks.
        chunk: Seeds in a test of the full one.
    """
    if asked := os.environ.get("ETUDE_FUZZ_SEEDS"):
        return [pytest.param([int(one) for one in asked.split(",")], id="asked", marks=pytest.mark.full)]
    first = [pytest.param(range(default), id=f"0-{default - 1}")]
    starts = range(0, full, chunk)
    return first + [
        pytest.param(range(k, min(k + chunk, full)), id=f"full-{k}-{min(k + chunk, full) - 1}", marks=pytest.mark.full)
        for k in starts
    ]


def snapshot(folder: Path, without: Sequence[Path] = ()) -> Snapshot:
    """Return kind and content of every path below a folder; links are not followed.

    Args:
        folder: Where.
        without: Folders that are left out, with all that is in them.
    """
    skipped, found = {str(path) for path in without}, {}
    for home, folders, files in () if str(folder) in skipped else os.walk(folder):
        folders[:] = [name for name in folders if f"{home}/{name}" not in skipped]
        for name in (*folders, *files):
            path = f"{home}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[path] = f"link to {Path(path).readlink()}"
            elif stat.S_ISREG(mode):
                found[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            else:
                found[path] = "folder" if stat.S_ISDIR(mode) else "special"
    return found


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return a line for each path that was created, changed or deleted."""
    lines = [f"deleted {path}" for path in before.keys() - after.keys()]
    lines += [f"created {path}" for path in after.keys() - before.keys()]
    lines += [f"changed {path}" for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted(lines)


class Payload:
    """An object whose pickle writes a marker file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.marker,)


class Room:
    """A folder tree for inputs: bait above and beside the working folder, a home and a temporary folder of its own.

    Args:
        top: An empty folder. The working folder is `top/middle/work`.
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
        """Return a pickle that leaves a marker when something loads it."""
        return pickle.dumps(Payload(self.marker))


@contextmanager
def room(monkeypatch: pytest.MonkeyPatch, top: Path) -> Iterator[Room]:
    """Yield a Room as the working folder, with home and temporary folder in it; all of it is deleted at the end."""
    made = Room(top)
    get_temp_dir()  # of multiprocessing: it stays until this process ends, so it may not be in the tree
    with monkeypatch.context() as patch:
        patch.chdir(made.work)
        patch.setenv("HOME", str(made.home))
        patch.setenv("TMPDIR", str(made.tmp))
        patch.setattr(tempfile, "tempdir", str(made.tmp))
        yield made
    shutil.rmtree(top, ignore_errors=True)


def call(work: Callable[[], int | None]) -> tuple[int, str]:
    """Return exit status and printed text of a command or a function.

    Raises:
        Exception: Whatever escapes, other than the errors whose message is for users.
    """
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    root.addHandler(handler)
    try:
        with (
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
            warnings.catch_warnings(),
            watchdog(),
        ):
            warnings.simplefilter("ignore")
            status = int(work() or 0)
    except (UserError, RunError) as error:
        return (2 if isinstance(error, UserError) else 1), f"{text.getvalue()}{error}\n"
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        return code, f"{text.getvalue()}{'' if isinstance(stop.code, int | None) else stop.code}"
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    return status, text.getvalue()


def faults(made: Room, work: Callable[[], int | None], writes: Sequence[Path] = (), quiet: bool = False) -> list[str]:
    """Return every breach of the property by one input; empty when there is none.

    Args:
        made: The tree in which the input lies.
        work: The command or function on it, which returns an exit status or raises UserError.
        writes: The only folders in which it may create, change or delete anything.
        quiet: Whether a refusal (status 2) must leave nothing at all, not even in these folders.
    """
    own = [made.tmp, *writes]
    before, inner = snapshot(made.top, own), {path: snapshot(path) for path in own}
    try:
        status, text = call(work)
    except Hang as hang:
        return [f"hang: {hang}"]
    except BaseException as error:  # also what is no Exception, as a panic of a library in another language
        return [f"escaped: {type(error).__module__}.{type(error).__name__}: {error}"[:600] + _where(error)]
    found = [f"outside: {line}" for line in changes(before, snapshot(made.top, own))]
    if status not in (0, 1, 2):
        found.append(f"status: {status}: {text[-600:]}")
    if status and not text.strip():
        found.append(f"silent: status {status} without a word")
    if status and (hit := INTERNAL.search(text)):
        found.append(f"internal: {text[max(0, hit.start() - 200) : hit.end() + 300]}")
    for path in own:
        after = snapshot(path)
        found += [f"draft: {one}" for one in after.keys() - inner[path].keys() if one.endswith(".part")]
        if quiet and status == 2:
            found += [f"leftover: {line}" for line in changes(inner[path], after)]
    temporary = changes(inner[made.tmp], snapshot(made.tmp))
    # the lock of compiling is kept for the next process
    found += [f"temporary: {line}" for line in temporary if not re.search(r"etude-numba-\d+\.lock$", line)]
    if os.path.lexists(made.marker):
        found.append("code: a pickle of the input was loaded")
    return found


def _where(error: BaseException) -> str:
    """Return the frames of an error that are in this project, innermost last."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if f"{os.sep}etude{os.sep}" in code.co_filename:
            lines.append(f"{code.co_filename.rpartition(f'{os.sep}etude{os.sep}')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f" [{' > '.join(lines[-6:])}]"


def assert_none(name: str, found: dict[int, tuple[str, list[str]]]) -> None:
    """Fail with the seed, the input and the breaches of every input that has some.

    Args:
        name: Of the fuzzer.
        found: By seed, a description of the input and its breaches.
    """
    lines = [
        f"{name} seed {seed}: {about}\n    " + "\n    ".join(breaches)
        for seed, (about, breaches) in found.items()
        if breaches
    ]
    sys.stdout.write("\n".join(lines))  # at once, with `pytest -s`
    assert not lines, (
        f"{len(lines)} of {len(found)} inputs break the rules; repeat one with ETUDE_FUZZ_SEEDS=<seed>\n"
        + ("\n".join(lines))
    )
