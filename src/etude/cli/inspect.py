"""Command `etude inspect`, which shows activations, gradients and attributions of clips."""

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

HELP = """Usage: python scripts/inspect.py RUN [OPTION=VALUE ...]

Write pages with the activations, gradients, weights, attention and attributions of a trained network for clips.
RUN is a run folder.

Examples:
  python scripts/inspect.py outputs/<run>                  the most confident error of the test split
  python scripts/inspect.py outputs/<run> clip=<id>,<id>   these clips, a page for each
  python scripts/inspect.py outputs/<run> clip=song.mp3    an audio file, with the front end of the network

Options:
  clip=<id | id,id | audio file>     clips; the option can be repeated
  crop=<length> | crop=<from>-<to>   part of the clip in seconds, or in beats if frames are beats
  checkpoint=best|last|<file>        checkpoint of the network (default: best); the gallery has all saved epochs
  to=<folder>                        output folder (default: the run folder)

The files are inspect_<clip>.html and inspect_<clip>.json. Attributions require captum: pip install 'etude[inspect]'.
With callbacks=history, a run saves the weights of every epoch for the gallery."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of each clip.

    Args:
        argv: A run folder, and clip, crop, checkpoint, to.

    Returns:
        0; 2 if the command or the run must be corrected; 130 if interrupted.
    """

    def write_pages(arguments: list[str]) -> list[Path]:
        inspect_options = parse_inspect_options(arguments)
        from etude.inspection.page import inspect  # heavy: torch

        return inspect(inspect_options, shlex.join(["python", "scripts/inspect.py", *arguments]))

    return run_command(argv, HELP, write_pages, os_errors.FOLDER_REMEDY)


def parse_inspect_options(arguments: Sequence[str]) -> InspectOptions:
    """Return the options of the command.

    Raises:
        UserError: An argument is unknown or has an invalid value.
    """
    folders, values = options.read_options(arguments, OPTIONS)
    if len(folders) != 1:
        raise UserError(f"inspect takes one run folder, got {', '.join(folders) or 'none'}")
    folder = options.path(folders[0])
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder")
    from etude.inspection.page import InspectOptions  # heavy: torch

    return InspectOptions(folder, **values)


def _read_crop(value: str) -> tuple[float, float]:
    """Return the start and the end of a crop.

    Raises:
        ValueError: The value is neither a length nor a range, or the crop is empty.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)-)?(\d+(?:\.\d+)?)", value)
    start, end = (float(match[1] or 0), float(match[2])) if match else (0.0, 0.0)
    if end <= start:
        raise ValueError("must be a length, such as crop=5, or a range, such as crop=10-15")
    return start, end


OPTIONS: options.Options = {
    "clip": ("clips", options.repeatable),
    "crop": ("crop", _read_crop),
    "checkpoint": ("checkpoint", str),
    "to": ("out", options.path),
}
