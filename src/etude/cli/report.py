"""Command `etude report`, which rebuilds metrics.json and report.html of run folders.

The page is a single file with all styles, figures and numbers, and loads nothing from a network. The test split is in
the foreground. The validation split is collapsed, and marked as optimistic if it selected the weights. The template
escapes all strings of the run. Only the figures and the data card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.arguments import Json, expand_path
from etude.cli.runner import CommandResult, ParsedCommand
from etude.errors import UserError, missing_path
from etude.runs.folder import RunFolder

EXAMPLES = """
Examples:
  etude report outputs/<run>
  etude report outputs/<sweep>/*/ --json
"""


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders, such as outputs/<run>.", parser=expand_path),
    ],
    json: Json = False,
) -> ParsedCommand:
    """Rebuild metrics.json and report.html of finished runs, from the files of the runs alone.

    A run with debug=overfit has overfit.html instead.
    """

    def work() -> CommandResult:
        folders = [RunFolder(path) for path in dict.fromkeys(runs)]
        for run in folders:
            if not run.path.exists():
                raise UserError(missing_path(run.path, "run folder"))
            if (missing := run.missing_results()) and not run.overfit_path.is_file():
                raise UserError(f"{run.path}: is not a finished run; it has no {' and no '.join(missing)}")
        from etude.reports.overfit import write_overfit_page  # heavy: numpy
        from etude.reports.run_report import write_report
        from etude.runs.folder import write_metrics
        from etude.runs.readers import read_metrics

        pages, metrics = [], {}
        for run in folders:
            if run.missing_results():
                write_overfit_page(run)
                pages.append(run.overfit_page_path)
                continue
            write_metrics(run)
            pages.append(write_report(run))
            metrics[str(run.path)] = read_metrics(run.metrics_path) if json else None
        return CommandResult(pages, {"metrics": metrics})

    return ParsedCommand(work, json, "copy the run to a folder that can be written", level=None)
