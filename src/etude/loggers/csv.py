"""Logger of curves in a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.errors import UserError
from etude.files.atomic import write_text
from etude.runs.folder import RunFolder
from etude.runs.readers import read_curve_rows
from etude.training.lightning import Logger, rank_zero_only


class CurveLogger(Logger):
    """Logger of losses, scores and learning rate by step.

    Epochs count from 1, as in the log and the report. The values of one step, from training and validation, are one
    row. Existing rows of the file are kept, and overwritten if a resumed run repeats their step.

    Args:
        path: Path of curves.csv.

    Raises:
        UserError: The file exists and is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        if path.is_file():
            try:
                for row in read_curve_rows(path):
                    self.rows[int(row["step"])] = {key: value for key, value in row.items() if value != ""}
            except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
                raise UserError(f"{path}: is damaged; remove it to resume without its earlier curves") from error

    @property
    def name(self) -> str:
        """Name of the logger, which Lightning requires."""
        return "curves"

    @property
    def version(self) -> str:
        """Version of the logger, which Lightning requires."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of a step."""
        row = self.rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update({key: int(value) + 1 if key == "epoch" else f"{float(value):.6g}" for key, value in metrics.items()})

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters, because the config has its own file."""

    @rank_zero_only
    def save(self) -> None:
        """Write all rows to the file, atomically."""
        names = dict.fromkeys(["epoch", "step"])
        for row in self.rows.values():
            names.update(dict.fromkeys(row))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[step] for step in sorted(self.rows))
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the remaining rows."""
        self.save()


def csv_logger(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Return a logger that writes curves.csv in the run's folder, a row per logged step."""
    return CurveLogger(RunFolder(folder).curves_path)
