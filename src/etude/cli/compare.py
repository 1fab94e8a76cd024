"""Command `etude compare`: tables over many runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.errors import UserError
from etude.files import os_errors
from etude.reports.comparison.axes import AXIS_DESCRIPTIONS, NAMED_AXES, SCORE_AXES
from etude.reports.comparison.compare import compare_folders, parse_options

HELP = """compare: runs side by side. Tables, tests of pairs that were scored on the same clips, and one page.

  python scripts/compare.py outputs/<sweep>                       a row per run, a column per target
  python scripts/compare.py outputs/<a> outputs/<b> to=outputs/ab the same of any runs, kept in a folder
  python scripts/compare.py outputs/<sweep> table=1               per class: precision, recall and F1 by feature
  python scripts/compare.py outputs/<sweep> table=2               every metric, by target and backbone
  python scripts/compare.py outputs/<sweep> table=3               single-task or multitask, random or pretrained
  python scripts/compare.py outputs/<sweep> rows=backbone cols=feature metric=macro_f1
  python scripts/compare.py outputs/<sweep> rows=optim.lr backbone=lstm

  rows=<axis,...> cols=<axis,...>     {axes}, run,
                                      or any key of config.yaml, such as optim.lr
  metric=<name,...>                   macro_f1, accuracy, spearman, mse, ...; the leading one of each target if not said
  part=<test|val>                     test
  table=<runs|classes|metrics|settings>   or 1, 2, 3 for the last three, the tables of the source work
  <axis>=<value,...>                  only these runs: backbone=lstm,cnn target=valence optim.lr=1e-3
  to=<folder>                         where the files go: the folder of a sweep if not said, otherwise none are written
  format=<csv,md,tex,html>            which files; all of them if not said

{about}

What shares a cell is a mean, with ± the standard deviation and how many runs. Folds of one split are pooled by their
predictions, unless fold is an axis."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs and write tables.

    Args:
        argv: Run folders, folders of sweeps, and options as name=value.

    Returns:
        0; 2 if a folder holds no run or a word is unknown.
    """

    def work(words: list[str]) -> list[Path]:
        options, folders = parse_options(words)
        if not folders:
            raise UserError("no folder is named: compare outputs/<sweep>, or several runs")
        return compare_folders(folders, options)

    about = "\n".join(f"  {axis:<12}{text}" for axis, text in AXIS_DESCRIPTIONS.items())
    help = HELP.format(axes=", ".join((*NAMED_AXES, *SCORE_AXES)), about=about)
    return run_command(argv, help, work, os_errors.OTHER_FOLDER)
