"""What a tracker gets of a finished run, read from its folder and from nothing else."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.tracking import tables
from etude.tracking.numbers import numbers

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FILES = ("report.html", "metrics.json", "predictions.parquet", "record.json", "config.yaml", "split.csv", "curves.csv")
"""What of a run is a file for people or for programs, apart from its checkpoints."""


class Finished:
    """A finished run; each part is made when a tracker first asks for it, and once for all of them.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return json.loads((self.folder / "metrics.json").read_text("utf-8"))

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of record.json."""
        return json.loads((self.folder / "record.json").read_text("utf-8"))

    @cached_property
    def table(self) -> pd.DataFrame:
        """predictions.parquet."""
        from etude.results import reading

        return reading.table(self.folder)

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Every score with its interval and its baselines, by names such as `test/genre/macro_f1/low`."""
        return numbers(self.metrics, self.record)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """`predictions`, `latent`, and of every label `confusion/<target>` and `classes/<target>`."""
        made = {"predictions": tables.predictions(self.table), "latent": tables.latent(self.table)}
        for name, target in self.metrics["targets"].items():
            test = target["splits"]["test"]
            if test.get("confusion"):
                made[f"confusion/{name}"] = tables.confusion(test["confusion"], target["classes"])
                made[f"classes/{name}"] = tables.classes(test["per_class"])
        return made

    @cached_property
    def embedding(self) -> tuple[np.ndarray, pd.DataFrame]:
        """Embeddings of the test part (n, D), and what is known of each clip."""
        return tables.embedding(self.table)

    @cached_property
    def figures(self) -> dict[str, bytes]:
        """The report's figures as PNG; curves a tracker draws by itself."""
        from etude.results import figures
        from etude.results.svg import Drawing

        targets = self.metrics["targets"]
        drawn: dict[str, str] = {"scores": figures.forest(targets)}
        for name, target in targets.items():
            if target["kind"] == "scalar":
                drawn[f"scatter/{name}"] = figures.scatter(self.table, name, target)
        return {name: drawing.png() for name, drawing in drawn.items() if isinstance(drawing, Drawing)}

    @property
    def files(self) -> list[Path]:
        """Those of FILES that the run has."""
        return [self.folder / name for name in FILES if (self.folder / name).is_file()]

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that made the predictions."""
        return best(self.folder)

    @cached_property
    def pack(self) -> dict[str, Any]:
        """What the run's frames and labels are: their collection's name and their hashes."""
        return {key: self.record["data"].get(key) for key in ("name", "hash", "labels", "clips", "seconds")}

    @cached_property
    def source(self) -> Path | None:
        """The folder of the run whose weights this one began from."""
        from etude.results import reading

        config = reading.config(self.folder)
        said = (config.get("transfer") or {}).get("init_from")
        if said is None:
            return None
        path = Path(said)
        return path if path.is_dir() else path.parent.parent


def best(folder: Path) -> Path | None:
    """A run's best checkpoint, or else its last."""
    paths = (folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    return next((path for path in paths if path.is_file()), None)


def tracked_as(folder: Path) -> dict[str, str]:
    """What each tracker calls a run, by the tracker's key; empty for one that none knows."""
    path = folder / "trackers.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def sweep_of(folder: Path) -> str | None:
    """The name of the sweep that a run is a job of."""
    return folder.parent.name if (folder.parent / "multirun.yaml").is_file() else None
