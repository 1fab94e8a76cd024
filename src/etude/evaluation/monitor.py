"""Score by which a search ranks a run, on the validation set."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from etude.runs import readers

PART = "val/"
MEAN = f"{PART}score"


def monitored_score(folder: Path) -> float | None:
    """The task's monitor for the weights that predicted, measured on the validation part.

    Args:
        folder: A run's.

    Returns:
        `val/score` from metrics.json, which measures those weights; any other monitor from curves.csv, at the epoch
        that they are of. None where the run has not come so far, or where there is no such number.

    Raises:
        UserError: A file of the run is damaged.
    """
    from omegaconf import OmegaConf

    if not all((folder / name).is_file() for name in ("config.yaml", "metrics.json", readers.RECORD)):
        return None
    monitor = str(OmegaConf.select(OmegaConf.create(readers.config(folder)), "task.monitor"))
    if not monitor.startswith(PART):
        return None
    value = _mean(folder) if monitor == MEAN else _logged(folder, monitor)
    return value if value is not None and math.isfinite(value) else None


def _mean(folder: Path) -> float | None:
    """The mean over targets of their leading scores; one that is undefined counts 0, as while training."""
    targets: dict[str, Any] = readers.metrics(folder)["targets"]
    leading = [target["splits"]["val"]["scores"].get(target["primary"]) for target in targets.values()]
    values = [float((score or {}).get("value") or 0.0) for score in leading]
    return sum(values) / len(values) if values else None


def _logged(folder: Path, monitor: str) -> float | None:
    """What was logged of the epoch whose weights were kept."""
    epoch, path = readers.record(folder).get("model", {}).get("best_epoch"), folder / "curves.csv"
    if epoch is None or not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        found = [row[monitor] for row in csv.DictReader(file) if row.get("epoch") == str(epoch) and row.get(monitor)]
    return float(found[-1]) if found else None
