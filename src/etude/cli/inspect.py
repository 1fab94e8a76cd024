"""Command `etude inspect`, which shows activations, gradients and attributions of clips."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from etude.cli.arguments import Json, expand_path, out_option
from etude.cli.runner import CommandResult, ParsedCommand
from etude.errors import UserError, missing_path
from etude.files import os_errors

EXAMPLES = """
Examples:
  etude inspect outputs/<run>                      the worst error of the test split
  etude inspect outputs/<run> --clip <id>,<id>     these clips, a page for each
  etude inspect outputs/<run> --clip song.mp3      an audio file, with the front end of the network
"""


def parse_crop(value: str) -> tuple[float, float]:
    """Return the start and the end of a crop in seconds or beats; raise BadParameter if the value is invalid."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)-)?(\d+(?:\.\d+)?)", value)
    start, end = (float(match[1] or 0), float(match[2])) if match else (0.0, 0.0)
    if end <= start:
        message = f"{value!r} is neither a length, such as 5, nor a range, such as 10-15"
        raise typer.BadParameter(message, param_hint="'--crop'")
    return start, end


def inspect(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", parser=expand_path)],
    clips: Annotated[
        list[str],
        typer.Option(
            "--clip",
            metavar="ID|FILE",
            help="Ids of clips, and audio files.",
            show_default="the worst error",
        ),
    ] = [],  # noqa: B006
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH|FROM-TO",
            help="Part of the clip in seconds, or in beats if frames are beats.",
            show_default="the middle 10 seconds, or 60 beats",
        ),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="best|last|FILE",
            help="Checkpoint of the network.",
        ),
    ] = "best",
    out: Annotated[Path | None, out_option("the run folder")] = None,
    json: Json = False,
) -> ParsedCommand:
    """Write pages with the activations, gradients, weights, attention and attributions of a network for clips.

    The files are inspect_<clip>.html and inspect_<clip>.json. Attributions require captum: pip install
    'etude[inspect]'. If the run was trained with callbacks=history, the page shows every epoch.
    """
    command = context.obj["command"]
    limits = None if crop is None else parse_crop(crop)

    def work() -> CommandResult:
        if not run.is_dir():
            raise UserError(missing_path(run, "run folder"))
        from etude.inspection import page  # heavy: torch

        return CommandResult(page.inspect(page.InspectOptions(run, clips, limits, checkpoint, out), command))

    return ParsedCommand(work, json, os_errors.FOLDER_REMEDY)
