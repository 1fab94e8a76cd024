"""Execution of a command with error messages, exit statuses, JSON output, and guarded streams and signals."""

from __future__ import annotations

import atexit
import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.errors import RunError, UserError
from etude.files import os_errors
from etude.files.atomic import remove_empty_folders
from etude.system import signals, streams

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommandResult:
    """Result of a command.

    Args:
        files: Paths of the written files, which are printed.
        values: Further entries of the JSON object that `--json` prints.
        status: Exit status.
    """

    files: list[Path] = field(default_factory=list)
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 0


@dataclass(frozen=True)
class ParsedCommand:
    """Command whose arguments are parsed and which has not run yet.

    Args:
        function: Work of the command.
        json: Whether the result is printed as a JSON object. Other output then goes to the standard error.
        remedy: Remedy if a path cannot be written, such as `name another folder with --out <folder>`.
        advice: How to continue after an interruption, as the end of a sentence.
        level: Lowest level of printed log messages. None leaves logging unchanged.
    """

    function: Callable[[], CommandResult]
    json: bool = False
    remedy: str = ""
    advice: str = ""
    level: int | None = logging.INFO

    def run(self) -> int:
        """Run the command, print its result, and return the exit status, see `guard_command`."""
        return guard_command(self._print_result, self.remedy, self.advice)

    def _print_result(self) -> int:
        if self.level is not None:
            logging.basicConfig(level=self.level, format="%(message)s")
        if not self.json:
            result = self.function()
            for path in result.files:
                print(path)  # noqa: T201
            return result.status
        with redirect_stdout(sys.stderr):
            result = self.function()
        values = {"status": result.status, "files": [str(path) for path in result.files], **result.values}
        print(json.dumps(values, indent=1, allow_nan=False, default=str))  # noqa: T201
        if isinstance(sys.stderr, streams.GuardedStream):
            sys.stderr.kept.clear()  # messages on stdout would make the JSON invalid
        return result.status


def read_values(page: Path) -> dict[str, Any]:
    """Return the content of the JSON file that was written beside a page with the same name."""
    content = json.loads(page.with_suffix(".json").read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def guard_command(function: Callable[[], int], remedy: str = "", advice: str = "", is_last: bool = False) -> int:
    """Run a command and return its exit status.

    SIGTERM ends the command like Ctrl-C, and a second signal ends it immediately. If stdout or stderr is closed or
    full, its text is written to the log or the other stream. In a nested call, the outer call handles signals and
    streams.

    Args:
        function: The command. It returns its status.
        remedy: Remedy if a path cannot be written, such as `name another folder with --out <folder>`.
        advice: How to continue after an interruption, as the end of a sentence.
        is_last: Whether the process ends after the command.

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
    signals.set_exit_status(status, is_last)
    return status


def _print_error(error: UserError | RunError) -> int:
    """Print the message of an error and return its exit status."""
    if str(error):  # empty in all processes of a distributed run except the first
        print(error, file=sys.stderr)  # noqa: T201
    return 1 if isinstance(error, RunError) else 2
