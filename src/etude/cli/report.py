"""Command `etude report`: rebuild metrics.json and report.html of run folders.

The page is one file: styles, figures and numbers are inside it, and it loads nothing from any network. Its headline is
the test split; validation is folded away, and called optimistic where it chose the weights. Every string of the run is
escaped by the template; only the figures and the card, which escape their own text, are marked as safe.
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
    """Rebuild metrics.json and report.html of run folders; exit status 2 when one of them is not a run."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guard_command(lambda: _report(words), "copy the run to a place that can be written")


def _report(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Rebuild metrics.json and report.html of runs, from their files only.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, such as outputs/<run>")
    if asks_for_help(words):
        parser.print_help()
        return 0
    folders: list[Path] = parser.parse_args(words).runs
    runs = [RunFolder(folder) for folder in folders]
    for run in runs:
        if lacking := run.missing_results():
            raise UserError(f"{run.path} is not a finished run: it has no {' and no '.join(lacking)}.")
    from etude.reports.run_report import write_report  # heavy: numpy
    from etude.runs.results import write_metrics

    for run in runs:
        write_metrics(run)
        print(write_report(run))  # noqa: T201
    return 0
