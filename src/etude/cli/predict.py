"""Command `etude predict`: predictions of a trained network for sound files."""

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

HELP = """predict: what a trained network says of sounds that it has not seen, of any length and format.

  python scripts/predict.py outputs/<run> song.mp3               a file
  python scripts/predict.py outputs/<run> folder/ list.csv       folders at any depth, and lists of files
  python scripts/predict.py best.ckpt folder/ to=results         a checkpoint alone is enough

  to=<folder>                      where results go; else predict/ in the run, or beside the checkpoint
  format=csv,json,parquet          of the tables files.* and windows.*; csv
  window=<seconds>                 of a window; else as long as the clips that it was judged on
  overlap=<share>                  of a window that the next one has again; 0.5
  batch=<windows>                  that are judged at a time; 32
  workers=<processes>              that decode; one per core
  device=auto | cpu | cuda         where the network is; auto
  page=false                       no predict.html, which has players and lines over time of the first 20 files

A list is a table (.csv, .tsv, .parquet) with a column path, or a text (.txt, .m3u) with a path in each line, from its
folder on. A file that cannot be heard is a row that says why, and the exit status is 1. Interrupted, the same line goes
on where it was."""
OPTIONS: options.Options = {
    "to": ("out", options.path),
    "format": ("formats", options.several("format", "csv", "json", "parquet")),
    "window": ("window", options.number),
    "overlap": ("overlap", options.number),
    "batch": ("batch", options.whole()),
    "workers": ("workers", options.whole()),
    "device": ("device", str),
    "page": ("page", options.truth),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Predict sound files.

    Args:
        argv: A run folder or a checkpoint, sound files, and options.

    Returns:
        0; 1 if a file could not be decoded; 2 if the command has to be corrected; 130 if interrupted.
    """
    failed = 0

    def work(words: list[str]) -> list[Path]:
        nonlocal failed
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave their core to those that decode
        wish = parse(words)
        from etude.inference.predict import predict_files  # heavy: torch

        paths, failed = predict_files(wish, shlex.join(["python", "scripts/predict.py", *words]))
        return paths

    return run_command(argv, HELP, work, os_errors.OTHER_FOLDER) or int(failed > 0)


def parse(words: Sequence[str]) -> PredictOptions:
    """Return the options that the words of the command give.

    Raises:
        UserError: A word is unknown, or has a wrong value.
    """
    names, values = options.read_options(words, OPTIONS, "is no file, and")
    if len(names) < 2:
        raise UserError("predict takes a run folder or a checkpoint, and then sounds: files, folders, lists")
    from etude.inference.predict import PredictOptions  # heavy: torch

    return PredictOptions(options.path(names[0]), names[1:], **values)
