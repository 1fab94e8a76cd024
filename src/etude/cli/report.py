"""Command `etude report`, which rebuilds metrics.json and report.html of run folders.

The page is a single file with all styles, figures and numbers, and loads nothing from a network. The test split is in
the foreground. The validation split is collapsed, and marked as optimistic if it selected the weights. The template
escapes all strings of the run. Only the figures and the data card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import guard_command
from etude.config.options import asks_for_help
from etude.errors import UserError
from etude.runs.folder import RunFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild metrics.json and report.html of run folders.

    Returns:
        0; 2 if a folder does not contain a finished run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guard_command(lambda: _report(arguments), "copy the run to a folder that can be written")


def _report(arguments: list[str]) -> int:
    """Rebuild the files of the runs that are named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python scripts/report.py",
        description="Rebuild metrics.json and report.html of finished runs, from the files of the runs alone.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, such as outputs/<run>")
    if asks_for_help(arguments):
        parser.print_help()
        return 0
    folders: list[Path] = parser.parse_args(arguments).runs
    runs = [RunFolder(folder) for folder in folders]
    for run in runs:
        if missing := run.missing_results():
            raise UserError(f"{run.path}: is not a finished run; it has no {' and no '.join(missing)}")
    from etude.reports.run_report import write_report  # heavy: numpy
    from etude.runs.results import write_metrics

    for run in runs:
        write_metrics(run)
        print(write_report(run))  # noqa: T201
    return 0
