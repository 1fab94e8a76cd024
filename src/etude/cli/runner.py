"""Execution of a command with error messages, exit statuses, and guarded streams and signals."""

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


def guard_command(function: Callable[[], int], remedy: str = "", advice: str = "") -> int:
    """Run a command and return its exit status.

    SIGTERM ends the command like Ctrl-C, and a second signal ends it immediately. If stdout or stderr is closed or
    full, its text is written to the log or the other stream. In a nested call, the outer call handles signals and
    streams.

    Args:
        function: The command. It returns its status.
        remedy: Remedy if a path cannot be written, such as `name another folder with to=<folder>`.
        advice: How to continue after an interruption, as the end of a sentence.

    Returns:
        The status of the command, usually 0; 1 if it failed; 2 if its input must be corrected; 130 after Ctrl-C; 143
        after SIGTERM. If the output cannot be written anywhere, 0 becomes 1.
    """
    with streams.guarded() as guarded:
        nested = not guarded
        with signals.handle_signals():
            try:
                status = function()
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
                explained = os_errors.to_user_error(error, remedy)
                if explained is None:
                    raise
                if isinstance(error, OSError):
                    log.debug("the error", exc_info=True)
                status = _print_error(explained)
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
    function: Callable[[list[str]], Iterable[Path]],
    remedy: str = "",
    advice: str = "",
    level: int = logging.INFO,
) -> int:
    """Run a command that writes files, and print their paths.

    Args:
        argv: Arguments of the command. None uses the arguments of the process.
        help: Help text, or a function that returns it. It is printed for `--help`, and if there are no arguments.
        function: Function that takes the arguments and returns the paths of the written files. It raises UserError if
            the arguments must be corrected.
        remedy: Remedy if a path cannot be written, see `guard_command`.
        advice: How to continue after an interruption, see `guard_command`.
        level: Lowest level of printed log messages.

    Returns:
        The exit status, see `guard_command`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def call() -> int:
        if not arguments or asks_for_help(arguments):
            print(help if isinstance(help, str) else help())  # noqa: T201
            return 0
        logging.basicConfig(level=level, format="%(message)s")
        for path in function(arguments):
            print(path)  # noqa: T201
        return 0

    return guard_command(call, remedy, advice)


def _print_error(error: UserError | RunError) -> int:
    """Print the message of an error and return its exit status."""
    if str(error):  # empty in all processes of a distributed run except the first
        print(error, file=sys.stderr)  # noqa: T201
    return 1 if isinstance(error, RunError) else 2
