"""Exceptions whose message is reported to the user without a traceback."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path


class UserError(ValueError):
    """Error in the command, the config or the data, which ends a command with exit status 2.

    The message names the file or key, states the reason and proposes a remedy.
    """


class DataError(UserError):
    """Error in the user's data, with the file or clip and the reason in one sentence."""


class RunError(RuntimeError):
    """Failure of a valid run, which ends a command with exit status 1.

    The message is one sentence with the reason and a remedy. The run can be resumed from its last completed epoch. If
    the failure affects all processes of a distributed run, only the error of the first process has a message.
    """


class Refused(SystemExit):
    """Exception with which a Hydra callback ends a command. Hydra turns any other exception into a warning.

    Args:
        error: Reason of the refusal.
    """

    def __init__(self, error: UserError | RunError) -> None:
        super().__init__(1 if isinstance(error, RunError) else 2)
        self.error = error


def one_line_message(error: BaseException, limit: int | None = None) -> str:
    """Return the message of an exception in one line.

    Args:
        error: The exception.
        limit: Maximum number of characters; None for no limit.

    Returns:
        The message with single spaces instead of line breaks; the name of the exception's type if it has no message.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def missing_path(path: Path, noun: str) -> str:
    """Return the message for a path that does not exist, with similar names in the same folder.

    Args:
        path: The path.
        noun: What is missing, such as `run folder`.
    """
    names: list[str] = []
    with suppress(OSError):
        names = get_close_matches(path.name, sorted(other.name for other in path.parent.iterdir()), cutoff=0.7)
    similar = f"; similar names: {', '.join(str(path.parent / name) for name in names)}" if names else ""
    return f"{path}: there is no such {noun}{similar}"
