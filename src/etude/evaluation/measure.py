"""Metrics of a table of predictions, one row per clip: every number that a report shows.

Nothing here is a mean of batch metrics, and nothing is computed anywhere else: metrics.json is a pure function of
predictions.parquet and of the targets in record.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError
from etude.evaluation import bootstrap, calibration
from etude.evaluation.metrics import PRIMARY, classification, regression

if TYPE_CHECKING:
    from pandas import DataFrame


SPLITS = ("test", "val")
BASELINES = {
    "constant": {"label": "majority class", "scalar": "training mean"},
    "linear": {"label": "linear model on mel statistics", "scalar": "linear model on mel statistics"},
}


def measure(table: DataFrame, targets: dict[str, dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Score every target on validation and test.

    Args:
        table: predictions.parquet: a row per clip, columns id, group, split, `{t}.true`, `{t}.pred` and baselines.
        targets: record.json's targets: kind ("label" or "scalar"), classes or low and high, note.
        seed: Seed of the resamples.

    Returns:
        What metrics.json holds. A number that is undefined is None; a split with fewer than two labelled clips has
        empty scores.

    Raises:
        UserError: A column that is not there, a class that the target does not have, or a prediction that is missing.
    """
    measured = {}
    for name, target in targets.items():
        kind = target["kind"]
        parts = {split: _split(table[table["split"] == split], name, target, seed) for split in SPLITS}
        about: dict[str, Any] = {key: target[key] for key in ("kind", "classes", "low", "high") if key in target}
        measured[name] = about | {"note": target.get("note", ""), "primary": PRIMARY[kind], "splits": parts}
    return {"version": 1, "resamples": bootstrap.RESAMPLES, "level": 0.95, "targets": plain(measured)}


def confusion(true: np.ndarray, pred: np.ndarray, classes: int) -> np.ndarray:
    """Counts (C, C), int64: truth in rows, prediction in columns."""
    return np.bincount(true * classes + pred, minlength=classes**2).reshape(classes, classes)


def _split(part: DataFrame, name: str, target: dict[str, Any], seed: int) -> dict[str, Any]:
    """Numbers of one target on one part; clips without its label are dropped and counted."""
    column = f"{name}.true"
    if column not in part.columns:
        raise UserError(f"the table has no column {column!r}; it has {', '.join(map(str, part.columns))}")
    labelled = part[part[column].notna()]
    groups = labelled["group"].astype(object).where(labelled["group"].notna(), None).tolist()
    result: dict[str, Any] = {"n": len(labelled), "groups": len(set(bootstrap.codes(groups).tolist()))}
    result |= {"missing": len(part) - len(labelled), "scores": {}, "baselines": {}}
    if target["kind"] == "label":
        result |= {"per_class": [], "confusion": []}
    if len(labelled) < 2:
        return result

    true = values(labelled, column, target)
    resamples = bootstrap.weights(groups, seed=seed, strata=true if target["kind"] == "label" else None)
    pred = values(labelled, f"{name}.pred", target)
    score = scorer(true, target)
    point, drawn = bootstrap.resampled_scores(score, pred, resamples)
    result["scores"] = bootstrap.resampled_numbers(point, drawn)
    if target["kind"] == "label":
        counts = confusion(true, pred, len(target["classes"]))
        held = [len(set(bootstrap.codes(groups)[true == i].tolist())) for i in range(len(counts))]
        result |= {"per_class": _per_class(counts, target["classes"], held), "confusion": counts.tolist()}
        result["calibration"] = _calibration(labelled, name, target, true, pred, resamples, seed)
    else:
        result["agreement"] = bootstrap.resampled_numbers(
            *bootstrap.resampled_scores(lambda p, w: calibration.limits_of_agreement(true, p, w), pred, resamples)
        )
    for baseline, names in BASELINES.items():
        column = f"{name}.baseline.{baseline}"
        if column not in labelled.columns or labelled[column].isna().all():
            continue
        other, other_drawn = bootstrap.resampled_scores(score, values(labelled, column, target), resamples)
        result["baselines"][baseline] = {
            "name": names[target["kind"]],
            "scores": bootstrap.resampled_numbers(other, other_drawn),
            "difference": {
                m: bootstrap.resampled_number(point[m][0] - other[m][0], bootstrap.difference(drawn[m], other_drawn[m]))
                for m in other
            },
        }
    return result


def _calibration(
    part: DataFrame,
    name: str,
    target: dict[str, Any],
    true: np.ndarray,
    pred: np.ndarray,
    resamples: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """How a label's probabilities are met; empty when the table has none."""
    columns = [f"{name}.score.{one}" for one in target["classes"]]
    if not set(columns) <= set(part.columns):
        return {}
    probability = part[columns].to_numpy(dtype=np.float64)
    if np.isnan(probability).any():
        raise UserError(f"{np.isnan(probability).any(axis=1).sum()} of {len(part)} clips lack a probability of {name}")
    numbers = bootstrap.resampled_numbers(
        *bootstrap.resampled_scores(
            lambda p, w: calibration.calibration_scores(probability, true, p, w), pred, resamples
        )
    )
    rows = calibration.table(probability, pred)
    return {
        **{m: numbers[m] for m in ("nll", "brier", "ece")},
        "chance": calibration.unavoidable(probability, pred, seed),
        "bins": [row | {"accuracy": numbers[f"accuracy_{i}"]} for i, row in enumerate(rows)],
    }


def values(part: DataFrame, column: str, target: Mapping[str, Any]) -> np.ndarray:
    """A column as class indices (n,) int64, or as numbers (n,) float64. Every clip must have one."""
    values = part[column]
    if values.isna().any():
        raise UserError(f"{values.isna().sum()} of {len(values)} clips have no {column}: did the network diverge?")
    if target["kind"] == "scalar":
        return values.to_numpy(dtype=np.float64)
    index = {name: i for i, name in enumerate(target["classes"])}
    unknown = sorted(set(values) - set(index))
    if unknown:
        raise UserError(f"{column} holds {unknown}, not among the classes {target['classes']}")
    return values.map(index).to_numpy(dtype=np.int64)


def scorer(true: np.ndarray, target: Mapping[str, Any]) -> bootstrap.ResampledScore:
    """All metrics of a target as a function of predictions (n,) and weights (R, n) or None."""
    if target["kind"] == "scalar":
        return lambda pred, weights: regression(true, pred, weights)
    return lambda pred, weights: classification(true, pred, len(target["classes"]), weights)


def _per_class(counts: np.ndarray, classes: list[str], groups: list[int]) -> list[dict[str, Any]]:
    """One row per class, with the groups that hold it. What a class without support would have found is None."""
    rows = []
    for i, name in enumerate(classes):
        hits, support, predicted = int(counts[i, i]), int(counts[i].sum()), int(counts[:, i].sum())
        rows.append(
            {
                "class": name,
                "precision": hits / predicted if predicted else (0.0 if support else None),
                "recall": hits / support if support else None,
                "f1": 2 * hits / (support + predicted) if support else None,
                "support": support,
                "groups": groups[i],
                "predicted": predicted,
            }
        )
    return rows


def plain(value: Any) -> Any:
    """The same with None for every float that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
