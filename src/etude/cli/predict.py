"""Command `etude predict`, which predicts audio files with a trained network."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.runner import run_command
from etude.config import options
from etude.errors import UserError
from etude.files import os_errors

if TYPE_CHECKING:
    from etude.inference.predict import PredictOptions

HELP = """Usage: python scripts/predict.py RUN INPUT [INPUT ...] [OPTION=VALUE ...]

Predict audio files of any length and format with a trained network. RUN is a run folder or a checkpoint. INPUT is an
audio file, a folder, or a list of files.

Examples:
  python scripts/predict.py outputs/<run> song.mp3           an audio file
  python scripts/predict.py outputs/<run> folder/ list.csv   folders with all subfolders, and lists of files
  python scripts/predict.py best.ckpt folder/ to=results     a checkpoint alone

Options:
  to=<folder>               output folder (default: predict/ in the run folder, or beside the checkpoint)
  format=csv,json,parquet   formats of the tables files.* and windows.* (default: csv)
  window=<seconds>          length of a window (default: the length of the clips in the evaluation of the run)
  overlap=<fraction>        overlap of consecutive windows (default: 0.5)
  batch=<number>            windows in a batch (default: 32)
  workers=<number>          processes that decode (default: one per core)
  device=auto|cpu|cuda      device of the network (default: auto)
  page=false                do not write predict.html, which has players and predictions over time of the first 20 files

A list is a table (.csv, .tsv, .parquet) with the column path, or a text file (.txt, .m3u) with a path per line. Paths
are relative to the folder of the list. A file that cannot be decoded has a row with the reason, and the exit status is
1. To resume an interrupted prediction, repeat the command."""
OPTIONS: options.Options = {
    "to": ("out", options.path),
    "format": ("formats", options.several_of("format", "csv", "json", "parquet")),
    "window": ("window", options.number),
    "overlap": ("overlap", options.number),
    "batch": ("batch", options.integer()),
    "workers": ("workers", options.integer()),
    "device": ("device", str),
    "page": ("page", options.boolean),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Predict audio files.

    Args:
        argv: A run folder or a checkpoint, audio files, and options.

    Returns:
        0; 1 if a file could not be decoded; 2 if the command must be corrected; 130 if interrupted.
    """
    n_failed = 0

    def predict(arguments: list[str]) -> list[Path]:
        nonlocal n_failed
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads free their core for decoding processes
        predict_options = parse_predict_options(arguments)
        from etude.inference.predict import predict_files  # heavy: torch

        paths, n_failed = predict_files(predict_options, shlex.join(["python", "scripts/predict.py", *arguments]))
        return paths

    return run_command(argv, HELP, predict, os_errors.FOLDER_REMEDY) or int(n_failed > 0)


def parse_predict_options(arguments: Sequence[str]) -> PredictOptions:
    """Return the options of the command.

    Raises:
        UserError: An argument is unknown or has an invalid value.
    """
    names, values = options.read_options(arguments, OPTIONS, "is neither a file nor")
    if len(names) < 2:
        raise UserError("predict takes a run folder or a checkpoint, then audio files, folders or lists of files")
    from etude.inference.predict import PredictOptions  # heavy: torch

    return PredictOptions(options.path(names[0]), names[1:], **values)
