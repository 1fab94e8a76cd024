"""Signals that ask a process to end: exceptions, exit statuses, and the immediate end on a second signal."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)
HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 2.0  # seconds that the exit functions get after a second signal


class Terminated(KeyboardInterrupt):
    """Request to end that came as a signal other than SIGINT.

    It derives from KeyboardInterrupt because libraries clean up after that one, and because no `except Exception`
    catches it.

    Args:
        number: The signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(f"terminated by {signal.Signals(number).name}")
        self.number = number


class _State:
    """Process that installed the handlers, the signals that came, the open blocks, and the exit status."""

    owner = 0
    received: int | None = None
    depth = 0
    status: int | None = None
    answered: int | None = None


def exit_status(error: KeyboardInterrupt) -> int:
    """Return the exit status after an interruption: 130 after SIGINT, 143 after SIGTERM."""
    return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)


def describe(error: KeyboardInterrupt) -> str:
    """Return what ended the process, and how to continue where that is known."""
    return (str(error) if isinstance(error, Terminated) else "interrupted") + getattr(error, "advice", "")


def report(error: KeyboardInterrupt) -> None:
    """Log an interruption, unless that has been done."""
    if not getattr(error, "reported", False):
        error.reported = True  # type: ignore[attr-defined]
        log.warning("%s", describe(error))


def again(error: BaseException) -> KeyboardInterrupt:
    """Return a new interruption like the one that led to an exception, such as Lightning's SystemExit after Ctrl-C."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, Terminated):
            return Terminated(chain.number)
        if isinstance(chain, KeyboardInterrupt):
            break
        chain = chain.__cause__ or chain.__context__
    return KeyboardInterrupt()


def advise(error: KeyboardInterrupt, advice: str) -> KeyboardInterrupt:
    """Attach to an interruption how to continue, as the rest of a sentence; what is attached already stays."""
    if advice and not getattr(error, "advice", ""):
        error.advice = advice  # type: ignore[attr-defined]
    return error


def owned() -> bool:
    """Return whether this process has installed the handlers."""
    return _State.owner == os.getpid()


@contextmanager
def handled() -> Iterator[None]:
    """Raise KeyboardInterrupt or Terminated on the first signal, and end the process at once on the second.

    A signal that is ignored, as under `nohup` or in the background of a script, stays ignored. Outside of the main
    thread, where Python does not allow handlers, nothing changes. After a signal the handlers stay installed.
    """
    if (owned() and _State.depth) or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in HANDLED}
    if "multiprocessing.util" not in sys.modules:  # exit functions run from last to first, and this has to be the last
        atexit.register(_skip_finalization)
    _State.owner, _State.received, _State.depth = os.getpid(), None, 1
    rearm(before)
    try:
        yield
    finally:
        _State.depth = 0
        if _State.received is None:  # else the process is ending, and a second signal must find the handlers
            restore(before)
            atexit.unregister(_skip_finalization)


def restore(before: dict[Any, Any]) -> None:
    """Install other handlers again, and forget the signal that was received."""
    _State.owner, _State.received, _State.status = 0, None, None
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)


def rearm(ignored: dict[Any, Any] | None = None) -> None:
    """Install the handlers, except for signals that are ignored.

    Lightning ignores SIGINT while it shuts down; a callback calls this so that a second signal still ends the process.

    Args:
        ignored: Handlers by signal; those that are SIG_IGN stay. Without it all are installed.
    """
    if owned() and threading.current_thread() is threading.main_thread():
        for number in HANDLED:
            if (ignored or {}).get(number) is not signal.SIG_IGN:
                signal.signal(number, _handle)


def allow_another() -> None:
    """Let the next signal raise an exception once more, for code that answers the first one by itself."""
    _State.answered, _State.received = _State.received, None


def answered() -> None:
    """Let the process end by the signal that `allow_another` has set aside."""
    _State.received, _State.answered = _State.received or _State.answered, None


def kill_children() -> None:
    """Kill the processes that multiprocessing started here, so that nothing waits for them or outlives this process."""
    for child in active_children():
        with suppress(OSError, ValueError, AttributeError):
            child.kill()
    module = sys.modules.get("multiprocessing.forkserver")
    server: Any = getattr(module, "_forkserver", None)
    pid = getattr(server, "_forkserver_pid", None)
    if not pid or not _is_child(pid):
        return
    for process in (*_children(pid), pid):  # a worker that is just being started is in no list of this process
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
    with suppress(Exception):  # closes its pipes; a later pool starts a new one
        server._stop()


def _is_child(pid: int) -> bool:
    """Return whether a process is a child of this one, and not of one that this one was forked from."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return int(status.rpartition(")")[2].split()[1]) == os.getpid()


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started, where the system tells."""
    with suppress(OSError, ValueError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def received() -> bool:
    """Return whether a signal has come and the process is ending."""
    return owned() and _State.received is not None


def check() -> None:
    """Raise the interruption again that a library has swallowed; loops call this at each step.

    Raises:
        KeyboardInterrupt: A signal has come, and its exception ended nothing.
    """
    if received():
        raise _exception(_State.received or signal.SIGINT)


def _exception(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def ending(status: int) -> None:
    """Note the exit status of a command that a signal ended."""
    if received():
        _State.status = status


def _skip_finalization() -> None:
    """End after the exit functions: freeing all modules takes seconds, in which the interpreter handles no signals."""
    if received() and _State.status is not None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_State.status)


def _handle(number: int, frame: FrameType | None) -> None:
    if not owned():  # a forked process that has not asked for these handlers
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if _State.received is not None:
        _end_now(number)
    _State.received = number
    raise _exception(number)


def _end_now(number: int) -> None:
    """End the process without unwinding; exit functions still remove temporary folders, within seconds."""
    status = 128 + number
    for other in HANDLED:
        signal.signal(other, lambda received, _: os._exit(128 + received))
    limit = threading.Timer(GRACE, os._exit, (status,))
    limit.daemon = True
    try:
        with suppress(RuntimeError):  # the interpreter is ending already and starts no thread
            limit.start()
        with suppress(OSError):
            os.write(2, f"ended at once by a second {signal.Signals(number).name}\n".encode())
        kill_children()
        atexit._run_exitfuncs()
    finally:
        os._exit(status)
