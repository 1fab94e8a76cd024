"""Which axes stand in rows and which in columns, and which runs are in the table at all."""

from __future__ import annotations

from collections.abc import Sequence

from etude.errors import UserError
from etude.results.comparison import axes
from etude.results.comparison.cell import Labels
from etude.results.comparison.run import Run
from etude.results.comparison.wish import VIEWS, Wish
from etude.results.sections import ROWS

OF_CLASSES = ("precision", "recall", "f1")
USUAL = ("backbone", "feature", "task")
"""What a table of runs says of each, whether it differs or not."""


def layout(runs: Sequence[Run], wish: Wish) -> tuple[Labels, Labels, Labels]:
    """Axes in rows, axes in columns, and metrics.

    A view that has a name takes in all axes on which the runs differ, so that it averages over nothing but chance. What
    was asked for in words is taken as it stands.

    Raises:
        UserError: A metric that does not go with the axes.
    """
    if wish.rows or wish.cols:
        rows, cols, metrics = *_given(wish), wish.metrics
    else:
        rows, cols, metrics = _view(runs, wish)
    asked = (*rows, *cols)
    if "class" in asked:
        if wrong := [metric for metric in metrics if metric not in OF_CLASSES]:
            raise UserError(f"metric={','.join(wrong)}: of a class there are {', '.join(OF_CLASSES)}")
        metrics = metrics or (OF_CLASSES if "metric" in asked else ("f1",))
    elif wrong := [metric for metric in metrics if metric in OF_CLASSES]:
        raise UserError(f"metric={','.join(wrong)}: is of a class; add rows=class, or take macro_{wrong[0]}")
    elif "metric" in asked and not metrics:
        metrics = (*ROWS["label"], *ROWS["scalar"])
    if len(metrics) > 1 and "metric" not in asked:
        cols = (*cols, "metric")
    return rows, cols, metrics


def _given(wish: Wish) -> tuple[Labels, Labels]:
    """What was asked for; a side that was left open is filled with targets, or else with metrics."""
    given = wish.rows or wish.cols
    other = ("target",) if "target" not in given else ("metric",) if wish.rows else ("run",)
    return wish.rows or other, wish.cols or other


def _view(runs: Sequence[Run], wish: Wish) -> tuple[Labels, Labels, Labels]:
    view = VIEWS[wish.view]
    rows, cols, metrics = view.rows, view.cols, wish.metrics or view.metrics
    more = [axis for axis in axes.differing(runs) if axis not in (*rows, *cols)]
    if wish.view == "runs":
        chance = [axis for axis in axes.REPEATS if axis != "fold" and len({axes.value(run, axis) for run in runs}) > 1]
        rows = (*rows, *USUAL, *[axis for axis in more if axis not in (*USUAL, "setting")], *chance)
    elif "target" not in (*rows, *cols):
        cols = (*[axis for axis in more if axis != "setting"], *cols)
    else:  # the targets of a task are there, so that its name says nothing more
        place = next(i for i, axis in enumerate(rows) if axis != "target") + 1
        rows = (*rows[:place], *[axis for axis in more if axis != "task"], *rows[place:])
    return rows, cols, metrics


def chosen(runs: Sequence[Run], wish: Wish) -> list[Run]:
    """The runs that the wish does not leave out, in the order in which it asks for values.

    Raises:
        UserError: The wish names an axis that no run has, or asks for values that none has.
    """
    for key, names in (("rows", wish.rows), ("cols", wish.cols), ("", tuple(wish.only))):
        for axis in names:
            axes.check(axis, runs, f"{key}={axis}" if key else f"{axis}={','.join(wish.only[axis])}")
    kept = list(runs)
    for axis, values in wish.only.items():
        if axis in ("metric", "class", "run"):
            raise UserError(f"{axis}={','.join(values)}: cannot be chosen; put it into rows or cols")
        there = {run.folder: _values(run, axis) for run in kept}
        place = {folder: _place(found, values) for folder, found in there.items()}
        kept = sorted((run for run in kept if place[run.folder] < len(values)), key=lambda run: place[run.folder])
        if not kept:
            known = dict.fromkeys(one for found in there.values() for one in found)
            raise UserError(f"{axis}={','.join(values)}: no run has it; there are {', '.join(known) or 'none'}")
    return kept


def _place(found: Sequence[str], wanted: Sequence[str]) -> int:
    """The place of the first wanted value that a run has; behind all of them where it has none."""
    return next((i for i, value in enumerate(wanted) if any(axes.same(one, value) for one in found)), len(wanted))


def _values(run: Run, axis: str) -> list[str]:
    return list(run.metrics) if axis == "target" else [axes.value(run, axis)]


def folded(runs: Sequence[Run], wish: Wish) -> list[Run]:
    """Folds as one where they were pooled; by themselves where fold is an axis."""
    if "fold" in (*wish.rows, *wish.cols, *wish.only):
        return [run for run in runs if not run.pooled]
    wholes = [run for run in runs if run.pooled]
    return [run for run in runs if run.pooled or not any(_part_of(run, whole) for whole in wholes)]


def _part_of(fold: Run, whole: Run) -> bool:
    if fold.data.get("fold") is None or whole.folder.parent.parent != fold.folder.parent:
        return False
    made_of = whole.data.get("pooled_from")  # what an older version pooled does not say it
    return fold.folder.name in made_of if made_of else fold.name == whole.name
