"""Command `etude compare`, which compares runs in tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.errors import UserError
from etude.files import os_errors
from etude.reports.comparison.axes import AXIS_DESCRIPTIONS, NAMED_AXES, SCORE_AXES
from etude.reports.comparison.compare import compare_folders, parse_options

HELP = """Usage: python scripts/compare.py FOLDER [FOLDER ...] [OPTION=VALUE ...]

Compare runs in tables, with paired tests of runs that were scored on the same clips, and write one page.
FOLDER is a run folder or the folder of a sweep.

Examples:
  python scripts/compare.py outputs/<sweep>                         a row per run, a column per target
  python scripts/compare.py outputs/<a> outputs/<b> to=outputs/ab   the same for any runs, with an output folder
  python scripts/compare.py outputs/<sweep> table=1                 precision, recall and F1 of each class by feature
  python scripts/compare.py outputs/<sweep> table=2                 all metrics by target and backbone
  python scripts/compare.py outputs/<sweep> table=3                 single-task and multitask, random and pretrained
  python scripts/compare.py outputs/<sweep> rows=backbone cols=feature metric=macro_f1
  python scripts/compare.py outputs/<sweep> rows=optim.lr backbone=lstm

Options:
  rows=<axis,...> cols=<axis,...>        axes of the table:
                                         {axes},
                                         or any key of config.yaml, such as optim.lr
  metric=<name,...>                      metrics, such as macro_f1, accuracy, spearman, mse
                                         (default: the primary metric of each target)
  part=<test|val>                        split (default: test)
  table=<runs|classes|metrics|settings>  layout (default: runs); 1, 2 and 3 are classes, metrics and settings,
                                         the tables of the student report (docs/reproduction.md)
  <axis>=<value,...>                     only runs with these values: backbone=lstm,cnn target=valence optim.lr=1e-3
  to=<folder>                            output folder (default: the folder of a sweep; otherwise no files are written)
  format=<csv,md,tex,html>               formats of the files (default: all)

Axes:
{about}

A cell with several runs contains the mean ± standard deviation and the number of runs. Predictions of the folds of one
split are pooled, unless fold is an axis."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs and write tables.

    Args:
        argv: Run folders, folders of sweeps, and options as name=value.

    Returns:
        0; 2 if a folder contains no run or an argument is invalid.
    """

    def compare(arguments: list[str]) -> list[Path]:
        options, folders = parse_options(arguments)
        if not folders:
            raise UserError("compare: needs a folder, such as outputs/<sweep>, or several run folders")
        return compare_folders(folders, options)

    about = "\n".join(f"  {axis:<12}{text}" for axis, text in AXIS_DESCRIPTIONS.items())
    axes = f"\n{41 * ' '}".join(textwrap.wrap(", ".join((*NAMED_AXES, *SCORE_AXES, "run")), 79))
    help = HELP.format(axes=axes, about=about)
    return run_command(argv, help, compare, os_errors.FOLDER_REMEDY)
