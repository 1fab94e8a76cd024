"""The one kind of error that is the user's to mend: one clear sentence and exit status 2, never a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something in the command, the config or the data is wrong; the message names it and says what to do."""


class DataError(UserError):
    """Something about the user's data must be mended; the message is one sentence that says what and where."""
