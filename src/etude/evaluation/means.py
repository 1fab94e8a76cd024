"""Functions that score the predictions of targets, and means of scores over the scalar targets of a run.

The mean Spearman correlation over valence, energy and danceability is a common measure of affect. A resample draws
groups once for all targets, and its score is the mean over the targets of their scores on this resample. The interval
therefore includes the correlation between the targets of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.config.instantiate import check_trusted, has_parameter, load_function
from etude.config.validation import METRIC_KEYS
from etude.errors import UserError
from etude.evaluation import bootstrap
from etude.evaluation.formatting import BASELINES, BUILT_IN, LOWER_IS_BETTER
from etude.evaluation.metrics import PRIMARY, RANGES, FunctionMetric, classification, regression
from etude.evaluation.predictions import class_probabilities, encode_column

if TYPE_CHECKING:
    from pandas import DataFrame


MEAN = "mean"
"""Key in metrics.json, and name of the mean in tables with a row per target."""
CORRELATIONS = ("spearman", "pearson")


def build_scorer(
    true: np.ndarray,
    target: Mapping[str, Any],
    functions: Sequence[FunctionMetric] = (),
    probability: np.ndarray | None = None,
) -> bootstrap.ResampledScore:
    """Return a function that computes a target's metrics from predictions (n,) and weights (R, n) or None.

    Args:
        true: Class indices or numbers (n,).
        target: The target in record.json or metrics.json.
        functions: Further metrics.
        probability: Class probabilities (n, C) of the predictions. Without them, metrics of scores are nan.
    """
    classes = target.get("classes", ())

    def score(pred: np.ndarray, weights: np.ndarray | None) -> bootstrap.ResampledScores:
        is_label = target["kind"] == "label"
        scores = classification(true, pred, len(classes), weights) if is_label else regression(true, pred, weights)
        arguments = {m.name: function_arguments(m, true, pred, classes, probability) for m in functions}
        return scores | {metric.name: metric(*arguments[metric.name], weights) for metric in functions}

    return score


def build_scorers(
    true: np.ndarray, name: str, runs: Sequence[tuple[Mapping[str, Any], DataFrame]], metric: str
) -> tuple[list[bootstrap.ResampledScore], str]:
    """Return a scorer for the predictions of each of several runs on the same clips.

    Args:
        true: Class indices or numbers (n,).
        name: Name of the target.
        runs: The target in metrics.json and the table of predictions of each run.
        metric: Metric of a function that is computed too, if all runs have it.

    Returns:
        The scorers, and a remark if the metric cannot be computed.
    """
    nodes = [(target.get("metrics") or {}).get(metric) for target, _ in runs]
    functions: list[FunctionMetric] = []
    remark = ""
    if all(nodes):
        target = {**runs[0][0], "metrics": {metric: nodes[0]}}
        functions, left_out = usable_functions(name, target, runs[0][1].assign(split=""))
        remark = "".join(f"no paired tests of {metric}: {reason}." for reason in left_out.values())
        if any(node != nodes[0] for node in nodes):
            functions, remark = [], f"no paired tests of {metric}, because its function differs between runs."
    return [build_scorer(true, target, functions, class_probabilities(table, name, target))
            for target, table in runs], remark  # fmt: skip


def check_range(key: str, limits: Any) -> tuple[float, float]:
    """Return the range of a metric of a config, to which its intervals are limited.

    Raises:
        UserError: It is not two numbers in ascending order.
    """
    numbers = [number for number in limits if type(number) in (int, float)] if isinstance(limits, list) else []
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise UserError(f"{key}.range: must be the smallest and the largest value, such as [0, 1], got {limits!r}")
    return float(numbers[0]), float(numbers[1])


def function_arguments(
    metric: FunctionMetric, true: np.ndarray, pred: np.ndarray, classes: Sequence[str], probability: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the true values and the predictions (n,), or the probabilities (n, C), for the function of a metric.

    Labels are class names. Of two classes, only the probability of the second one is used (n,), as in scikit-learn.
    """
    if metric.on == "scores":
        scores = probability[:, 1] if probability is not None and len(classes) == 2 else probability
        return np.array(classes)[true], scores
    return (np.array(classes)[true], np.array(classes)[pred]) if classes else (true, pred)


def function_metric(key: str, node: Mapping[str, Any], target: Mapping[str, Any]) -> FunctionMetric:
    """Return the metric of a node that is trusted.

    Args:
        key: Key of the node in the config, which ends with the name of the metric.
        node: `_target_`, keyword parameters of the function, and the keys of METRIC_KEYS.
        target: The target in record.json. A function of scores with a parameter `labels` receives its classes.

    Raises:
        UserError: The function cannot be imported, or a value is invalid.
    """
    name, on = key.rpartition(".")[2], node.get("on") or "predictions"
    if name in BUILT_IN:
        raise UserError(f"{key}: {name} is the name of a built-in metric; choose another name")
    if on not in ("predictions", "scores") or (on == "scores" and target["kind"] != "label"):
        raise UserError(f"{key}.on: must be predictions, or scores for the probabilities of a label, got {on!r}")
    function = load_function(key, node, METRIC_KEYS)
    if on == "scores" and "labels" not in node and has_parameter(function, "labels"):
        function = partial(function, labels=list(target["classes"]))
    RANGES.pop(name, None)
    if limits := node.get("range"):
        RANGES[name] = check_range(key, limits)
    return FunctionMetric(key, name, str(node["_target_"]), function, on)


def usable_functions(
    name: str, target: Mapping[str, Any], table: DataFrame
) -> tuple[list[FunctionMetric], dict[str, str]]:
    """Return the metrics of functions that can be computed, and the reason for each other one by name.

    Args:
        name: Name of the target.
        target: The target in record.json or metrics.json, with `metrics`.
        table: Predictions of some clips.
    """
    functions, left_out = [], {}
    for metric, node in (target.get("metrics") or {}).items():
        try:
            check_trusted(node)
            function = function_metric(f"{name}.metrics.{metric}", node, target)
            for _, split in table[table[f"{name}.true"].notna()].groupby("split"):
                if len(split) > 1:
                    true, pred = (encode_column(split, f"{name}.{column}", target) for column in ("true", "pred"))
                    probability = class_probabilities(split, name, target)
                    function.compute(*function_arguments(function, true, pred, target.get("classes", ()), probability))
            functions.append(function)
        except UserError as error:
            left_out[metric] = str(error)
    return functions, left_out


def check_functions(nodes: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the functions of all metrics on simulated predictions, before the training.

    Args:
        nodes: Nodes of the targets in the config.
        targets: Kind and classes or range of each target.

    Raises:
        UserError: A function cannot be imported, fails, or does not return a number.
    """
    for name, node in nodes.items():
        target, rng = targets[name], np.random.default_rng(0)
        classes = target.get("classes", ())
        size = max(20, 4 * len(classes))
        for metric, function_node in (node.get("metrics") or {}).items():
            function = function_metric(f"task.targets.{name}.metrics.{metric}", function_node, target)
            true = np.arange(size) % len(classes) if classes else np.linspace(target["low"], target["high"], size)
            probability = rng.dirichlet(np.ones(len(classes)), size) if classes else None
            pred = rng.permutation(true) if probability is None else probability.argmax(1)
            value = function.compute(*function_arguments(function, true, pred, classes, probability))
            if np.isnan(value):
                raise UserError(f"{function.key}: {function.target} returned nan for simulated predictions")


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
