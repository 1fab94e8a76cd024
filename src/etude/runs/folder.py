"""Paths of a run folder, and readers and writers of its files."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError, missing_path
from etude.evaluation.formatting import describe_left_out
from etude.files.atomic import replacing, write_text
from etude.files.journal import file_hash
from etude.files.safe_read import WEIGHTS_NAME, is_export
from etude.runs import readers

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
CONFIG, RECORD, METRICS, PREDICTIONS = "config.yaml", "record.json", "metrics.json", "predictions.parquet"
SPLIT, CURVES, LOG, REPORT, TRACKERS = "split.csv", "curves.csv", "train.log", "report.html", "trackers.json"
LR_TABLE, LR_PLOT = "lr.csv", "lr.png"  # files of debug=find_lr
OVERFIT, OVERFIT_PAGE = "overfit.json", "overfit.html"  # files of debug=overfit
CHECKPOINTS, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"
ERRORS, ERRORS_INDEX = "errors", "index.json"
EXPORT, PREDICT = "export", "predict"  # outputs of commands that read a run
JOBS, MULTIRUN, POOLED_FOLDER = "jobs.csv", "multirun.yaml", "pooled"  # in the folder of a sweep
ENSEMBLE = "ensemble"  # run folder of the averaged jobs in the folder of a sweep

VALIDATION = "val/"  # prefix of a monitor that is computed on the validation split
MEAN_SCORE = f"{VALIDATION}score"

RESULTS = (REPORT, METRICS, PREDICTIONS, RECORD, CONFIG, SPLIT, CURVES)
"""Result files of a run without its checkpoints."""
OUTPUTS = (
    *(CONFIG, LOG, CURVES, SPLIT, PREDICTIONS, RECORD, METRICS, REPORT, TRACKERS, LR_TABLE, LR_PLOT),
    *(OVERFIT, OVERFIT_PAGE),
    *(f"{CHECKPOINTS}/", f"{ERRORS}/", "wandb/", "tensorboard/"),
)
"""All files and folders that a run writes. A new run refuses a folder if one of them exists and is not its own."""


class RunFolder:
    """Paths and file contents of a run.

    `config`, `record`, `metrics`, `predictions` and `split` are read once and cached. A damaged file raises UserError.

    Args:
        path: The run's folder, in which any file may be missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / CONFIG
        self.record_path = self.path / RECORD
        self.metrics_path = self.path / METRICS
        self.predictions_path = self.path / PREDICTIONS
        self.split_path = self.path / SPLIT
        self.curves_path = self.path / CURVES
        self.log_path = self.path / LOG
        self.report_path = self.path / REPORT
        self.trackers_path = self.path / TRACKERS
        self.lr_table_path = self.path / LR_TABLE
        self.lr_plot_path = self.path / LR_PLOT
        self.overfit_path = self.path / OVERFIT
        self.overfit_page_path = self.path / OVERFIT_PAGE
        self.checkpoints_path = self.path / CHECKPOINTS
        self.best_path = self.checkpoints_path / BEST
        self.last_path = self.checkpoints_path / LAST
        self.errors_path = self.path / ERRORS
        self.errors_index_path = self.errors_path / ERRORS_INDEX

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def is_finished(self) -> bool:
        """Whether the run has all of its files. The report is written last."""
        return self.metrics_path.is_file() and self.report_path.is_file()

    @property
    def is_resumable(self) -> bool:
        """Whether the run has a checkpoint from which it can be resumed."""
        return self.last_path.is_file()

    @property
    def best_checkpoint(self) -> Path | None:
        """Best checkpoint if it exists, else the last checkpoint, else None."""
        return next((path for path in (self.best_path, self.last_path) if path.is_file()), None)

    @property
    def checkpoint(self) -> Path:
        """Checkpoint that computed the predictions.

        Raises:
            UserError: The run has no checkpoint.
        """
        if (path := self.best_checkpoint) is None:
            if self.record_path.is_file() and (self.record.get("data") or {}).get("pooled"):
                raise UserError(f"{self.path}: has the pooled predictions of several runs and no network; name one run")
            raise UserError(
                f"{self.path}: has no checkpoint in {CHECKPOINTS}/; a trial run (debug=...) does not keep checkpoints"
            )
        return path

    def all_checkpoints(self) -> list[Path]:
        """Return all checkpoints below checkpoints/, sorted by name."""
        return [path for path in sorted(self.checkpoints_path.rglob("*.ckpt")) if not path.name.startswith(".")]

    def missing_results(self) -> list[str]:
        """Return the names of missing files that are needed for the metrics and the report."""
        return [path.name for path in (self.predictions_path, self.record_path) if not path.is_file()]

    @property
    def sweep(self) -> str | None:
        """Name of the sweep of which the run is a job, or None."""
        parent = self.path.parent
        return parent.name if (parent / MULTIRUN).is_file() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of config.yaml."""
        return readers.read_config(self.config_path)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Content of record.json."""
        return readers.read_record(self.record_path)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json."""
        return readers.read_metrics(self.metrics_path)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Content of predictions.parquet, a row per clip."""
        return readers.read_predictions(self.predictions_path, self.record_path)

    @cached_property
    def split(self) -> dict[str, str]:
        """Split of each clip by id, from split.csv. Empty if the file is missing."""
        return readers.read_split(self.split_path)

    def read_columns(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read some columns of predictions.parquet. Only the checksums of its pages are verified.

        Raises:
            OSError, ValueError: The file cannot be read, or a column is missing.
        """
        import pandas as pd

        return pd.read_parquet(self.predictions_path, columns=list(columns), page_checksum_verification=True)

    def read_curves(self, strict: bool = False) -> pd.DataFrame:
        """Read curves.csv, a row per logged step.

        Args:
            strict: Raise UserError for a missing or damaged file, and do not convert cells. Otherwise see
                `readers.read_curves`.
        """
        return readers.read_raw_curves(self.curves_path) if strict else readers.read_curves(self.curves_path)

    def read_curve_rows(self) -> list[dict[str, str]]:
        """Read the rows of curves.csv as strings by column. Empty if the file is missing."""
        return readers.read_curve_rows(self.curves_path)

    def read_trackers(self) -> dict[str, str]:
        """Read the run's name in each tracker, by key of the tracker. Empty for a run without trackers."""
        return readers.read_trackers(self.trackers_path)

    def read_worst_errors(self) -> dict[str, Any]:
        """Read the saved worst errors of the run as in `readers.read_worst_errors`."""
        return readers.read_worst_errors(self.errors_index_path, self.path)

    def read_config_text(self) -> str:
        """Read the text of config.yaml. Empty if the file is missing or is a link to a file outside of the run."""
        if not self.config_path.is_file() or not readers.is_inside(self.config_path, self.path):
            return ""
        return self.config_path.read_text(encoding="utf-8", errors="replace")

    def read_log_end(self, size: int) -> list[str]:
        """Read the lines in the last `size` bytes of train.log. Empty if the file is missing."""
        if not self.log_path.is_file():
            return []
        with self.log_path.open("rb") as file:
            file.seek(max(0, self.log_path.stat().st_size - size))
            return file.read().decode("utf-8", "replace").splitlines()


def is_sweep(path: Path) -> bool:
    """Return whether a folder is that of a sweep. It may be in the folder of a run."""
    return any((path / name).is_file() for name in (JOBS, MULTIRUN))


def find_runs(path: Path) -> list[Path]:
    """Return the run folders at or below a path in natural order, such as job 9 before job 10.

    A run folder has a record or a config. Hidden folders are ignored.

    Args:
        path: A run folder, or a folder that contains run folders, such as the folder of a sweep.
    """
    files = [file for name in (RECORD, CONFIG) for file in path.rglob(name)]
    runs = {file.parent for file in files if not any(p.startswith(".") for p in file.relative_to(path).parts)}
    alone = path in runs and not (is_sweep(path) and runs - {path})
    return [path] if alone else sorted(runs - {path}, key=_natural_key)


def _natural_key(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that orders job 10 of a sweep after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def locate_run(path: Path) -> tuple[Path, Path | None]:
    """Return the run folder of a path, and the weights file if the path is one.

    Args:
        path: A run folder, a folder with one run, a checkpoint, or an exported network as a folder or a weights file.

    Raises:
        UserError: There is no run, or there are several, as in the folder of a sweep.
    """
    if path.suffix in (".ckpt", ".safetensors") and path.is_file():
        return run_of(path) if path.suffix == ".ckpt" else path.parent, path
    if not path.exists():
        raise UserError(missing_path(path, "folder or checkpoint"))
    runs = find_runs(path)
    if runs == [path]:
        return path, None
    if not runs and is_export(path):
        return path, path / WEIGHTS_NAME
    if not runs:
        missing = f"neither a run folder with {CONFIG} and {RECORD} nor an exported network with {WEIGHTS_NAME}"
        raise UserError(f"{path}: is {missing}")
    names = ", ".join(str(run) for run in runs if run.parent.name != POOLED_FOLDER)  # pooled folds have no network
    raise UserError(f"{path}: contains several runs; average them with etude ensemble {path}, or load one of: {names}")


def find_weights(path: Path) -> Path:
    """Return the checkpoint of a run folder, the weights of an exported network, or the path itself if it is a file.

    Raises:
        UserError: There are no weights, or the folder contains several runs.
    """
    if path.is_file():
        return path
    folder, weights = locate_run(path)
    return weights or RunFolder(folder).checkpoint


def run_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint, which is the parent of its checkpoints folder."""
    return checkpoint.parent.parent


def monitored_score(run: RunFolder) -> float | None:
    """Return the validation score of the task's monitor for the weights that computed the predictions.

    Returns:
        The value of `val/score` is read from metrics.json, which contains the scores of these weights. The value of any
        other monitor is read from curves.csv, at the epoch of these weights. None if the run is not finished or the
        value is missing.

    Raises:
        UserError: A file of the run is damaged.
    """
    if not all(path.is_file() for path in (run.config_path, run.metrics_path, run.record_path)):
        return None
    task = run.config.get("task")
    monitor = str(task.get("monitor")) if isinstance(task, dict) else ""
    if not monitor.startswith(VALIDATION):
        return None
    value = _mean_score(run.metrics) if monitor == MEAN_SCORE else _logged_score(run, monitor)
    return value if value is not None and math.isfinite(value) else None


def _mean_score(metrics: dict[str, Any]) -> float | None:
    """Return the mean of the primary scores over targets. An undefined score counts as 0, as in training."""
    targets: dict[str, Any] = metrics["targets"]
    scores = [target["splits"]["val"]["scores"].get(target["primary"]) for target in targets.values()]
    values = [float((score or {}).get("value") or 0.0) for score in scores]
    return sum(values) / len(values) if values else None


def _logged_score(run: RunFolder, monitor: str) -> float | None:
    """Return the logged value of a monitor at the epoch of the best checkpoint."""
    epoch = run.record.get("model", {}).get("best_epoch")
    if epoch is None:
        return None
    rows = [row for row in run.read_curve_rows() if row.get("epoch") == str(epoch)]
    values = [row[monitor] for row in rows if row.get(monitor)]
    return float(values[-1]) if values else None


def write_split(run: RunFolder, split: pd.DataFrame) -> Path:
    """Write split.csv and return its path.

    Args:
        run: The run's folder.
        split: Columns `id` and `split`, a row per clip.
    """
    return write_text(run.split_path, split.to_csv(index=False))


def write_predictions(run: RunFolder, table: pd.DataFrame) -> Path:
    """Write predictions.parquet and return its path.

    `write_record` must be called afterwards, because the record contains the hash of the table.
    """
    with replacing(run.predictions_path) as draft:
        table.to_parquet(draft, write_page_checksum=True)
    _clear_cached(run, "predictions")
    return run.predictions_path


def write_record(run: RunFolder, record: dict[str, Any]) -> Path:
    """Write record.json with the hash of the predictions and its own checksum, and return its path."""
    content = readers.add_checksum(record | {readers.TABLE_HASH: file_hash(run.predictions_path)})
    _clear_cached(run, "record")
    return write_text(run.record_path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_metrics(run: RunFolder) -> Path:
    """Compute the metrics of a run's predictions, write metrics.json and return its path.

    The file is written atomically, because a run with metrics.json counts as finished.

    Raises:
        UserError: A file of the run is damaged.
    """
    from etude.evaluation.measure import compute_metrics  # heavy: numpy

    metrics = compute_metrics(run.predictions, run.record["targets"])
    if left_out := describe_left_out(metrics["targets"]):
        log.warning("%s: %s", os.path.relpath(run.path), left_out)
    content = readers.add_checksum(metrics)
    _clear_cached(run, "metrics")
    return write_text(run.metrics_path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _clear_cached(run: RunFolder, name: str) -> None:
    """Clear the cached content of a file, so that it is read again."""
    vars(run).pop(name, None)
