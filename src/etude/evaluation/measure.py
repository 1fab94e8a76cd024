"""Metrics of a table of predictions, which has one row per clip.

All numbers of a report are computed here, and not as means of batch metrics. metrics.json depends only on
predictions.parquet and the targets in record.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError
from etude.evaluation import bootstrap
from etude.evaluation.bootstrap import Resamples
from etude.evaluation.formatting import BASELINES
from etude.evaluation.means import CORRELATIONS, MEAN, build_scorer, mean_over_scalars, usable_functions
from etude.evaluation.metrics import (
    PRIMARY,
    FunctionMetric,
    calibration_scores,
    classification,
    limits_of_agreement,
    reliability_bins,
    simulate_chance_error,
)
from etude.evaluation.predictions import class_probabilities, encode_column

if TYPE_CHECKING:
    from pandas import DataFrame


SPLITS = ("test", "val")
MACRO = ("macro_f1", "macro_precision", "macro_recall")
METRICS_VERSION = 2
"""Version of metrics.json. The intervals of version 1 are not corrected for few groups."""


def compute_metrics(table: DataFrame, targets: dict[str, dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Compute the metrics of all targets on validation and test.

    With pooled folds (column fold), the training mean differs between folds. It is lower for folds whose true values
    are higher, so its correlation with them is negative by construction. Therefore it is undefined, as in one fold.

    Args:
        table: Content of predictions.parquet, a row per clip with the columns id, group, split, `{t}.true`, `{t}.pred`
            and baselines.
        targets: Targets of record.json with kind ("label" or "scalar"), classes or low and high, note, and the
            descriptions of the fitted baselines. With `train_classes`, the number of training clips by class, macro
            means are also computed without the classes that have no training clips. With `metrics`, nodes of functions
            by name, these are computed too, unless they are not trusted or fail (`left_out`, with the reasons).
        seed: Seed of the resamples.

    Returns:
        Content of metrics.json, with the means over the scalars if there are several. An undefined number is None. The
        scores of a split are empty if fewer than two clips have a true value.

    Raises:
        UserError: A column is missing, a class is not one of the target's, or a prediction is missing.
    """
    measured = {}
    for name, target in targets.items():
        kind = target["kind"]
        functions, left_out = usable_functions(name, target, table)
        splits = {split: _split_metrics(table[table["split"] == split], name, target, seed, functions)
                  for split in SPLITS}  # fmt: skip
        spec: dict[str, Any] = {key: target[key] for key in ("kind", "classes", "low", "high") if key in target}
        nodes = {metric: node for metric, node in (target.get("metrics") or {}).items() if metric not in left_out}
        spec |= ({"metrics": nodes} if nodes else {}) | ({"left_out": left_out} if left_out else {})
        measured[name] = spec | {"note": target.get("note", ""), "primary": PRIMARY[kind], "splits": splits}
    mean = mean_over_scalars(table, targets, SPLITS, seed)
    return {
        "version": METRICS_VERSION,
        "resamples": bootstrap.RESAMPLES,
        "level": 0.95,
        "targets": replace_non_finite(measured),
        **({MEAN: replace_non_finite(mean)} if mean else {}),
    }


def confusion(true: np.ndarray, pred: np.ndarray, classes: int) -> np.ndarray:
    """Compute the confusion matrix (C, C), int64, with true classes in rows and predicted classes in columns."""
    return np.bincount(true * classes + pred, minlength=classes**2).reshape(classes, classes)


def _split_metrics(
    table: DataFrame, name: str, target: dict[str, Any], seed: int, functions: Sequence[FunctionMetric]
) -> dict[str, Any]:
    """Compute the metrics of one target on one split. Clips without a true value are dropped and counted."""
    column = f"{name}.true"
    if column not in table.columns:
        raise UserError(
            f"the table has no column named {column!r}; its columns are {', '.join(map(str, table.columns))}"
        )
    known = table[table[column].notna()]
    groups = known["group"].astype(object).where(known["group"].notna(), None).tolist()
    result: dict[str, Any] = {"n": len(known), "groups": bootstrap.count_groups(groups)}
    result |= {"ungrouped": sum(bootstrap.is_missing(group) for group in groups)}
    result |= {"missing": len(table) - len(known), "scores": {}, "baselines": {}}
    if target["kind"] == "label":
        result |= {"per_class": [], "confusion": []}
    if len(known) < 2:
        return result

    true = encode_column(known, column, target)
    resamples = bootstrap.draw_resamples(groups, seed=seed, strata=true if target["kind"] == "label" else None)
    pred = encode_column(known, f"{name}.pred", target)
    probability = class_probabilities(known, name, target)
    point, drawn = bootstrap.resampled_scores(build_scorer(true, target, functions, probability), pred, resamples)
    score = build_scorer(true, target, functions)
    result["scores"] = bootstrap.scores_with_intervals(point, drawn)
    if target["kind"] == "label":
        counts = confusion(true, pred, len(target["classes"]))
        class_groups = [len(set(bootstrap.encode_groups(groups)[true == i].tolist())) for i in range(len(counts))]
        result |= {"per_class": _class_rows(counts, target["classes"], class_groups), "confusion": counts.tolist()}
        if learnable := _learnable_scores(counts, target, true, pred, resamples):
            result["learnable"] = learnable
        result["calibration"] = {} if probability is None else _calibration(probability, true, pred, resamples, seed)
    else:
        result["agreement"] = bootstrap.scores_with_intervals(
            *bootstrap.resampled_scores(lambda p, w: limits_of_agreement(true, p, w), pred, resamples)
        )
    for baseline, names in BASELINES.items():
        column = f"{name}.baseline.{baseline}"
        if column not in known.columns or known[column].isna().all():
            continue
        other_pred = encode_column(known, column, target)
        other = bootstrap.resampled_scores(score, other_pred, resamples)
        if baseline == "constant" and target["kind"] == "scalar" and "fold" in known.columns:
            for scores, correlation in product(other, CORRELATIONS):
                scores[correlation] = np.full_like(scores[correlation], np.nan)
        result["baselines"][baseline] = {
            **{"name": names[target["kind"]], **((target.get("baselines") or {}).get(baseline) or {})},
            **bootstrap.compare_with_baseline((point, drawn), other, pred, other_pred, groups),
        }
    return result


