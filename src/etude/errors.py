"""What ends a command with one clear sentence, never a traceback: what the user can mend, and what a run can not."""

from __future__ import annotations


class UserError(ValueError):
    """Something in the command, the config or the data is wrong: exit status 2.

    The message names it and says what to do.
    """


class DataError(UserError):
    """Something about the user's data must be mended; the message is one sentence that says what and where."""


class RunError(RuntimeError):
    """A run that was in order cannot go on; the message is one sentence that says why and what to try.

    The exit status is that of a run that failed, 1, and what its last whole epoch left can be gone on with. Where
    several processes know of it the first one speaks, and the message of the others is empty.
    """
