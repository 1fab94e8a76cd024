"""Conversion of termination signals to exceptions and exit statuses.

A second signal ends the process immediately.
"""

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
GRACE_SECONDS = 2.0  # time limit of the exit functions after a second signal


class Terminated(KeyboardInterrupt):
    """Interruption by a signal other than SIGINT.

    It is a KeyboardInterrupt, because libraries clean up after a KeyboardInterrupt, and `except Exception` does not
    catch it.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(f"terminated by {signal.Signals(number).name}")
        self.number = number


class _State:
    """State of the handlers in this process."""

    owner = 0  # id of the process that installed the handlers
    received: int | None = None  # signal that is ending the process
    depth = 0  # number of open blocks of `handle_signals`
    status: int | None = None  # exit status of the command
    set_aside: int | None = None  # signal that was set aside by `allow_another`


def exit_status(error: KeyboardInterrupt) -> int:
    """Return the exit status for an interruption, such as 130 for SIGINT and 143 for SIGTERM."""
    return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)


def describe(error: KeyboardInterrupt) -> str:
    """Return the reason of the interruption, followed by the advice that is attached to it."""
    return (str(error) if isinstance(error, Terminated) else "interrupted") + getattr(error, "advice", "")


def report(error: KeyboardInterrupt) -> None:
    """Log an interruption that was not logged before."""
    if not getattr(error, "reported", False):
        error.reported = True  # type: ignore[attr-defined]
        log.warning("%s", describe(error))


def original_interruption(error: BaseException) -> KeyboardInterrupt:
    """Return a new interruption of the same kind as the cause of an exception, such as Lightning's SystemExit."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, Terminated):
            return Terminated(chain.number)
        if isinstance(chain, KeyboardInterrupt):
            break
        chain = chain.__cause__ or chain.__context__
    return KeyboardInterrupt()


def advise(error: KeyboardInterrupt, advice: str) -> KeyboardInterrupt:
    """Attach the end of a sentence that advises how to continue, unless the interruption has such advice already."""
    if advice and not getattr(error, "advice", ""):
        error.advice = advice  # type: ignore[attr-defined]
    return error


def is_owner() -> bool:
    """Return whether this process has installed the handlers."""
    return _State.owner == os.getpid()


@contextmanager
def handle_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt or Terminated on the first signal, and end the process immediately on the second.

    A signal that is ignored, as with `nohup` or in the background of a script, remains ignored. Outside of the main
    thread, the block has no effect, because Python does not allow handlers there. After a signal, the handlers remain
    installed.
    """
    if (is_owner() and _State.depth) or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in HANDLED}
    _State.owner, _State.received, _State.depth = os.getpid(), None, 1
    install_handlers(before)
    try:
        yield
    finally:
        _State.depth = 0
        if _State.received is None:  # otherwise the process is ending, and the handlers must receive a second signal
            restore_handlers(before)


def restore_handlers(before: dict[Any, Any]) -> None:
    """Install the previous handlers, and clear the received signal."""
    _State.owner, _State.received, _State.status = 0, None, None
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)


def install_handlers(before: dict[Any, Any] | None = None) -> None:
    """Install the handlers, except for signals that were ignored.

    Lightning ignores SIGINT while it shuts down. A callback calls this function, so that a second signal still ends the
    process.

    Args:
        before: Previous handlers by signal. A handler SIG_IGN is kept. None installs all handlers.
    """
    if is_owner() and threading.current_thread() is threading.main_thread():
        for number in HANDLED:
            if (before or {}).get(number) is not signal.SIG_IGN:
                signal.signal(number, _handle)


def allow_another() -> None:
    """Set the received signal aside for code that handles it, so that the next signal raises an exception."""
    _State.set_aside, _State.received = _State.received, None


def restore_received() -> None:
    """Restore the signal that `allow_another` set aside, so that it ends the process."""
    _State.received, _State.set_aside = _State.received or _State.set_aside, None


def kill_children() -> None:
    """Kill the child processes of multiprocessing, so that this process does not wait for them and none remains."""
    for child in active_children():
        with suppress(OSError, ValueError, AttributeError):
            child.kill()
    module = sys.modules.get("multiprocessing.forkserver")
    server: Any = getattr(module, "_forkserver", None)
    pid = getattr(server, "_forkserver_pid", None)
    if not pid or not _is_child(pid):
        return
    for process in (*_children(pid), pid):  # this process has no list of workers that are just starting
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
    with suppress(Exception):  # closes the pipes of the server; a later pool starts a new server
        server._stop()


def _is_child(pid: int) -> bool:
    """Return whether a process is a child of this process.

    A forked process inherits process ids from its parent, but these processes are not its children.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return int(status.rpartition(")")[2].split()[1]) == os.getpid()


def _children(pid: int) -> list[int]:
    """Return the child processes of a process, if the system lists them."""
    with suppress(OSError, ValueError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def received() -> bool:
    """Return whether a signal was received and the process is ending."""
    return is_owner() and _State.received is not None


def raise_received() -> None:
    """Raise KeyboardInterrupt again if a signal was received, in case a library suppressed the first one.

    Loops call this at each step.

    Raises:
        KeyboardInterrupt: A signal was received.
    """
    if received():
        raise _exception(_State.received or signal.SIGINT)


def _exception(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def set_exit_status(status: int, is_last: bool = False) -> None:
    """Store the exit status of a command.

    Args:
        status: The exit status.
        is_last: Whether the process ends after the command. It also ends after a signal.
    """
    if is_last or received():
        _State.status = status


def _skip_finalization() -> None:
    """End the process after the exit functions and before Python frees all modules.

    Freeing the objects of torch and Lightning takes as long as half of an import of torch, and signals are not handled
    meanwhile.
    """
    if _State.status is not None:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(_State.status)


if "multiprocessing.util" not in sys.modules:  # exit functions run in reverse order, and this one must be the last
    atexit.register(_skip_finalization)


def _handle(number: int, frame: FrameType | None) -> None:
    if not is_owner():  # a forked process that has not installed these handlers
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
    """End the process without unwinding the stack. Exit functions have a time limit to remove temporary folders."""
    status = 128 + number
    for other in HANDLED:
        signal.signal(other, lambda received, _: os._exit(128 + received))
    limit = threading.Timer(GRACE_SECONDS, os._exit, (status,))
    limit.daemon = True
    try:
        with suppress(RuntimeError):  # the ending interpreter cannot start a thread
            limit.start()
        with suppress(OSError):
            os.write(2, f"ended immediately by a second {signal.Signals(number).name}\n".encode())
        kill_children()
        atexit._run_exitfuncs()
    finally:
        os._exit(status)
