"""Logger of curves in a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from etude.errors import UserError
from etude.files.atomic import write_text
from etude.runs.folder import RunFolder
from etude.runs.readers import read_curve_rows


class Curves(Logger):
    """Losses, scores and learning rate by step.

    Epochs count from 1, as in the log and the report. What is logged for one step, by training or by validation, is one
    row. Rows that are already in the file are kept, and written over when a resumed run comes to their step again.

    Args:
        path: The file.
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
        """Lightning asks for one."""
        return "curves"

    @property
    def version(self) -> str:
        """Lightning asks for one."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Put values into the row of a step."""
        row = self.rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update({key: int(value) + 1 if key == "epoch" else f"{float(value):.6g}" for key, value in metrics.items()})

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config has a file of its own."""

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew, in one step."""
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
        """Write what is left."""
        self.save()


def csv_logger(folder: Path, config: Mapping[str, Any]) -> Logger:
    """curves.csv in the run's folder: a row per logged step, kept through a resume."""
    return Curves(RunFolder(folder).curves_path)
