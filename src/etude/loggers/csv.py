"""Loggers that write to the run folder: curves in a CSV file, and event files for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError
from etude.evaluation.means import targets_and_mean
from etude.files.atomic import write_text
from etude.loggers.base import Tracker
from etude.loggers.finished_run import FinishedRun
from etude.runs.folder import RunFolder
from etude.runs.readers import read_curve_rows
from etude.training.lightning import Logger, rank_zero_only

if TYPE_CHECKING:
    from pytorch_lightning.loggers import TensorBoardLogger


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


class TensorBoard(Tracker):
    """Tracker that writes event files in the run's folder. A resumed run adds a file."""

    key, title = "tensorboard", "TensorBoard"
    local = ("tensorboard",)
    advice = "disable it with logger.tensorboard=null"
    inner: TensorBoardLogger | None

    def start(self, run_id: str | None) -> tuple[TensorBoardLogger, None]:
        """Open event files. They have no id, because the folder identifies the run."""
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(self.folder, name="tensorboard", version="", default_hp_metric=False), None

    def log_results(self, finished: FinishedRun) -> None:
        """Log all results at the last training step."""
        from matplotlib.image import imread

        assert self.inner is not None
        writer = self.inner.experiment
        for name, value in finished.numbers.items():
            writer.add_scalar(name, value, self.step)
        for name, png in finished.figures.items():
            writer.add_image(f"figures/{name}", imread(io.BytesIO(png))[..., :3], self.step, dataformats="HWC")
        z, metadata = finished.embedding
        if len(z):
            rows = metadata.astype(str).replace(r"[\t\r\n]", " ", regex=True)  # the projector reads tab-separated lines
            writer.add_embedding(z, rows.to_numpy().tolist(), tag="test", metadata_header=list(rows.columns))
        primary: dict[str, Any] = {}
        for name, target in targets_and_mean(finished.metrics).items():
            key = f"test/{name}/{target['primary']}"
            primary |= {key: finished.numbers[key]} if key in finished.numbers else {}
        self.inner.log_hyperparams(dict(self.config), primary)

    def stop(self, failed: bool) -> None:
        """Write the remaining events and close the file."""
        assert self.inner is not None
        self.inner.experiment.close()


def tensorboard_logger(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Return a logger that writes event files in the run's folder, for `tensorboard --logdir outputs`."""
    return TensorBoard(folder, config)
