"""Writers of a run's split, predictions, record and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.measure import compute_metrics
from etude.files.atomic import replacing, write_text
from etude.files.journal import file_hash
from etude.runs.folder import RunFolder
from etude.runs.readers import TABLE_HASH, add_checksum

if TYPE_CHECKING:
    import pandas as pd


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
    content = add_checksum(record | {TABLE_HASH: file_hash(run.predictions_path)})
    _clear_cached(run, "record")
    return write_text(run.record_path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_metrics(run: RunFolder) -> Path:
    """Compute the metrics of a run's predictions, write metrics.json and return its path.

    The file is written atomically, because a run with metrics.json counts as finished.

    Raises:
        UserError: A file of the run is damaged.
    """
    targets = run.record["targets"]
    content = add_checksum(compute_metrics(run.predictions, targets))
    _clear_cached(run, "metrics")
    return write_text(run.metrics_path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _clear_cached(run: RunFolder, name: str) -> None:
    """Clear the cached content of a file, so that it is read again."""
    vars(run).pop(name, None)
