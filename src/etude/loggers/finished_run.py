"""Numbers, tables and files of a finished run for the loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.means import targets_and_mean
from etude.evaluation.score_summary import count_known_groups
from etude.reports import figures
from etude.reports.svg import Drawing
from etude.runs.folder import RESULTS, RunFolder, run_of

if TYPE_CHECKING:
    import pandas as pd


SPLIT_NAMES = {"test": "test", "val": "validation"}
"""Names of splits in results. `val/...` are curves by epoch, `validation/...` are the results of the best epoch."""


def flatten_results(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, float]:
    """Return all scores of a run by name.

    Args:
        metrics: The content of metrics.json.
        record: The content of record.json.

    Returns:
        Mapping with these keys. Undefined values are omitted.

        - `test/<target>/<metric>`: Scores, including calibration and agreement. The target `mean` has the means over
          several scalars.
        - `test/<target>/<baseline>/<metric>`: Scores of the baselines.
        - `test/<target>/over_<baseline>/<metric>`: Differences from the baselines.
        - `.../low` and `.../high`: Interval of each of these values.
        - `test/<target>/n`, `.../groups` and `.../ungrouped`: Numbers of clips, of groups, and of clips with an unknown
          group. If all groups are unknown, the number of groups is omitted.
        - `best/epoch` and `best/<monitor>`: Epoch and monitored score of the best checkpoint.
        - `linear_probe/<target>/C` or `.../alpha`: Chosen penalty of a linear probe, which has no best epoch.
        - `initial_heads/<target>/C` or `.../alpha`: Chosen penalty of a linear probe with which fine-tuning began.
        - `seconds/...`: Durations.
    """
    flat: dict[str, float | None] = {}
    for name, target in targets_and_mean(metrics).items():
        for split, results in target["splits"].items():
            flat |= dict(_flatten_split(f"{SPLIT_NAMES[split]}/{name}", results))
    model = record.get("model", {})
    if probes := model.get("linear_probe"):
        for name, probe in probes.items():
            flat |= {f"linear_probe/{name}/{key}": value for key, value in probe["penalty"].items()}
    else:
        for name, probe in (model.get("initial_heads") or {}).items():
            flat |= {f"initial_heads/{name}/{key}": value for key, value in probe["penalty"].items()}
        flat |= {"best/epoch": model.get("best_epoch"), f"best/{model.get('monitor')}": model.get("best_score")}
    flat |= {key: model.get(key) for key in ("epochs", "parameters")}
    flat |= {f"seconds/{key}": value for key, value in record.get("seconds", {}).items()}
    return {key: value for key, value in flat.items() if value is not None}


def _flatten_split(root: str, results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield names and values of the results of a split."""
    yield f"{root}/n", results["n"]
    yield f"{root}/groups", count_known_groups(results)
    yield f"{root}/ungrouped", results.get("ungrouped")
    yield from _flatten_scores(root, results["scores"])
    calibration = {key: score for key, score in results.get("calibration", {}).items() if key not in ("chance", "bins")}
    yield from _flatten_scores(root, calibration | results.get("agreement", {}))
    for name, baseline in results["baselines"].items():
        yield from _flatten_scores(f"{root}/{name}", baseline["scores"])
        yield from _flatten_scores(f"{root}/over_{name}", baseline["difference"])


