"""Summary in words of the scores of a target and their intervals.

A difference is significant if its paired confidence interval does not include zero. Every other difference is called
not significant in the summary, although the models may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import (
    NAMES,
    capitalise_first,
    excludes_zero,
    format_count,
    format_interval,
    format_number,
    format_score,
)

SPLIT_NAMES = {"test": "test", "val": "validation"}


def summarise_scores(target: dict[str, Any], split: str = "test", disjoint: bool = False) -> tuple[str, str]:
    """Summarise the primary score of a target and its comparison with the baselines.

    Args:
        target: Entry of the targets in metrics.json.
        split: `test` or `val`.
        disjoint: True if the scored clips and the training clips have no group in common.

    Returns:
        Summary ("Better than the majority class; ...") and evidence ("Macro-F1 0.62 [0.48, 0.80] on 42 clips ...").
    """
    results = target["splits"][split]
    metric = target["primary"]
    if not results["scores"]:
        return (
            "No score can be computed.",
            f"{format_count(results['n'], SPLIT_NAMES[split] + ' clip')} with a true value; a score requires two.",
        )
    score = results["scores"][metric]
    metric_name = capitalise_first(NAMES[metric])
    clips = describe_clips(results, disjoint)
    if score["value"] is None:
        return (
            "The score is undefined.",
            f"{metric_name} is undefined on {clips}: all true values or all predictions are equal.",
        )
    claims = [_describe_correlation(score)] if metric == "spearman" else []
    inconclusive, evidence, errors = [], [f"{metric_name} {format_score(score)} on {clips}."], []
    for baseline in results["baselines"].values():
        # The primary score of a constant can be undefined. The errors are compared instead.
        by_error = baseline["scores"][metric]["value"] is None
        name = f"the {baseline['name']}"
        sign = (
            -excludes_zero(baseline["difference"]["mse"]) if by_error else excludes_zero(baseline["difference"][metric])
        )
        if not sign:
            inconclusive.append(f"{name} (MSE)" if by_error else name)
        elif by_error:
            claims.append(f"{'smaller' if sign > 0 else 'larger'} MSE than {name}")
        else:
            claims.append(f"{'better' if sign > 0 else 'worse'} than {name}")
        if by_error:
            mse = format_number(results["scores"]["mse"]["value"], 3)
            errors.append(f"MSE {mse}. {_describe_difference(baseline, 'mse', 3)}")
        else:
            evidence.append(_describe_difference(baseline, metric))
    numbers = " ".join(evidence + errors)
    if score["low"] is None:
        return "No confidence interval can be computed, so differences cannot be tested.", numbers
    if inconclusive:
        claims.append(f"no significant difference from {' or from '.join(inconclusive)}")
    return capitalise_first("; ".join(claims) or "no baseline for comparison") + ".", numbers


def describe_clips(results: dict[str, Any], disjoint: bool = False) -> str:
    """Describe the scored clips, such as "42 clips in 5 groups, none of them in training"."""
    clips = format_count(results["n"], "clip")
    if results["groups"] == results["n"]:
        return clips
    return f"{clips} in {format_count(results['groups'], 'group')}{', none of them in training' if disjoint else ''}"


def describe_limitations(results: dict[str, Any]) -> str:
    """Describe the limitations of the intervals of a split, or return "" if there are none."""
    if not results["scores"]:
        return ""
    if results["groups"] < 2:
        return "All clips belong to one group, which cannot be resampled, so scores have no confidence interval."
    notes = []
    if results["groups"] < FEW_GROUPS:
        notes.append(
            f"The intervals are based on only {results['groups']} groups, so they are rough and usually too narrow "
            "(Cameron, Gelbach & Miller 2008)."
        )
    single = [row["class"] for row in results.get("per_class", []) if row["groups"] == 1 and row["support"] > 1]
    if single:
        others = " and ".join(f"all {name} clips" for name in single[1:])
        addition = f" (and so do {others})" if others else ""
        notes.append(
            f"All {single[0]} clips come from one group{addition}, so recognising the class cannot be distinguished "
            "from recognising the group. The intervals do not include the variation between groups of "
            f"{'these classes' if others else 'this class'}."
        )
    return " ".join(notes)


def _describe_correlation(score: dict[str, Any]) -> str:
    """Describe a rank correlation in comparison with chance."""
    sign = excludes_zero(score)
    if sign > 0:
        return "rank correlation above chance"
    return "rank correlation below chance" if sign else "no significant rank correlation"


def _describe_difference(baseline: dict[str, Any], metric: str, digits: int = 2) -> str:
    """Format the score of a baseline and the difference from it, and state if the interval does not include zero."""
    difference = baseline["difference"][metric]
    suffix = " (the interval does not include zero)" if excludes_zero(difference) else ""
    interval = (
        f" {format_interval(difference, digits)}" if format_interval(difference, digits) else " without an interval"
    )
    other = format_number(baseline["scores"][metric]["value"], digits)
    value = format_number(difference["value"], digits)
    return f"{capitalise_first(baseline['name'])} {other}, difference {value}{interval}{suffix}."


def describe_earlier_training(record: Mapping[str, Any]) -> list[str]:
    """Describe the earlier training of the initial weights, and the scored clips that it used.

    Args:
        record: Content of record.json. Its `earlier_training` is empty for a run without earlier training.

    Returns:
        Sentences. The first is a warning if the weights were trained on scored clips.
    """
    earlier = record.get("earlier_training") or {}
    sentences = []
    runs = _join_runs(earlier.get("runs") or [])
    for split, numbers in (earlier.get("splits") or {}).items():
        name, left_out = SPLIT_NAMES[split], numbers["left_out"]
        total = record.get("data", {}).get("splits", {}).get(split, {}).get("clips", 0)
        trained, same_group = (numbers[key] for key in ("trained", "same_group"))
        if trained > left_out:
            sentences.append(
                f"The initial weights were trained on {trained} of the {format_count(total, name + ' clip')} ({runs}), "
                f"so the {name} scores are optimistic."
            )
        if trained <= left_out < trained + same_group:
            sentences.append(
                f"The initial weights were trained on other clips of the groups of {same_group} of the "
                f"{format_count(total, name + ' clip')} ({runs}), so the {name} scores can be optimistic."
            )
        if left_out:
            sources = runs or _join_runs(earlier.get("left_out_of") or [])
            sentences.append(
                f"{format_count(left_out, name + ' clip')} {'was' if left_out == 1 else 'were'} left out, because "
                f"{'it or its group' if left_out == 1 else 'they or their groups'} had been used to train {sources}."
            )
        if numbers["validated"]:
            sentences.append(
                f"{format_count(numbers['validated'], name + ' clip')} had been in the validation split of an earlier "
                f"run ({runs or _join_runs(earlier.get('left_out_of') or [])}), which may have selected its epoch."
            )
    if runs:
        found = any(row["trained"] + row["same_group"] for row in earlier["splits"].values())
        sentences.append(
            ("" if found else f"No scored clip was in the earlier training of the weights ({runs}). ")
            + "Clips are recognised by the hash of their sound and, in the same archive, by their id; copies with "
            "another encoding are not found."
        )
    if unknown := earlier.get("unknown"):
        sentences.append(
            f"The training clips of {', '.join(unknown)} are not recorded, so it cannot be checked whether the scored "
            "clips are among them."
        )
    return sentences


def _join_runs(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the names of runs with their data and numbers of training clips."""
    return "; ".join(f"{run['name']} on {format_count(run['clips'], 'clip')} of {run['data']}" for run in runs)
