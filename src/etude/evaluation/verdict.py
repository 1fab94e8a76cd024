"""What the intervals allow one to say about a target, in plain words first and then in numbers.

A difference counts when its paired interval excludes zero. Where it does not, the words are that this data cannot show
a difference: never that there is none.
"""

from __future__ import annotations

from typing import Any

from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import NAMES, capital, ends, excludes_zero, number, plural, span

PARTS = {"test": "test", "val": "validation"}


def verdict(target: dict[str, Any], split: str = "test", disjoint: bool = False) -> tuple[str, str]:
    """A judgement on a target's leading score, and the numbers that it rests on.

    Args:
        target: An entry of metrics.json's targets.
        split: The part to speak of.
        disjoint: Whether it is known that no training clip is of the same groups.

    Returns:
        Words ("Better than the majority class; ...") and evidence ("Macro-F1 0.62 [0.48, 0.80] on 42 clips ...").
    """
    part = target["splits"][split]
    metric = target["primary"]
    if not part["scores"]:
        return (
            "Nothing can be said.",
            f"{plural(part['n'], PARTS[split] + ' clip')} with this label; a score needs two.",
        )
    score = part["scores"][metric]
    lead = capital(NAMES[metric])
    basis = population(part, disjoint)
    if score["value"] is None:
        return (
            "Nothing was told apart.",
            f"{lead} is undefined on {basis}: truth or prediction is one value throughout.",
        )
    words = [_order(score)] if metric == "spearman" else []
    unshown, evidence, errors = [], [f"{lead} {span(score)} on {basis}."], []
    for baseline in part["baselines"].values():
        # A constant orders nothing: where its leading score is undefined, the errors are compared instead.
        by_error = baseline["scores"][metric]["value"] is None
        name = f"the {baseline['name']}"
        sign = (
            -excludes_zero(baseline["difference"]["mse"]) if by_error else excludes_zero(baseline["difference"][metric])
        )
        if not sign:
            unshown.append(f"{name} in MSE" if by_error else name)
        elif by_error:
            words.append(f"{'smaller' if sign > 0 else 'larger'} error than {name}")
        else:
            words.append(f"{'better' if sign > 0 else 'worse'} than {name}")
        if by_error:
            errors.append(f"MSE {number(part['scores']['mse']['value'], 3)}. {_numbers(baseline, 'mse', 3)}")
        else:
            evidence.append(_numbers(baseline, metric))
    numbers = " ".join(evidence + errors)
    if score["low"] is None:
        return "No interval can be computed, so no difference can be judged.", numbers
    if unshown:
        words.append(f"no difference from {' or from '.join(unshown)} that this data can show")
    return capital("; ".join(words) or "there is no baseline to compare with") + ".", numbers


def population(part: dict[str, Any], disjoint: bool = False) -> str:
    """Who was scored: "42 clips in 5 groups that no training clip shares"."""
    clips = plural(part["n"], "clip")
    if part["groups"] == part["n"]:
        return clips
    return f"{clips} in {plural(part['groups'], 'group')}{' that no training clip shares' if disjoint else ''}"


def caution(part: dict[str, Any]) -> str:
    """What is wrong with the intervals of this part, or "" when nothing special is."""
    if not part["scores"]:
        return ""
    if part["groups"] < 2:
        return "All clips are of one group: there is nothing to resample, so no score has an interval."
    words = []
    if part["groups"] < FEW_GROUPS:
        words.append(
            f"The intervals come from only {part['groups']} groups: they are rough, and as a rule too narrow "
            "(Cameron, Gelbach & Miller 2008)."
        )
    lone = [row["class"] for row in part.get("per_class", []) if row["groups"] == 1 and row["support"] > 1]
    if lone:
        words.append(
            f"The clips of {', and those of '.join(lone)}, come from a single group each: whether class or group was "
            "recognised cannot be told, and how another group of that class would fare is in no interval."
        )
    return " ".join(words)


def _order(score: dict[str, Any]) -> str:
    sign = excludes_zero(score)
    if sign > 0:
        return "orders clips better than chance"
    return (
        "orders clips the wrong way round" if sign else "orders clips no better than chance, as far as this data shows"
    )


def _numbers(baseline: dict[str, Any], metric: str, digits: int = 2) -> str:
    """The same in numbers; what the words call a difference is said to exclude zero."""
    difference = baseline["difference"][metric]
    tail = " excludes zero" if excludes_zero(difference) else ""
    brackets = f" {ends(difference, digits)}" if ends(difference, digits) else " without an interval"
    other = number(baseline["scores"][metric]["value"], digits)
    return f"{capital(baseline['name'])} {other}: the difference {number(difference['value'], digits)}{brackets}{tail}."