def _learnable_scores(
    counts: np.ndarray, target: Mapping[str, Any], true: np.ndarray, pred: np.ndarray, resamples: Resamples
) -> dict[str, Any]:
    """Compute macro means over the classes with training clips. Empty if all evaluated classes have training clips.

    Returns:
        `classes`, those with clips in training and in this split; `untrained`, those with clips in this split alone;
        and `scores`.
    """
    train = target.get("train_classes")
    if not train:
        return {}
    trained = np.array([train.get(name, 0) > 0 for name in target["classes"]])
    evaluated = counts.sum(1) > 0
    if not (evaluated & ~trained).any():
        return {}
    point, drawn = bootstrap.resampled_scores(
        lambda p, w: classification(true, p, len(trained), w, averaged=trained), pred, resamples
    )
    scores = bootstrap.scores_with_intervals(point, drawn)
    names = np.array(target["classes"], dtype=object)
    return {
        "classes": names[evaluated & trained].tolist(),
        "untrained": names[evaluated & ~trained].tolist(),
        "scores": {metric: scores[metric] for metric in MACRO},
    }


def repeated_scores(tables: Sequence[DataFrame], name: str, target: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Compute the means of a target's test scores over repeated cross-validations of the same clips.

    Repeats are not independent, because they have the same clips. A resample therefore draws groups once for all
    repeats, and its score is the mean over the repeats.

    Args:
        tables: Pooled predictions of each repeat.
        name: Name of the target.
        target: The target in record.json.
        seed: Seed of the resamples.

    Returns:
        `n` clips, `groups`, `ungrouped` clips, and for each metric of `scores` the mean with its interval and the
        `values` of the repeats.

    Raises:
        ValueError: The repeats have different test clips, or fewer than two of them have a true value.
    """
    column = f"{name}.true"
    tests = [table[(table["split"] == "test") & table[column].notna()].sort_values("id") for table in tables]
    first = tests[0]
    if any(test["id"].tolist() != first["id"].tolist() for test in tests):
        raise ValueError("the repeats have different test clips")
    if len(first) < 2:
        raise ValueError(f"{len(first)} test clips have a {name}; at least two are needed")
    groups = first["group"].astype(object).where(first["group"].notna(), None).tolist()
    true = encode_column(first, column, target)
    resamples = bootstrap.draw_resamples(groups, seed=seed, strata=true if target["kind"] == "label" else None)
    score = build_scorer(true, target)
    scored = [
        bootstrap.resampled_scores(score, encode_column(test, f"{name}.pred", target), resamples) for test in tests
    ]
    values = {metric: [float(point[metric][0]) for point, _ in scored] for metric in scored[0][0]}
    means = {metric: np.array([np.mean(of_metric)]) for metric, of_metric in values.items()}
    drawn = {metric: np.mean([of_repeat[metric] for _, of_repeat in scored], axis=0) for metric in values}
    scores = bootstrap.scores_with_intervals(means, drawn)
    result = {
        "n": len(first),
        "groups": bootstrap.count_groups(groups),
        "ungrouped": sum(bootstrap.is_missing(group) for group in groups),
        "scores": {metric: score | {"values": values[metric]} for metric, score in scores.items()},
    }
    return dict(replace_non_finite(result))


def _calibration(
    probability: np.ndarray, true: np.ndarray, pred: np.ndarray, resamples: bootstrap.Resamples, seed: int
) -> dict[str, Any]:
    """Compute the calibration of a label's probabilities."""
    numbers = bootstrap.scores_with_intervals(
        *bootstrap.resampled_scores(lambda p, w: calibration_scores(probability, true, p, w), pred, resamples)
    )
    rows = reliability_bins(probability, pred)
    return {
        **{m: numbers[m] for m in ("nll", "brier", "ece")},
        "chance": simulate_chance_error(probability, pred, seed),
        "bins": [row | {"accuracy": numbers[f"accuracy_{i}"]} for i, row in enumerate(rows)],
    }


def _class_rows(counts: np.ndarray, classes: list[str], groups: list[int]) -> list[dict[str, Any]]:
    """Return one row per class with its number of groups. Scores of a class without support are None."""
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


def replace_non_finite(value: Any) -> Any:
    """Return a value in which None replaces every float that JSON cannot represent."""
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
