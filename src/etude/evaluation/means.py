"""Means of scores over the scalar targets of a run.

The mean Spearman correlation over valence, energy and danceability is a common measure of affect. A resample draws
groups once for all targets, and its score is the mean over the targets of their scores on this resample. The interval
therefore includes the correlation between the targets of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation import bootstrap
from etude.evaluation.formatting import BASELINES
from etude.evaluation.metrics import LOWER_IS_BETTER, PRIMARY, regression
from etude.evaluation.predictions import encode_column

if TYPE_CHECKING:
    from pandas import DataFrame


MEAN = "mean"
"""Key in metrics.json, and name of the mean in tables with a row per target."""
CORRELATIONS = ("spearman", "pearson")


def mean_over_scalars(
    table: DataFrame, targets: Mapping[str, Mapping[str, Any]], splits: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Compute the means of scores over all scalar targets.

    A clip with a true value of any of the targets counts. It is masked in the targets of which it has no true value.
    Errors are in the unit of their target, so their means are only computed if all targets have the same range.

    Args:
        table: Content of predictions.parquet, a row per clip.
        targets: Targets of record.json.
        splits: Splits to be scored.
        seed: Seed of the resamples.

    Returns:
        Entry `mean` of metrics.json, which has the structure of a target and the names of the `targets`. Empty for
        fewer than two scalars. The scores of a split are empty if a target has fewer than two true values.

    Raises:
        UserError: A prediction is missing.
    """
    scalars = {name: target for name, target in targets.items() if target["kind"] == "scalar"}
    if len(scalars) < 2:
        return {}
    entry: dict[str, Any] = {"targets": list(scalars), "kind": "scalar", "primary": PRIMARY["scalar"]}
    if has_common_range(scalars):
        first = next(iter(scalars.values()))
        entry |= {"low": first["low"], "high": first["high"]}
    return entry | {"splits": {split: _score_split(table[table["split"] == split], scalars, seed) for split in splits}}


def has_common_range(targets: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether all targets have the same known range, so that a mean of their errors has a unit."""
    ranges = {(target.get("low"), target.get("high")) for target in targets.values()}
    return len(ranges) == 1 and not any(None in ends for ends in ranges)


def known_values_mask(table: DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return which of the clips have a true value of each of K targets (n, K), bool."""
    return np.column_stack([table[f"{name}.true"].notna().to_numpy() for name in names])


def encode_columns(table: DataFrame, columns: Sequence[str], known: np.ndarray) -> np.ndarray:
    """Return columns of K scalars as numbers (n, K), float64, with 0 for masked values.

    Raises:
        UserError: A value that is not masked is missing.
    """
    values = np.zeros(known.shape)
    for i, column in enumerate(columns):
        values[known[:, i], i] = encode_column(table[known[:, i]], column, {"kind": "scalar"})
    return values


def build_mean_scorer(true: np.ndarray, known: np.ndarray, errors: bool) -> bootstrap.ResampledScore:
    """Return a function that computes the mean scores from predictions (n, K) and weights (R, n) or None.

    Args:
        true: True values (n, K).
        known: Which of the true values are known (n, K). The others are ignored.
        errors: Whether to include the mean errors.
    """

    def score(pred: np.ndarray, weights: np.ndarray | None) -> bootstrap.ResampledScores:
        by_target = [
            regression(true[mask, i], pred[mask, i], None if weights is None else weights[:, mask])
            for i, mask in enumerate(known.T)
        ]
        metrics = [metric for metric in by_target[0] if errors or metric not in LOWER_IS_BETTER]
        return {metric: np.mean([scores[metric] for scores in by_target], axis=0) for metric in metrics}

    return score


def targets_and_mean(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the targets of metrics.json by name, followed by their mean if there is one."""
    targets = dict(metrics["targets"])
    return targets | ({mean_name(targets): metrics[MEAN]} if metrics.get(MEAN) else {})


def mean_name(targets: Mapping[str, Any]) -> str:
    """Return the name of the mean in tables, which differs from the names of all targets."""
    return MEAN if MEAN not in targets else f"{MEAN} of scalars"


def _score_split(table: DataFrame, scalars: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Compute the means on one split, with the structure of the results of a target on a split."""
    names = list(scalars)
    known = known_values_mask(table, names)
    evaluated = known.any(axis=1)
    missing = len(table) - int(evaluated.sum())
    table, known = table.iloc[np.flatnonzero(evaluated)], known[evaluated]
    groups = table["group"].astype(object).where(table["group"].notna(), None).tolist()
    result: dict[str, Any] = {"n": len(table), "groups": bootstrap.count_groups(groups)}
    result |= {"ungrouped": sum(map(bootstrap.is_missing, groups)), "missing": missing}
    result |= {"n_by_target": dict(zip(names, known.sum(axis=0).tolist(), strict=True)), "scores": {}, "baselines": {}}
    if min(result["n_by_target"].values()) < 2:
        return result
    resamples = bootstrap.draw_resamples(groups, seed=seed)
    score = build_mean_scorer(
        encode_columns(table, [f"{name}.true" for name in names], known), known, has_common_range(scalars)
    )
    pred = encode_columns(table, [f"{name}.pred" for name in names], known)
    own = bootstrap.resampled_scores(score, pred, resamples)
    result["scores"] = bootstrap.scores_with_intervals(*own)
    for baseline in BASELINES:
        columns = [f"{name}.baseline.{baseline}" for name in names]
        if any(column not in table.columns or table[column].isna().all() for column in columns):
            continue
        other_pred = encode_columns(table, columns, known)
        other = bootstrap.resampled_scores(score, other_pred, resamples)
        if baseline == "constant" and "fold" in table.columns:  # as for a single target, see compute_metrics
            for scores, metric in product(other, CORRELATIONS):
                scores[metric] = np.full_like(scores[metric], np.nan)
        result["baselines"][baseline] = {
            "name": _baseline_name(baseline, scalars),
            **bootstrap.compare_with_baseline(own, other, pred, other_pred, groups),
        }
    return result


def _baseline_name(baseline: str, scalars: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of a baseline, whose family may differ between targets."""
    fits = [(target.get("baselines") or {}).get(baseline) or {} for target in scalars.values()]
    names = {str(fit.get("name") or BASELINES[baseline]["scalar"]) for fit in fits}
    return names.pop() if len(names) == 1 else BASELINES[baseline]["scalar"]
