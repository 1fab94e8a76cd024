"""Command `etude inspect`: activations, gradients and attributions of clips."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.runner import run_command
from etude.config import options
from etude.errors import UserError
from etude.files import os_errors

if TYPE_CHECKING:
    from etude.inspection.page import InspectOptions

HELP = """inspect: look inside a trained network with a clip. Activations, gradients, weights, attention, attributions.

  python scripts/inspect.py outputs/<run>                     the most confident error of its test part
  python scripts/inspect.py outputs/<run> clip=<id>,<id>      these clips, a page for each
  python scripts/inspect.py outputs/<run> clip=song.mp3       any sound file, through the network's own front end

  clip=<id | id,id | sound file>      may be said several times
  crop=<seconds> | crop=<from>-<to>   a part of the clip; beats where a frame is one
  checkpoint=best | last | <file>     whose inside is shown; the strip has all that the run has kept
  to=<folder>                         where the pages go; else into the run

It writes inspect_<clip>.html and inspect_<clip>.json. Attributions need captum: pip install 'etude[inspect]'.
A run with callbacks=history keeps the weights of every epoch, for the strip."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of each clip.

    Args:
        argv: A run folder, and clip, crop, checkpoint, to.

    Returns:
        0; 2 if the command or the run has to be corrected; 130 if interrupted.
    """

    def work(words: list[str]) -> list[Path]:
        wish = parse(words)
        from etude.inspection.page import inspect  # heavy: torch

        return inspect(wish, shlex.join(["python", "scripts/inspect.py", *words]))

    return run_command(argv, HELP, work, os_errors.OTHER_FOLDER)


def parse(words: Sequence[str]) -> InspectOptions:
    """Return the options that the words of the command give.

    Raises:
        UserError: A word is unknown, or has a wrong value.
    """
    folders, values = options.read_options(words, OPTIONS)
    if len(folders) != 1:
        raise UserError(f"inspect takes one run folder, got {', '.join(folders) or 'none'}")
    folder = options.path(folders[0])
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of a run")
    from etude.inspection.page import InspectOptions  # heavy: torch

    return InspectOptions(folder, **values)


def _crop(value: str) -> tuple[float, float]:
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)-)?(\d+(?:\.\d+)?)", value)
    first, last = (float(found[1] or 0), float(found[2])) if found else (0.0, 0.0)
    if last <= first:
        raise ValueError("must be a length, as crop=5, or from where to where, as crop=10-15")
    return first, last


OPTIONS: options.Options = {
    "clip": ("clips", options.each),
    "crop": ("crop", _crop),
    "checkpoint": ("checkpoint", str),
    "to": ("out", options.path),
}
