"""Command `etude predict`, which predicts audio files and arrays of frames with a run or a pretrained backbone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from etude.cli.arguments import (
    Backbone,
    Device,
    Json,
    RunsAndInputs,
    Workers,
    expand_path,
    format_option,
    greater_than_zero,
    split_arguments,
)
from etude.cli.runner import CommandResult, ParsedCommand
from etude.errors import UserError
from etude.files import os_errors
from etude.runs.folder import PREDICT

FORMATS = ("csv", "json", "parquet")
EXAMPLES = """
Examples:
  etude predict outputs/<run> song.mp3                an audio file
  etude predict outputs/<run> folder/ list.csv        folders with all subfolders, and lists of files
  etude predict best.ckpt folder/ --out results       a checkpoint alone
  etude predict outputs/<a> outputs/<b> song.mp3      several runs side by side
  etude predict outputs/<run> arrays/ --out ids.csv   one table with an Id and a column per target
  etude predict outputs/<run> song.mp3 --json | jq .predictions
  etude predict --backbone musicnn song.mp3           tags of a pretrained classifier, without a run
"""


def predict(
    context: typer.Context,
    arguments: RunsAndInputs = None,
    backbone: Backbone = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=expand_path,
            metavar="FOLDER|FILE.csv",
            help="Output folder, or a .csv file for one table with Id and a column per target.",
            show_default="predict/ in the run folder, beside the checkpoint, or in this folder with --backbone or "
            "several runs",
        ),
    ] = None,
    formats: Annotated[list[str], format_option("Formats of the tables files.* and windows.*.", *FORMATS)] = ["csv"],  # noqa: B006
    window: Annotated[
        float | None,
        typer.Option(
            callback=greater_than_zero,
            metavar="SECONDS",
            help="Length of a window.",
            show_default="the length of the clips in the evaluation of the run",
        ),
    ] = None,
    overlap: Annotated[float, typer.Option(metavar="FRACTION", help="Overlap of consecutive windows.")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Windows in a batch.")] = 32,
    workers: Workers = None,
    device: Annotated[Device, typer.Option(help="Device of the network.")] = "auto",
    page: Annotated[
        bool | None,
        typer.Option(
            "--page/--no-page",
            help="Write predict.html, with players and predictions over time of the first 20 files.",
            show_default="page, for audio files and an output folder",
        ),
    ] = None,
    id_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Id of a file in FILE.csv, with {id}, the text before the first dot of its name, or {name}.",
            show_default="{name}; {id}.fused.full.npy.gz for arrays and a run on data=patreco*",
        ),
    ] = None,
    json: Json = False,
) -> ParsedCommand:
    """Predict audio files of any length and format with a trained network.

    With several runs, the predictions of each are in a subfolder, and models.csv has them side by side.

    With --backbone NAME, the predictions are the tags of the backbone's own pretrained classifier, without a run.

    A list is a table (.csv, .tsv, .parquet) with the column path, or a text file (.txt, .m3u) with a path per line.
    Paths are relative to the folder of the list. A file that cannot be decoded has a row with the reason, and the exit
    status is 1. To resume an interrupted prediction, repeat the command.

    A run on ready frames, such as those of data=patreco, also takes arrays (.npy, .npy.gz) with the layout of the
    training arrays. An array is one clip and is not divided into windows.

    With --out FILE.csv, the only result is a table with the first line Id,<target>,... and a row per file, sorted by
    id. A file that cannot be read is then an error with exit status 2, and the table is not written. An interrupted
    table is not resumed.
    """
    command = context.obj["command"]
    given = split_arguments("predict", arguments, backbone, several=True)
    if given.further_runs and out is not None and out.suffix.lower() == ".csv":
        raise UserError(f"--out {out}: such a table has the predictions of one run; name a folder, or give one run")

    def work() -> CommandResult:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads free their core for decoding processes
        from etude.inference.predict import PredictOptions, predict_by_several, predict_files  # heavy: torch

        options = PredictOptions(
            given.source(), given.inputs, out, formats, window, overlap, batch_size, workers, device, page, id_format
        )
        if given.further_runs:
            several = [options, *(replace(options, source=run) for run in given.further_runs)]
            result = predict_by_several(several, out or Path(PREDICT), command)
        else:
            result = predict_files(options, command, return_rows=json)
        values = {"n_failed": result.n_failed, "predictions": result.rows}
        return CommandResult(result.paths, values, int(result.n_failed > 0))

    return ParsedCommand(work, json, os_errors.FOLDER_REMEDY)
