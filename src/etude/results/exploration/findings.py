"""What was found, in sentences: each says what is there, and what is wrong with it when something is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from etude.results.exploration.leaks import absent
from etude.results.text import capital, number, plural

FEW = 3  # examples in a sentence; the tables have them all
GOOD, BAD, OPEN = "good", "bad", "open"


def findings(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Sentences with what they are, `good`, `bad` or `open` (cannot be told), the bad ones first.

    Args:
        facts: As `facts.gather` returns them.
    """
    found = [*_copies(facts), *_alike(facts), *_groups(facts), *_classes(facts), *_values(facts), *_names(facts)]
    return sorted(found, key=lambda one: (BAD, OPEN, GOOD).index(one[0]))


def _copies(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    rows = facts["copies"]
    if not rows:
        yield GOOD, "No audio occurs twice."
        return
    words = f"The same audio stands under several ids {_times(len(rows))}: {_some(' = '.join(r['ids']) for r in rows)}."
    if crossing := sum(row["crosses"] for row in rows):
        words += f" {capital(_of(crossing, len(rows)))} on two sides of the split."
    if differing := sum(bool(row["differ"]) for row in rows):
        words += f" {capital(_of(differing, len(rows)))} under different labels."
    yield BAD, words


def _alike(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    pairs, closest = facts["alike"]["pairs"], facts["alike"]["closest"]
    crossing = [pair for pair in pairs if pair["crosses"]]
    if crossing:
        said = "sounds" if len(crossing) == 1 else "sound"
        yield BAD, f"{plural(len(crossing), 'pair')} {said} almost alike across the split: {_pairs(crossing)}."
    if inner := [pair for pair in pairs if not pair["crosses"]]:
        where = " within one part" if facts["parts"] else ""
        said = "sounds" if len(inner) == 1 else "sound"
        yield BAD, f"{plural(len(inner), 'pair')} {said} almost alike{where}: {_pairs(inner)}."
    if not pairs:
        words = "No two clips sound like one recording"
        if closest and closest["correlation"] > 0:
            words += f"; the two that are nearest to it, {' – '.join(closest['ids'])}, correlate at {number(closest['correlation'])}"
        yield GOOD, words + "."


def _groups(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    data, sides = facts["data"], facts["sides"]
    if not data["groups"]:
        yield OPEN, "No groups are known, so nothing tells whether one artist is in both training and test."
        return
    if sides:
        said = "group stands" if len(sides) == 1 else "groups stand"
        yield BAD, f"{len(sides)} {said} on two sides of the split: {_some(row['group'] for row in sides)}."
    elif facts["parts"]:
        yield GOOD, "No group stands on two sides of the split."
    if data["without_group"]:
        said = "clip has" if data["without_group"] == 1 else "clips have"
        yield OPEN, f"{data['without_group']:,} {said} no group; each counts as a group of its own."


def _classes(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name, label in facts["labels"].items():
        lonely = label["lonely"]
        if lonely:
            few = _some(f"{row['class']} from {row['group']}" for row in lonely)
            yield BAD, f"{capital(name)}: {_count(lonely, 'class is', 'classes are')} one group’s alone ({few}), so that to know the group is to know the class."
        elif facts["data"]["groups"]:
            yield GOOD, f"{capital(name)}: every class comes from two groups or more."
        if lacking := absent(label):
            few = _some(f"{kind} in {part}" for kind, part in lacking)
            yield BAD, f"{capital(name)}: {_count(lacking, 'class is', 'classes are')} missing from a part of the split ({few})."
        if missing := label["missing"]:
            yield OPEN, f"{capital(name)} is not known of {plural(missing, 'clip')}."


def _values(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name, scalar in facts["scalars"].items():
        if scalar["missing"]:
            yield OPEN, f"{capital(name)} is not known of {plural(scalar['missing'], 'clip')}."


def _names(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    rows = facts["names"]
    if rows is None:
        yield OPEN, "The pack does not say from which files it was made, so file names are not compared."
    elif rows:
        few = _some(f"{row['name']} ({plural(len(row['ids']), 'time')})" for row in rows)
        yield BAD, f"{_count(rows, 'file name occurs', 'file names occur')} more than once: {few}."
    else:
        yield GOOD, "No file name occurs twice."


def _some(names: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    every = list(names)
    rest = len(every) - FEW
    return "; ".join(every[:FEW]) + (f"; and {rest} more" if rest > 0 else "")


def _pairs(pairs: list[dict[str, Any]]) -> str:
    return _some(" – ".join(pair["ids"]) for pair in pairs)


def _count(rows: list[Any], one: str, more: str) -> str:
    return f"{len(rows)} {one if len(rows) == 1 else more}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _of(count: int, every: int) -> str:
    """How many of several stand somewhere: "it stands", "all stand", "2 of them stand"."""
    if every == 1:
        return "it stands"
    if count == every:
        return "all stand"
    return f"{count} of them {'stands' if count == 1 else 'stand'}"