def _flatten_scores(root: str, scores: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield names and values of scores and their intervals."""
    for metric, score in scores.items():
        yield f"{root}/{metric}", score["value"]
        yield f"{root}/{metric}/low", score["low"]
        yield f"{root}/{metric}/high", score["high"]


MOST_CELLS = 10_000  # Weights & Biases truncates larger tables


def predictions_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return predictions.parquet without embeddings, a row per clip of test and validation."""
    return table.drop(columns="embedding")


def confusion_table(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> pd.DataFrame:
    """Return a confusion matrix (C, C) as C² rows of actual, predicted and clips.

    Large matrices omit cells without clips.
    """
    import pandas as pd

    all_cells = len(classes) ** 2 <= MOST_CELLS
    pairs = [(classes[i], classes[j], n) for i, row in enumerate(counts) for j, n in enumerate(row) if n or all_cells]
    return pd.DataFrame(pairs, columns=["actual", "predicted", "clips"])


def classes_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return precision, recall, F1 and support of each class."""
    import pandas as pd

    return pd.DataFrame(list(rows))


def embedding_table(table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the embeddings of the test split (n, D), float32, and the metadata of each clip (n rows)."""
    test = table[table["split"] == "test"].reset_index(drop=True)
    columns = [c for c in test.columns if c in ("id", "group") or str(c).endswith((".true", ".pred"))]
    dim = len(table["embedding"].iloc[0]) if len(table) else 0
    return np.array(test["embedding"].tolist(), np.float32).reshape(len(test), dim), test[columns]


def map_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first two principal components of the embeddings of the test split.

    The columns are `x`, `y` and the metadata of each clip. If there is only one component, `y` is 0.
    """
    from sklearn.decomposition import PCA

    z, metadata = embedding_table(table)
    points = np.zeros((len(z), 2))
    if (components := min(2, *z.shape)) and len(z) > 1:
        points[:, :components] = PCA(components, svd_solver="full").fit_transform(z.astype(np.float64))
    result = metadata.copy()
    result.insert(0, "x", points[:, 0])
    result.insert(1, "y", points[:, 1])
    return result


class FinishedRun:
    """Results of a finished run. They are computed on first access and shared by all trackers.

    Args:
        files: The run's folder.
    """

    def __init__(self, files: RunFolder) -> None:
        self.files = files

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json."""
        return self.files.metrics

    @property
    def record(self) -> dict[str, Any]:
        """Content of record.json."""
        return self.files.record

    @property
    def predictions(self) -> pd.DataFrame:
        """Content of predictions.parquet."""
        return self.files.predictions

    @cached_property
    def numbers(self) -> dict[str, float]:
        """All scores with intervals and baselines by names such as `test/genre/macro_f1/low`."""
        return flatten_results(self.metrics, self.record)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables `predictions` and `maps`, and `confusion/<target>` and `classes/<target>` of each label."""
        tables = {"predictions": predictions_table(self.predictions), "maps": map_table(self.predictions)}
        for name, target in self.metrics["targets"].items():
            test = target["splits"]["test"]
            if test.get("confusion"):
                tables[f"confusion/{name}"] = confusion_table(test["confusion"], target["classes"])
                tables[f"classes/{name}"] = classes_table(test["per_class"])
        return tables

    @cached_property
    def embedding(self) -> tuple[np.ndarray, pd.DataFrame]:
        """Embeddings of the test split (n, D), and the metadata of each clip."""
        return embedding_table(self.predictions)

    @cached_property
    def figures(self) -> dict[str, bytes]:
        """Figures of the report as PNG, without curves, which trackers draw themselves."""
        targets = self.metrics["targets"]
        drawings: dict[str, str] = {"scores": figures.forest_plot(targets_and_mean(self.metrics))}
        for name, target in targets.items():
            if target["kind"] == "scalar":
                drawings[f"scatter/{name}"] = figures.scatter_plot(self.predictions, name, target)
        return {name: drawing.png() for name, drawing in drawings.items() if isinstance(drawing, Drawing)}

    @property
    def results(self) -> list[Path]:
        """Existing result files of the run."""
        return [path for name in RESULTS if (path := self.files.path / name).is_file()]

    @property
    def checkpoint(self) -> Path | None:
        """Checkpoint that computed the predictions."""
        return self.files.best_checkpoint

    @cached_property
    def pack(self) -> dict[str, Any]:
        """Name and hashes of the collection of the run."""
        return {key: self.record["data"].get(key) for key in ("name", "hash", "labels", "clips", "seconds")}

    @cached_property
    def source(self) -> RunFolder | None:
        """Run from which the initial weights were read, or None."""
        init_from = (self.files.config.get("transfer") or {}).get("init_from")
        if init_from is None:
            return None
        path = Path(init_from)
        return RunFolder(path if path.is_dir() else run_of(path))
