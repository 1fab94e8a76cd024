"""What a sweep came to, for the exit status and the last line of the command that it was started by."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from etude.errors import UserError
from etude.files.atomic import discard, remove, write_text
from etude.launch import first

FAULT = "ETUDE_FAULT"
"""Environment variable: the file in which a job leaves what ended it, for the sweep's own list."""


@dataclass
class Outcome:
    """How the sweep of this process went.

    Args:
        folder: The folder that was made for it.
        begun: Whether a job of it was started, or was found finished.
        status: 0; 1 where a job failed; 2 where all that failed were refused.
        advice: How to go on with it, for its last line.
    """

    folder: Path | None = None
    begun: bool = False
    status: int = 0
    advice: str = ""


OUTCOME = Outcome()
"""Of this process: Hydra hands nothing from a launcher to whoever called it."""


def forget() -> None:
    """Begin anew, before another command of the same process."""
    vars(OUTCOME).update(vars(Outcome()))


def tell(why: str) -> None:
    """Leave what ended this run to the sweep that it is a job of, if it is one."""
    if (path := os.environ.get(FAULT)) and first():
        with suppress(OSError, UserError):
            write_text(Path(path), why)


def told(path: Path) -> str:
    """What a job left there, once."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
    finally:
        remove(path)


def tidy() -> None:
    """Take away the folder of a sweep that never began: Hydra puts its own config there first."""
    folder = OUTCOME.folder
    if folder is None or OUTCOME.begun:
        return
    if folder.is_dir() and not any(path.name != "multirun.yaml" and path.name[0] != "." for path in folder.iterdir()):
        discard(folder)
