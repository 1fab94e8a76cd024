"""What the intervals allow one to say about a target, in one plain sentence.

A difference counts when its paired interval excludes zero. Where it does not, the sentence says that this data cannot
show a difference: never that there is none.
"""

from __future__ import annotations

from typing import Any

from etude.results.bootstrap import FEW_GROUPS
from etude.results.text import NAMES, excludes_zero, number, plural, span


def verdict(target: dict[str, Any], split: str = "test", disjoint: bool = False) -> str:
    """One sentence about a target's leading score beside both baselines.

    Args:
        target: An entry of metrics.json's targets.
        split: The part to speak of.
        disjoint: Whether it is known that no training clip is of the same groups.
    """
    part = target["splits"][split]
    where = {"test": "test", "val": "validation"}[split]
    if not part["scores"]:
        return f"Nothing can be said: {plural(part['n'], f'{where} clip')} with this label, and a score needs two."
    lead = NAMES[target["primary"]]
    score = part["scores"][target["primary"]]
    basis = population(part, disjoint)
    if score["value"] is None:
        return f"{_capital(lead)} is undefined on {basis}: truth or prediction is one value throughout."
    clauses = [f"{_capital(lead)} {span(score)} on {basis}"]
    baselines = part["baselines"]
    if "constant" in baselines:
        clauses.append(_against_constant(target, part))
    if "linear" in baselines:
        clauses.append(_against(baselines["linear"], target["primary"], "the"))
    return "; ".join(clauses) + "."


def population(part: dict[str, Any], disjoint: bool = False) -> str:
    """Who was scored: "42 clips by 5 groups that no training clip shares"."""
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
    if part["groups"] < FEW_GROUPS:
        return (
            f"The intervals come from only {part['groups']} groups: they are rough, and as a rule too narrow "
            "(Cameron, Gelbach & Miller 2008)."
        )
    return ""


def _against_constant(target: dict[str, Any], part: dict[str, Any]) -> str:
    """A constant orders nothing: where its leading score is undefined, the errors are compared instead."""
    constant = part["baselines"]["constant"]
    if constant["scores"][target["primary"]]["value"] is not None:
        return _against(constant, target["primary"], "the")
    above = excludes_zero(part["scores"][target["primary"]])
    relation = {1: "lies above zero", -1: "lies below zero", 0: "does not exclude zero"}[above]
    own_mse, its_mse = (number(scores["mse"]["value"], 3) for scores in (part["scores"], constant["scores"]))
    return (
        f"this {relation}, where the {constant['name']} orders nothing; "
        f"MSE {own_mse} against its {its_mse}, {_difference(constant, 'mse', 3)}"
    )


def _against(baseline: dict[str, Any], metric: str, article: str) -> str:
    other = baseline["scores"][metric]["value"]
    if other is None:
        return f"{article} {baseline['name']} has no defined score"
    return f"{article} {baseline['name']} scores {number(other)}, {_difference(baseline, metric)}"


def _difference(baseline: dict[str, Any], metric: str, digits: int = 2) -> str:
    difference = baseline["difference"][metric]
    if difference["low"] is None:
        return f"a difference of {number(difference['value'], digits)} without an interval"
    if excludes_zero(difference):
        return f"and the difference {span(difference, digits)} excludes zero"
    return f"and the difference {span(difference, digits)} is none that this data can show"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
