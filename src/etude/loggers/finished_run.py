"""Numbers, tables and files of a finished run, as loggers receive them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.reports import figures
from etude.reports.svg import Drawing
from etude.runs.folder import RESULTS, RunFolder, run_of

if TYPE_CHECKING:
    import pandas as pd


PARTS = {"test": "test", "val": "validation"}
"""How a part's results are named: `val/...` are curves by epoch, `validation/...` is what the best epoch came to."""


def numbers(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, float]:
    """All scores of a run.

    Args:
        metrics: The content of metrics.json.
        record: The content of record.json.

    Returns:
        `test/<target>/<metric>`, calibration and agreement among them, with its ends `.../low` and `.../high`; the
        same of a baseline as `test/<target>/<baseline>/<metric>` and of the distance from it as
        `test/<target>/over_<baseline>/<metric>`; `n` and `groups`; `best/epoch` and the score that chose it; seconds.
        What is undefined is left out.
    """
    flat: dict[str, float | None] = {}
    for name, target in metrics["targets"].items():
        for split, part in target["splits"].items():
            flat |= dict(_part(f"{PARTS[split]}/{name}", part))
    model = record.get("model", {})
    flat |= {"best/epoch": model.get("best_epoch"), f"best/{model.get('monitor')}": model.get("best_score")}
    flat |= {key: model.get(key) for key in ("epochs", "parameters")}
    flat |= {f"seconds/{key}": value for key, value in record.get("seconds", {}).items()}
    return {key: value for key, value in flat.items() if value is not None}


def _part(root: str, part: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield f"{root}/n", part["n"]
    yield f"{root}/groups", part["groups"]
    yield from _scores(root, part["scores"])
    sure = {key: score for key, score in part.get("calibration", {}).items() if key not in ("chance", "bins")}
    yield from _scores(root, sure | part.get("agreement", {}))
    for name, baseline in part["baselines"].items():
        yield from _scores(f"{root}/{name}", baseline["scores"])
        yield from _scores(f"{root}/over_{name}", baseline["difference"])


def _scores(root: str, scores: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for metric, score in scores.items():
        yield f"{root}/{metric}", score["value"]
        yield f"{root}/{metric}/low", score["low"]
        yield f"{root}/{metric}/high", score["high"]


MOST_CELLS = 10_000  # Weights & Biases cuts a table of more rows


def predictions_table(table: pd.DataFrame) -> pd.DataFrame:
    """predictions.parquet without the embeddings: a row per clip of test and validation."""
    return table.drop(columns="embedding")


def confusion_table(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> pd.DataFrame:
    """A confusion matrix (C, C) as C² rows: actual, predicted, clips; of many classes without empty cells."""
    import pandas as pd

    every = len(classes) ** 2 <= MOST_CELLS
    pairs = [(classes[i], classes[j], n) for i, row in enumerate(counts) for j, n in enumerate(row) if n or every]
    return pd.DataFrame(pairs, columns=["actual", "predicted", "clips"])


def classes_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Precision, recall, F1 and support of each class."""
    import pandas as pd

    return pd.DataFrame(list(rows))


def embedding_table(table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Embeddings of the test part (n, D), float32, and beside them what is known of each clip (n rows)."""
    test = table[table["split"] == "test"].reset_index(drop=True)
    known = [c for c in test.columns if c in ("id", "group") or str(c).endswith((".true", ".pred"))]
    dim = len(table["embedding"].iloc[0]) if len(table) else 0
    return np.array(test["embedding"].tolist(), np.float32).reshape(len(test), dim), test[known]


def map_table(table: pd.DataFrame) -> pd.DataFrame:
    """The latent map: each clip of the test part at the first two principal components of its embedding.

    Columns `x` and `y`, then those of `embedding`. Where there is only one direction, `y` is 0.
    """
    from sklearn.decomposition import PCA

    z, known = embedding_table(table)
    place = np.zeros((len(z), 2))
    if (most := min(2, *z.shape)) and len(z) > 1:
        place[:, :most] = PCA(most, svd_solver="full").fit_transform(z.astype(np.float64))
    known = known.copy()
    known.insert(0, "x", place[:, 0])
    known.insert(1, "y", place[:, 1])
    return known


class FinishedRun:
    """A finished run; each part is made when a tracker first asks for it, and once for all of them.

    Args:
        files: The run's folder.
    """

    def __init__(self, files: RunFolder) -> None:
        self.files = files

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return self.files.metrics

    @property
    def record(self) -> dict[str, Any]:
        """The content of record.json."""
        return self.files.record

    @property
    def predictions(self) -> pd.DataFrame:
        """The content of predictions.parquet."""
        return self.files.predictions

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Every score with its interval and its baselines, by names such as `test/genre/macro_f1/low`."""
        return numbers(self.metrics, self.record)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """`predictions`, `latent`, and of every label `confusion/<target>` and `classes/<target>`."""
        made = {"predictions": predictions_table(self.predictions), "latent": map_table(self.predictions)}
        for name, target in self.metrics["targets"].items():
            test = target["splits"]["test"]
            if test.get("confusion"):
                made[f"confusion/{name}"] = confusion_table(test["confusion"], target["classes"])
                made[f"classes/{name}"] = classes_table(test["per_class"])
        return made

    @cached_property
    def embedding(self) -> tuple[np.ndarray, pd.DataFrame]:
        """Embeddings of the test part (n, D), and what is known of each clip."""
        return embedding_table(self.predictions)

    @cached_property
    def figures(self) -> dict[str, bytes]:
        """The report's figures as PNG; curves a tracker draws by itself."""
        targets = self.metrics["targets"]
        drawn: dict[str, str] = {"scores": figures.forest(targets)}
        for name, target in targets.items():
            if target["kind"] == "scalar":
                drawn[f"scatter/{name}"] = figures.scatter(self.predictions, name, target)
        return {name: drawing.png() for name, drawing in drawn.items() if isinstance(drawing, Drawing)}

    @property
    def results(self) -> list[Path]:
        """The files of results that the run has."""
        return [path for name in RESULTS if (path := self.files.path / name).is_file()]

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that made the predictions."""
        return self.files.best_checkpoint

    @cached_property
    def pack(self) -> dict[str, Any]:
        """Name and hashes of the collection that the run's frames and labels are of."""
        return {key: self.record["data"].get(key) for key in ("name", "hash", "labels", "clips", "seconds")}

    @cached_property
    def source(self) -> RunFolder | None:
        """The run whose weights this one began from."""
        init_from = (self.files.config.get("transfer") or {}).get("init_from")
        if init_from is None:
            return None
        path = Path(init_from)
        return RunFolder(path if path.is_dir() else run_of(path))
