"""What has to be said beside a table: what a cell is a mean of, what does not compare, how far an interval goes."""

from __future__ import annotations

from collections.abc import Sequence

from etude.results.bootstrap import FEW_GROUPS
from etude.results.comparison.axes import REPEATS, differing, value
from etude.results.comparison.cell import Cell
from etude.results.comparison.pivot import alike
from etude.results.comparison.run import Run
from etude.results.comparison.table import Table
from etude.results.metrics import LOWER_IS_BETTER
from etude.results.text import plural
from etude.results.verdict import caution


def notes(table: Table, runs: Sequence[Run], tests: bool = True) -> list[str]:
    """The sentences that belong to a table.

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
        found += _means(means)
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
        found.append(caution({"scores": True, "groups": min(groups)}))
    return found


def _means(means: list[list[Run]]) -> list[str]:
    """Over what the cells are means, and a warning where that is more than chance."""
    over = [axis for axis in REPEATS if any(len({value(run, axis) for run in runs}) > 1 for runs in means)]
    mixed = list(dict.fromkeys(axis for runs in means for axis in differing(runs)))
    mixed = [axis for axis in mixed if axis != "setting" or "task" not in mixed]
    counts = sorted({len(runs) for runs in means})
    size = plural(counts[0], "run") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    kinds = " and ".join([*over, *mixed]) or "runs with one config"
    found = [f"A cell with ± is the mean of {size} and the standard deviation between them, over {kinds}."]
    if mixed:
        found.append(f"Different settings are averaged: {', '.join(mixed)}; in rows or cols they stand apart.")
    if "fold" in over:
        found.append("Folds by themselves are averaged here; the pooled result is another number.")
    return found


def _grounds(cells: Sequence[Cell], runs: Sequence[Run]) -> list[str]:
    """On how many data sets and splits the scores were computed, when that is more than one or not known."""
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
