"""Command `etude ensemble`, which averages runs in one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.arguments import Folders, Json, out_option
from etude.cli.runner import CommandResult, ParsedCommand
from etude.files import os_errors
from etude.runs.folder import RunFolder

EXAMPLES = """
Examples:
  etude ensemble outputs/<sweep>                              all runs of a sweep, in outputs/<sweep>/ensemble
  etude ensemble outputs/<a> outputs/<b> --out outputs/both   any runs with equal targets and data
  etude ensemble outputs/<a> outputs/<b> --out outputs/both --weights
  etude predict outputs/both song.mp3
"""


def ensemble(
    folders: Folders,
    out: Annotated[Path | None, out_option("ensemble/ in the folder of a sweep")] = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Weight the runs, by their predictions of inner folds; only for linear probes of one split.",
            show_default="equal weights",
        ),
    ] = False,
    json: Json = False,
) -> ParsedCommand:
    """Average the predictions of runs, and write a run folder with scores, report and the averaged network.

    The mean is that of the probabilities of labels and of the values of scalars. A clip is scored by the runs that were
    never trained on it. For the folds of a cross-validation, this is one run per clip. The folder is a run folder for
    compare, predict, export, embed and demo, and does not need the folders of the averaged runs.
    """

    def work() -> CommandResult:
        from etude.experiment.ensemble import EnsembleOptions, make_ensemble  # heavy: torch
        from etude.reports.comparison.compare import show  # heavy: numpy

        folder = make_ensemble(EnsembleOptions(folders, out, weights))
        show([folder])
        return CommandResult([RunFolder(folder).report_path], {"folder": str(folder)})

    return ParsedCommand(work, json, os_errors.FOLDER_REMEDY)
