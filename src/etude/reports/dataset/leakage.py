"""Leakage between splits, and the findings of the dataset page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.splits import PARTS, group_codes
from etude.evaluation.formatting import capital, number, plural

if TYPE_CHECKING:
    import pandas as pd

    from etude.reports.clip_frames import File


def sides(index: pd.DataFrame, assigned: np.ndarray | None) -> list[dict[str, Any]]:
    """Groups with clips in more than one part: `group` and its clips by part."""
    if assigned is None:
        return []
    known = index["group"].notna().to_numpy() & np.isin(assigned, PARTS)
    found = []
    for name, rows in index[known].groupby("group", sort=True).indices.items():
        counts = {part: int((assigned[known][rows] == part).sum()) for part in PARTS}
        if sum(count > 0 for count in counts.values()) > 1:
            found.append({"group": str(name), "parts": counts})
    return found


def lonely(index: pd.DataFrame, name: str, classes: list[str]) -> list[dict[str, str]]:
    """Classes all of whose clips are one group's: `class` and `group`."""
    groups, column = group_codes(index), index[name].to_numpy()
    found = []
    for kind in classes:
        here = column == kind
        if here.sum() > 1 and len(set(groups[here])) == 1:
            found.append({"class": kind, "group": str(index["group"].to_numpy()[here][0])})
    return found


def absent(label: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of a class and a part that has no clip of it, of a label as `counts.label` gives it."""
    return [(row["class"], part) for row in label["classes"] for part in PARTS if row["parts"].get(part) == 0]


def repeated(known: dict[str, File], ids: list[str]) -> list[dict[str, Any]] | None:
    """File names that stand in several folders: `name` and `ids`, the most frequent first; None without files."""
    if not known:
        return None
    names: dict[str, list[str]] = {}
    for clip in ids:
        if clip in known:
            names.setdefault(PurePath(known[clip].path).name, []).append(clip)
    twice = [{"name": name, "ids": found} for name, found in names.items() if len(found) > 1]
    return sorted(twice, key=lambda row: -len(row["ids"]))


FEW = 3  # examples in a sentence; the tables have them all
GOOD, BAD, OPEN = "good", "bad", "open"
ALONE = "so that to know the group is to know the class"
Sentences = Iterator[tuple[str, str]]


def findings(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Sentences with what they are, `good`, `bad` or `open` (to check, or not known), the bad ones first.

    Args:
        facts: As `facts.gather` returns them.
    """
    found = [*_copies(facts), *_alike(facts), *_groups(facts), *_classes(facts), *_missing(facts), *_names(facts)]
    return sorted(found, key=lambda one: (BAD, OPEN, GOOD).index(one[0]))


def _copies(facts: dict[str, Any]) -> Sentences:
    rows = facts["copies"]
    if not rows:
        yield GOOD, "No audio occurs twice."
        return
    few = _some(" = ".join(row["ids"]) for row in rows)
    words = f"{_count(rows, 'sound stands', 'sounds stand')} under several ids: {few}."
    if crossing := sum(row["crosses"] for row in rows):
        words += f" {_of(crossing, len(rows))} on two sides of the split."
    if differing := sum(bool(row["differ"]) for row in rows):
        words += f" {_of(differing, len(rows))} under different labels."
    yield BAD, words


def _alike(facts: dict[str, Any]) -> Sentences:
    pairs, closest = facts["alike"]["pairs"], facts["alike"]["closest"]
    inside = " within one part" if facts["parts"] else ""
    for crosses, where in ((True, " across the split"), (False, inside)):
        rows = [pair for pair in pairs if pair["crosses"] == crosses]
        if rows:
            few = _some(" – ".join(pair["ids"]) for pair in rows)
            yield BAD, f"{_count(rows, 'pair sounds', 'pairs sound')} almost alike{where}: {few}."
    if not pairs and facts["data"]["sound"]:
        words = "No two clips sound like one recording"
        if closest and closest["correlation"] > 0:
            ids, value = " – ".join(closest["ids"]), number(closest["correlation"])
            words += f"; the two that come nearest, {ids}, correlate at {value}"
        yield GOOD, words + "."


def _groups(facts: dict[str, Any]) -> Sentences:
    data, sides = facts["data"], facts["sides"]
    if not data["groups"]:
        yield OPEN, "No groups are known, so nothing tells whether one artist is in both training and test."
        return
    if sides:
        few = _some(row["group"] for row in sides)
        yield BAD, f"{_count(sides, 'group stands', 'groups stand')} on two sides of the split: {few}."
    elif facts["parts"]:
        yield GOOD, "No group stands on two sides of the split."
    if alone := data["without_group"]:
        said = "has no group and counts" if alone == 1 else "have no group; each counts"
        yield OPEN, f"{plural(alone, 'clip')} {said} as a group of its own."


def _classes(facts: dict[str, Any]) -> Sentences:
    for name, label in facts["labels"].items():
        if lonely := label["lonely"]:
            few = _some(f"{row['class']} from {row['group']}" for row in lonely)
            yield BAD, f"{capital(name)}: {_count(lonely, 'class is', 'classes are')} one group’s ({few}), {ALONE}."
        elif facts["data"]["groups"]:
            yield GOOD, f"{capital(name)}: every class comes from two groups or more."
        if lacking := absent(label):
            few = _some(f"{part} has no {kind}" for kind, part in lacking)
            yield BAD, f"{capital(name)}: not every part of the split has every class ({few})."


def _missing(facts: dict[str, Any]) -> Sentences:
    for name, target in (facts["labels"] | facts["scalars"]).items():
        if missing := target["missing"]:
            yield OPEN, f"{capital(name)} is not known of {plural(missing, 'clip')}."


def _names(facts: dict[str, Any]) -> Sentences:
    rows = facts["names"]
    if rows is None:
        yield OPEN, "The pack does not say from which files it was made, so file names are not compared."
    elif rows:
        few = _some(f"{row['name']} ({plural(len(row['ids']), 'time')})" for row in rows)
        yield OPEN, f"{_count(rows, 'file name occurs', 'file names occur')} more than once: {few}."
    else:
        yield GOOD, "No file name occurs twice."


def _some(names: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    every = list(names)
    rest = len(every) - FEW
    return "; ".join(every[:FEW]) + (f"; and {rest} more" if rest > 0 else "")


def _count(rows: list[Any], one: str, more: str) -> str:
    return f"{len(rows):,} {one if len(rows) == 1 else more}"


def _of(count: int, every: int) -> str:
    """How many of several stand somewhere."""
    if every == 1:
        return "It stands"
    if count == every:
        return "All stand"
    return f"{count} of them {'stands' if count == 1 else 'stand'}"
