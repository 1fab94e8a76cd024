"""Pivoting of scores into tables, with baselines and notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import NAMES, format_count
from etude.evaluation.metrics import LOWER_IS_BETTER
from etude.evaluation.score_summary import describe_limitations
from etude.reports.comparison.axes import OF_SCORES, REPEATS, differing, value
from etude.reports.comparison.runs import ComparedRun
from etude.reports.comparison.scores import number
from etude.reports.comparison.table import Cell, Labels, Table

if TYPE_CHECKING:
    from pandas import DataFrame


BASELINES = {"linear": "linear model", "constant": "majority class / training mean"}
Place = tuple[Labels, Labels]


def pivot(
    frame: DataFrame, runs: Sequence[ComparedRun], names: Mapping[Path, str], rows: Labels, cols: Labels
) -> Table:
    """Return a table of scores.

    Args:
        frame: Scores as `scores.tidy` returns them. Runs without scores have a row where `run` is among the rows.
        runs: Their runs.
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


def baseline_cells(places: Mapping[Place, list[dict[Any, Any]]], rows: Labels, cols: Labels) -> dict[Place, Cell]:
    """Return the cells of the baselines.

    A baseline takes the position of a run: its name stands on the first axis of runs in rows, else in columns.

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


def notes(table: Table, runs: Sequence[ComparedRun], tests: bool = True) -> list[str]:
    """Return the sentences that belong to a table.

    Args:
        table: A table.
        runs: The runs that it may hold.
        tests: Whether pairs of them are tested beside it.
    """
    by_folder = {str(run.folder): run for run in runs}
    cells = [cell for cell in table.cells.values() if cell.folders]
    means = [[by_folder[folder] for folder in dict.fromkeys(cell.folders)] for cell in cells if len(cell.values) > 1]
    found = []
    if any(cell.low is not None for cell in cells):
        found.append("In brackets: 95 % intervals, from resamples of whole groups.")
    if means:
        found += _notes_on_means(means)
    found += _grounds(cells, [by_folder[folder] for folder in dict.fromkeys(f for cell in cells for f in cell.folders)])
    if table.best_mark():
        lowest = {cell.measured[1] for cell in cells if cell.best} & LOWER_IS_BETTER
        best = "The best value, the lowest of an error," if lowest else "The highest value"
        luck = (
            "whether it is more than luck, the tests of pairs say"
            if tests
            else "that may be luck: nothing is tested here"
        )
        found.append(f"{best} is marked; {luck}.")
    groups = [size for cell in cells if cell.low is not None for size in cell.groups]
    if groups and 1 < min(groups) < FEW_GROUPS and "class" not in table.heads:
        found.append(describe_limitations({"scores": True, "groups": min(groups)}))
    return found


def alike(cells: Sequence[Cell]) -> bool:
    """Return whether cells were scored on the same clips, as far as is known: on one split, or each on the same."""
    grounds = {(cell.scored_on, cell.n) for cell in cells}
    return len(grounds) < 2 and not any("?" in ground for cell in cells for ground in cell.scored_on)


def _baseline_cell(scores: list[tuple[str, float | None]], measured: Labels) -> Cell:
    """Return a cell with one score per split: runs on a split have the same baselines, unless front ends differ."""
    by_split: dict[str, set[float | None]] = defaultdict(set)
    for split, score in scores:
        by_split[split].add(None if score is None else round(score, 6))
    values = [next(iter(known)) for known in by_split.values()]
    varies = any(len(known) > 1 for known in by_split.values())
    values = values if len(set(values)) > 1 else values[:1]
    return Cell(tuple(values), status="varies" if varies else "", measured=measured)


def _at(score: dict[Any, Any], axis: str, run: ComparedRun, names: Mapping[Path, str], measured: bool) -> str:
    """Return the value of a score on an axis; a target names its metric unless another axis does."""
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


def _sorted(found: Mapping[Labels, None], axes: Labels) -> list[Labels]:
    """Sort labels by number along axes that hold only numbers, such as a learning rate; otherwise by first run."""
    labels = list(found)

    def order(side: int) -> dict[str, float]:
        parts = list(dict.fromkeys(label[side] for label in labels))
        try:
            return {part: float(part) for part in parts}
        except ValueError:
            return {part: i for i, part in enumerate(parts)}

    orders = [order(side) for side in range(len(axes))]
    return sorted(labels, key=lambda label: [by[part] for by, part in zip(orders, label, strict=True)])


def _notes_on_means(means: list[list[ComparedRun]]) -> list[str]:
    """Return what the cells are means over, and a warning where that is more than chance."""
    over = [axis for axis in REPEATS if any(len({value(run, axis) for run in runs}) > 1 for runs in means)]
    mixed = list(dict.fromkeys(axis for runs in means for axis in differing(runs)))
    mixed = [axis for axis in mixed if axis != "setting" or "task" not in mixed]
    counts = sorted({len(runs) for runs in means})
    size = format_count(counts[0], "run") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    kinds = " and ".join([*over, *mixed]) or "runs with one config"
    found = [f"A cell with ± is the mean of {size} and the standard deviation between them, over {kinds}."]
    if mixed:
        found.append(f"Different settings are averaged: {', '.join(mixed)}; in rows or cols they stand apart.")
    if "fold" in over:
        found.append("Folds by themselves are averaged here; the pooled result is another number.")
    return found


def _grounds(cells: Sequence[Cell], runs: Sequence[ComparedRun]) -> list[str]:
    """Return a note on the data sets and splits of the scores, when there are several or they are not known."""
    data = list(dict.fromkeys(value(run, "data") for run in runs))
    splits = {run.scored_on for run in runs}
    of = f" The table holds different data: {', '.join(data)}." if len(data) > 1 else ""
    if len(splits) < 2 and not any("?" in split for split in splits):
        return []
    by_measure: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        by_measure.setdefault(cell.measured, []).append(cell)
    apart = dict.fromkeys(measured[0] for measured, rivals in by_measure.items() if not alike(rivals))
    if apart:
        return [f"{', '.join(apart)}: not all were scored on the same clips; their numbers do not compare.{of}"]
    if any(len(cell.scored_on) > 1 for cell in cells):
        return [f"Scored on {len(splits)} splits, the same ones in each cell of a target.{of}"]
    return [f"The targets were scored on {len(splits)} data sets or splits; those of one target on the same.{of}"]
