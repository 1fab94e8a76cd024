"""Pivoting of scores into tables, with baselines beside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import NAMES
from etude.evaluation.metrics import LOWER_IS_BETTER
from etude.reports.comparison.axes import OF_SCORES, value
from etude.reports.comparison.runs import ComparedRun
from etude.reports.comparison.scores import number
from etude.reports.comparison.table import Cell, Labels, Table

if TYPE_CHECKING:
    from pandas import DataFrame


BASELINES = {"linear": "linear model", "constant": "majority class / training mean"}
Place = tuple[Labels, Labels]


def baseline_cells(places: Mapping[Place, list[dict[Any, Any]]], rows: Labels, cols: Labels) -> dict[Place, Cell]:
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
    return {place: _baseline_cell(scores, measured[place]) for place, scores in found.items()}


def _baseline_cell(scores: list[tuple[str, float | None]], measured: Labels) -> Cell:
    """One score per split: runs on one split have the same baselines, unless their front ends differ."""
    by_split: dict[str, set[float | None]] = defaultdict(set)
    for split, score in scores:
        by_split[split].add(None if score is None else round(score, 6))
    values = [next(iter(known)) for known in by_split.values()]
    varies = any(len(known) > 1 for known in by_split.values())
    values = values if len(set(values)) > 1 else values[:1]
    return Cell(tuple(values), status="varies" if varies else "", measured=measured)


def pivot(
    frame: DataFrame, runs: Sequence[ComparedRun], names: Mapping[Path, str], rows: Labels, cols: Labels
) -> Table:
    """One table.

    Args:
        frame: Scores as `scores.tidy` returns them. Runs without scores have a row where `run` is among the rows.
        runs: The runs that they are of.
        names: A title for each run's folder.
        rows: Axes in rows.
        cols: Axes in columns.
    """
    by_folder = {str(run.folder): run for run in runs}
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")

    def label(score: dict[Any, Any], axes: Labels) -> Labels:
        return tuple(_at(score, axis, by_folder[score["folder"]], names, "metric" in (*rows, *cols)) for axis in axes)

    places: dict[Place, list[dict[Any, Any]]] = defaultdict(list)
    for score in records:
        if score["metric"]:
            places[label(score, rows), label(score, cols)].append(score)
    cells = _ranked({place: _cell(found) for place, found in places.items()})
    sides = [_sorted(dict.fromkeys(place[side] for place in places), axes) for side, axes in enumerate((rows, cols))]
    if "run" in rows:
        sides = [list(dict.fromkeys(label(score, rows) for score in records)), sides[1] or [("",) * len(cols)]]
        for score in records:
            if score["status"] != "finished":
                cells |= {(label(score, rows), col): Cell((), status=score["status"]) for col in sides[1]}
    baselines = baseline_cells(places, rows, cols)
    added = [[x for x in dict.fromkeys(place[side] for place in baselines) if x not in sides[side]] for side in (0, 1)]
    return Table(
        "", rows, sides[0] + added[0], sides[1] + added[1], cells | baselines, references={*added[0], *added[1]}
    )


def _at(score: dict[Any, Any], axis: str, run: ComparedRun, names: Mapping[Path, str], measured: bool) -> str:
    """Where a score is on an axis; a target says by which metric it is measured unless another axis does."""
    if axis == "run":
        return names[run.folder]
    if axis not in OF_SCORES:
        return value(run, axis)
    if axis == "metric":
        return NAMES[score["metric"]] if score["metric"] else "–"
    if axis == "target" and not measured and score["metric"]:
        return f"{score['target']}: {NAMES[score['metric']]}"
    return str(score[axis] or "–")


def _cell(found: list[dict[Any, Any]]) -> Cell:
    one = found[0] if len(found) == 1 else {}
    return Cell(
        tuple(number(score["value"]) for score in found),
        number(one.get("low")),
        number(one.get("high")),
        frozenset(int(score["n"]) for score in found if score["n"] is not None),
        frozenset(int(score["groups"]) for score in found if score["groups"] is not None),
        frozenset(score["scored_on"] for score in found),
        measured=tuple(str(found[0][axis]) for axis in OF_SCORES),
        folders=tuple(score["folder"] for score in found),
    )


def _ranked(cells: dict[Place, Cell]) -> dict[Place, Cell]:
    """Mark the best of those that measure the same on the same clips, where there are at least two."""
    rivals: dict[Labels, list[Place]] = defaultdict(list)
    for place, cell in cells.items():
        rivals[cell.measured].append(place)
    for measured, places in rivals.items():
        means = [mean for place in places if (mean := cells[place].mean) is not None]
        if len(places) > 1 and means and alike([cells[place] for place in places]):
            top = (min if measured[1] in LOWER_IS_BETTER else max)(means)
            cells |= {place: replace(cells[place], best=cells[place].mean == top) for place in places}
    return cells


def alike(cells: Sequence[Cell]) -> bool:
    """Whether cells were scored on the same clips, as far as is known: on one split, or each on the same splits."""
    grounds = {(cell.scored_on, cell.n) for cell in cells}
    return len(grounds) < 2 and not any("?" in ground for cell in cells for ground in cell.scored_on)


def _sorted(found: Mapping[Labels, None], axes: Labels) -> list[Labels]:
    """By number along axes that hold nothing else, such as a learning rate; otherwise as the runs came."""
    labels = list(found)

    def order(side: int) -> dict[str, float]:
        parts = list(dict.fromkeys(label[side] for label in labels))
        try:
            return {part: float(part) for part in parts}
        except ValueError:
            return {part: i for i, part in enumerate(parts)}

    orders = [order(side) for side in range(len(axes))]
    return sorted(labels, key=lambda label: [by[part] for by, part in zip(orders, label, strict=True)])
