"""Running of a command: errors as sentences, exit statuses, guarded streams and signals."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from etude.config.options import asks_for_help
from etude.errors import RunError, UserError
from etude.files import os_errors
from etude.files.atomic import remove_empty_folders
from etude.system import signals, streams

log = logging.getLogger(__name__)


def guard_command(work: Callable[[], int], way_out: str = "", advice: str = "") -> int:
    """Run a command to its exit status.

    SIGTERM ends it as Ctrl-C does, and a second signal at once. What a closed or full stdout or stderr does not take is
    shown elsewhere. A guard inside another one leaves signals and streams to the outer one.

    Args:
        work: The command; returns its status.
        way_out: What to change when a place cannot be written, such as `name another folder with to=<folder>`.
        advice: How to continue after an interruption, as the rest of a sentence.

    Returns:
        The command's own status, usually 0; 1 when it failed; 2 when its input has to be corrected; 130 after Ctrl-C;
        143 after SIGTERM. Where neither a stream nor a log could take the output, 0 becomes 1.
    """
    with streams.guarded() as guarded:
        nested = not guarded
        with signals.handle_signals():
            try:
                status = work()
            except KeyboardInterrupt as error:
                signals.advise(error, advice)
                if nested:
                    raise
                signals.kill_children()
                signals.report(error)
                if signals.received():
                    atexit.register(logging.disable, logging.INFO)  # libraries report statistics as the process ends
                status = signals.exit_status(error)
            except Exception as error:
                explained = os_errors.to_user_error(error, way_out)
                if explained is None:
                    raise
                if isinstance(error, OSError):
                    log.debug("the error", exc_info=True)
                status = _refused(explained)
        if status and not nested:
            with suppress(OSError):
                remove_empty_folders()
        for stream in guarded:
            stream.flush()
        if not streams.deliver(guarded):
            status = status or 1
    signals.set_exit_status(status)
    return status


def run_command(
    argv: Sequence[str] | None,
    help: str | Callable[[], str],
    work: Callable[[list[str]], Iterable[Path]],
    way_out: str = "",
    advice: str = "",
    level: int = logging.INFO,
) -> int:
    """Run a command that writes files, and print their paths.

    Args:
        argv: The words of the command; None takes those of the process.
        help: Text that is printed if it is asked for or there are no words; or a function that returns it.
        work: Function from the words to the files that it wrote; raises UserError if the words have to be corrected.
        way_out: What to change when a place cannot be written; see `guard_command`.
        advice: How to continue after an interruption; see `guard_command`.
        level: Level from which log messages are printed.

    Returns:
        The exit status; see `guard_command`.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        if not words or asks_for_help(words):
            print(help if isinstance(help, str) else help())  # noqa: T201
            return 0
        logging.basicConfig(level=level, format="%(message)s")
        for page in work(words):
            print(page)  # noqa: T201
        return 0

    return guard_command(run, way_out, advice)


def _refused(error: UserError | RunError) -> int:
    """Print the sentence of an error; return the exit status that goes with it."""
    if str(error):  # of several processes the first one speaks
        print(error, file=sys.stderr)  # noqa: T201
    return 1 if isinstance(error, RunError) else 2
