"""Writing of a run's results: split, predictions, record, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.measure import measure
from etude.files.atomic import replacing, write_text
from etude.runs.folder import RunFolder
from etude.runs.readers import TABLE_HASH, file_hash, sealed

if TYPE_CHECKING:
    import pandas as pd


def write_split(run: RunFolder, split: pd.DataFrame) -> Path:
    """Write split.csv; return its path.

    Args:
        run: The run's folder.
        split: Columns `id` and `split`, a row per clip.
    """
    return write_text(run.split_path, split.to_csv(index=False))


def write_predictions(run: RunFolder, table: pd.DataFrame) -> Path:
    """Write predictions.parquet; return its path. `write_record` comes next, because the record holds its hash."""
    with replacing(run.predictions_path) as draft:
        table.to_parquet(draft, write_page_checksum=True)
    _forget(run, "predictions")
    return run.predictions_path


def write_record(run: RunFolder, record: dict[str, Any]) -> Path:
    """Write record.json with the hash of the table of predictions and a checksum of its own; return its path."""
    content = sealed(record | {TABLE_HASH: file_hash(run.predictions_path)})
    _forget(run, "record")
    return write_text(run.record_path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_metrics(run: RunFolder) -> Path:
    """Measure the predictions of a run and write metrics.json; return its path.

    The file appears whole or not at all: a run that has metrics.json is a finished run.

    Raises:
        UserError: A file of the run is damaged.
    """
    targets = run.record["targets"]
    content = sealed(measure(run.predictions, targets))
    _forget(run, "metrics")
    return write_text(run.metrics_path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _forget(run: RunFolder, name: str) -> None:
    """Drop the content of a file that is written, so that it is read again."""
    vars(run).pop(name, None)
