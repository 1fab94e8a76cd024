"""The baselines as rows (or columns) of their own, beside the networks that they were scored with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from etude.results.comparison.axes import OF_SCORES
from etude.results.comparison.cell import Cell, Labels
from etude.results.comparison.scores import number

BASELINES = {"linear": "linear model", "constant": "majority class / training mean"}
Place = tuple[Labels, Labels]


def references(places: Mapping[Place, list[dict[Any, Any]]], rows: Labels, cols: Labels) -> dict[Place, Cell]:
    """Cells of the baselines.

    A baseline takes the place of a run: its name stands on the first axis of runs in rows, else in columns.

    Args:
        places: Scores (rows of the tidy frame) by row and column.
        rows: Axes in rows.
        cols: Axes in columns.
    """
    side = next((side for side, axes in enumerate((rows, cols)) if set(axes) - set(OF_SCORES)), None)
    if side is None or "class" in (*rows, *cols):
        return {}
    axes = (rows, cols)[side]
    first = next(i for i, axis in enumerate(axes) if axis not in OF_SCORES)
    found: dict[Place, list[tuple[str, float | None]]] = defaultdict(list)
    measured: dict[Place, Labels] = {}
    for role, name in BASELINES.items():
        if not any(number(score[role]) is not None for scores in places.values() for score in scores):
            continue
        for place, scores in places.items():
            label = tuple(
                part if axis in OF_SCORES else name if i == first else ""
                for i, (axis, part) in enumerate(zip(axes, place[side], strict=True))
            )
            new = (label, place[1]) if side == 0 else (place[0], label)
            measured[new] = tuple(str(scores[0][axis]) for axis in OF_SCORES)
            found[new] += [(score["scored_on"], number(score[role])) for score in scores]
    return {place: _cell(scores, measured[place]) for place, scores in found.items()}


def _cell(scores: list[tuple[str, float | None]], measured: Labels) -> Cell:
    """One score per split: runs on one split have the same baselines, unless their front ends differ."""
    by_split: dict[str, set[float | None]] = defaultdict(set)
    for split, score in scores:
        by_split[split].add(None if score is None else round(score, 6))
    values = [next(iter(known)) for known in by_split.values()]
    varies = any(len(known) > 1 for known in by_split.values())
    values = values if len(set(values)) > 1 else values[:1]
    return Cell(tuple(values), status="varies" if varies else "", measured=measured)
