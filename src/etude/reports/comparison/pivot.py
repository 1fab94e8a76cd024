"""Pivot tables of scores with baselines and notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import LOWER_IS_BETTER, NAMES, format_count
from etude.evaluation.score_summary import describe_few_groups
from etude.reports.comparison.axes import axis_value, differing_axes
from etude.reports.comparison.runs import ComparedRun, training_settings
from etude.reports.comparison.scores import finite_or_none
from etude.reports.comparison.table import REPEAT_AXES, SCORE_AXES, Cell, Labels, Table, difference_notes

if TYPE_CHECKING:
    from pandas import DataFrame


BASELINES = {
    "statistics": "linear model or SVM",
    "linear": "linear model",
    "shortcuts": "shortcuts",
    "constant": "majority class / training mean",
}
"""Titles of the baselines. The family of `statistics` is chosen in each run. Earlier versions had `linear`."""
SHARED_GROUPS = "clip-wise, artists shared between training and test: optimistic"
Position = tuple[Labels, Labels]
"""Labels of row and column."""


def pivot(
    frame: DataFrame, runs: Sequence[ComparedRun], names: Mapping[Path, str], rows: Labels, cols: Labels
) -> Table:
    """Return a table of scores.

    Args:
        frame: Scores from `scores.score_frame`. Runs without scores have a row if `run` is among the rows.
        runs: Runs of the scores.
        names: Titles of the runs by folder.
        rows: Axes in rows.
        cols: Axes in columns.
    """
    by_folder = {str(run.folder): run for run in runs}
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    metric_is_axis = "metric" in (*rows, *cols)

    def label(score: dict[Any, Any], axes: Labels) -> Labels:
        return tuple(_score_label(score, axis, by_folder[score["folder"]], names, metric_is_axis) for axis in axes)

    scores: dict[Position, list[dict[Any, Any]]] = defaultdict(list)
    for score in records:
        if score["metric"]:
            scores[label(score, rows), label(score, cols)].append(score)
    cells = _mark_best({position: _make_cell(cell_scores, by_folder) for position, cell_scores in scores.items()})
    sides = [
        _sort_labels(dict.fromkeys(position[side] for position in scores), axes)
        for side, axes in enumerate((rows, cols))
    ]
    if "run" in rows:
        sides = [list(dict.fromkeys(label(score, rows) for score in records)), sides[1] or [("",) * len(cols)]]
        for score in records:
            if score["status"] != "finished":
                cells |= {(label(score, rows), col): Cell((), status=score["status"]) for col in sides[1]}
    splits = {folder: run.scored_on for folder, run in by_folder.items()}
    baselines = _baseline_cells(scores, rows, cols, splits)
    added = [
        [labels for labels in dict.fromkeys(position[side] for position in baselines) if labels not in sides[side]]
        for side in (0, 1)
    ]
    cells |= baselines
    return Table(
        "", rows, sides[0] + added[0], sides[1] + added[1], cells, baselines={*added[0], *added[1]}, col_axes=cols
    )


def _baseline_cells(
    scores: Mapping[Position, list[dict[Any, Any]]], rows: Labels, cols: Labels, splits: Mapping[str, str]
) -> dict[Position, Cell]:
    """Return the cells of the baselines.

    Each baseline has its own row or column. The label of this row or column is the name of the baseline. It is written
    on the first axis that describes runs: on an axis in rows if there is one, otherwise on an axis in columns.

    Args:
        scores: Rows of the frame of scores, by row and column of the table.
        rows: Axes in rows.
        cols: Axes in columns.
        splits: Data and split of the runs by folder. Repeats of a cross-validation score the same clips with different
            partitions, so their baselines differ.
    """
    side = next((side for side, axes in enumerate((rows, cols)) if set(axes) - set(SCORE_AXES)), None)
    if side is None or "class" in (*rows, *cols):
        return {}
    axes = (rows, cols)[side]
    first = next(i for i, axis in enumerate(axes) if axis not in SCORE_AXES)
    values: dict[Position, list[tuple[str, float | None]]] = defaultdict(list)
    measures: dict[Position, Labels] = {}
    for baseline, name in BASELINES.items():
        if all(finite_or_none(score[baseline]) is None for cell_scores in scores.values() for score in cell_scores):
            continue
        for position, cell_scores in scores.items():
            label = tuple(
                value if axis in SCORE_AXES else name if i == first else ""
                for i, (axis, value) in enumerate(zip(axes, position[side], strict=True))
            )
            new = (label, position[1]) if side == 0 else (position[0], label)
            measures[new] = tuple(str(cell_scores[0][axis]) for axis in SCORE_AXES)
            values[new] += [(splits[score["folder"]], finite_or_none(score[baseline])) for score in cell_scores]
    return {position: _baseline_cell(by_split, measures[position]) for position, by_split in values.items()}


def table_notes(table: Table, runs: Sequence[ComparedRun], tests: bool = True) -> list[str]:
    """Return the notes of a table.

    Args:
        table: A table.
        runs: Runs that may be in the table.
        tests: Whether the comparison contains paired tests.
    """
    by_folder = {str(run.folder): run for run in runs}
    cells = [cell for cell in table.cells.values() if cell.folders]
    means = [[by_folder[folder] for folder in dict.fromkeys(cell.folders)] for cell in cells if len(cell.values) > 1]
    notes = []
    intervals = [cell for cell in cells if cell.low is not None]
    if intervals:
        notes.append(f"In brackets: 95 % confidence intervals from a bootstrap over {_resampled_units(intervals)}.")
    singles = [cell for cell in cells if len(cell.values) == 1 and cell.measure[2] == str(None)]  # not of one class
    if any(cell.low is None and cell.mean is not None for cell in singles):
        notes.append(
            "A score without brackets has no interval: its clips cannot be resampled, or it is equal on all resamples."
        )
    if means:
        notes += _mean_notes(means)
    if any(len(cell.defined) < len(cell.values) for cell in cells if len(cell.values) > 1):
        notes.append("Runs with an undefined score, such as that of constant predictions, are left out of its mean.")
    notes += _split_notes(cells, [by_folder[f] for f in dict.fromkeys(f for cell in cells for f in cell.folders)])
    shown = [by_folder[folder] for cell in cells for folder in cell.folders]
    notes += difference_notes(table, {str(run.folder): training_settings(run) for run in shown})
    if any(run.shares_groups for run in shown) and not all(run.shares_groups for run in shown):
        notes.append(
            "Some runs have groups, such as artists, in both training and test. Their scores also measure memorised "
            "groups and are optimistic."
        )
    if table.has_best():
        lowest = {cell.measure[1] for cell in cells if cell.best} & LOWER_IS_BETTER
        best = (
            "The best value among the runs (the lowest, for an error)" if lowest else "The highest value among the runs"
        )
        significance = "the paired tests show which differences between runs are significant"
        notes.append(f"{best} is marked; {significance if tests else 'no difference is tested'}.")
    if intervals:
        fewest = min(intervals, key=lambda cell: min(cell.groups))
        notes += describe_few_groups(min(fewest.groups), "clip" if fewest.ungrouped == fewest.n else "group")
    return notes


def _resampled_units(cells: Sequence[Cell]) -> str:
    """Return what the bootstrap of some cells draws: groups, or clips if groups are unknown."""
    if all(cell.ungrouped == cell.n for cell in cells):
        return (
            "clips, because the groups of the clips, such as artists, are unknown; if clips share artists, the "
            "intervals are too narrow"
        )
    partly = any(any(cell.ungrouped) for cell in cells)
    return "groups" + ("; a clip with an unknown group is drawn as its own group" if partly else "")


def are_comparable(cells: Sequence[Cell]) -> bool:
    """Return whether all cells were scored on the same clips.

    A cell can have one split or several, and all cells must have the same. An unknown split is not comparable with any
    other split.
    """
    clips = {(cell.scored_on, cell.n) for cell in cells}
    return len(clips) < 2 and not any("?" in split for cell in cells for split in cell.scored_on)


def _baseline_cell(scores: list[tuple[str, float | None]], measure: Labels) -> Cell:
    """Return a cell with one score per split.

    Runs with the same split have the same baseline score, unless their front ends differ.
    """
    by_split: dict[str, set[float | None]] = defaultdict(set)
    for split, score in scores:
        by_split[split].add(None if score is None else round(score, 6))
    values = [next(iter(split_scores)) for split_scores in by_split.values()]
    varies = any(len(split_scores) > 1 for split_scores in by_split.values())
    values = values if len(set(values)) > 1 else values[:1]
    return Cell(tuple(values), status="varies" if varies else "", measure=measure)


def _score_label(
    score: dict[Any, Any], axis: str, run: ComparedRun, names: Mapping[Path, str], metric_is_axis: bool
) -> str:
    """Return the label of a score on an axis. A target's label includes the metric unless metrics are an axis."""
    if axis == "run":
        return names[run.folder]
    if axis not in SCORE_AXES:
        value = axis_value(run, axis)
        return f"{value} ({SHARED_GROUPS})" if axis == "data.split.kind" and run.shares_groups else value
    if axis == "metric":
        return NAMES[score["metric"]] if score["metric"] else "–"
    if axis == "target" and not metric_is_axis and score["metric"]:
        return f"{score['target']}: {NAMES[score['metric']]}"
    return str(score[axis] or "–")


def _make_cell(scores: list[dict[Any, Any]], runs: Mapping[str, ComparedRun]) -> Cell:
    """Return a cell with the scores of one or more runs. Only a single run has an interval."""
    single = scores[0] if len(scores) == 1 else {}
    return Cell(
        tuple(finite_or_none(score["value"]) for score in scores),
        finite_or_none(single.get("low")),
        finite_or_none(single.get("high")),
        frozenset(int(score["n"]) for score in scores if score["n"] is not None),
        frozenset(int(score["groups"] or 0) + int(score["ungrouped"] or 0) for score in scores),
        frozenset(int(score["ungrouped"] or 0) for score in scores),
        frozenset(score["scored_on"] for score in scores),
        measure=tuple(str(scores[0][axis]) for axis in SCORE_AXES),
        folders=tuple(score["folder"] for score in scores),
        repeats="" if single else describe_repeats([runs[score["folder"]] for score in scores]),
    )


def describe_repeats(runs: Sequence[ComparedRun]) -> str:
    """Return the number of runs of a mean and what varies between them, such as "3 seeds, same split"."""
    seeds, folds = ({axis_value(run, axis) for run in runs} for axis in ("seed", "fold"))
    splits, size = {run.scored_on for run in runs}, format_count(len(runs), "run")
    if differing_axes(runs):
        return size
    if len(folds) > 1:
        only_folds = len(seeds) == 1 and len(folds) == len(runs)
        detail = f"{format_count(len(folds), 'fold')}, {format_count(len(seeds), 'seed')}"
        return f"{len(runs)} folds" if only_folds else f"{size}: {detail}"
    if len(seeds) == 1:
        if len(splits) == 1:
            return f"{size}, same seed and split"
        return f"{len(runs)} splits, same seed" if len(splits) == len(runs) else f"{size}: {len(splits)} splits"
    counted = f"{len(seeds)} seeds" if len(seeds) == len(runs) else f"{size}: {len(seeds)} seeds"
    if any("?" in split for split in splits):
        return f"{counted}, split unknown"
    if len(splits) == 1:
        return f"{counted}, same split"
    return f"{counted} and splits" if len(splits) == len(seeds) == len(runs) else f"{counted}, {len(splits)} splits"


def _mark_best(cells: dict[Position, Cell]) -> dict[Position, Cell]:
    """Mark the best cell of each measure, if at least two cells were scored on the same clips."""
    by_measure: dict[Labels, list[Position]] = defaultdict(list)
    for position, cell in cells.items():
        by_measure[cell.measure].append(position)
    for measure, positions in by_measure.items():
        means = [mean for position in positions if (mean := cells[position].mean) is not None]
        if len(positions) > 1 and means and are_comparable([cells[position] for position in positions]):
            best = (min if measure[1] in LOWER_IS_BETTER else max)(means)
            cells |= {position: replace(cells[position], best=cells[position].mean == best) for position in positions}
    return cells


def _sort_labels(unique: Mapping[Labels, None], axes: Labels) -> list[Labels]:
    """Sort labels by value on axes with only numbers, such as a learning rate. Sort others by first occurrence."""
    labels = list(unique)

    def order(side: int) -> dict[str, float]:
        values = list(dict.fromkeys(label[side] for label in labels))
        try:
            return {value: float(value) for value in values}
        except ValueError:
            return {value: i for i, value in enumerate(values)}

    orders = [order(side) for side in range(len(axes))]
    return sorted(labels, key=lambda label: [rank[value] for rank, value in zip(orders, label, strict=True)])


def _mean_notes(means: list[list[ComparedRun]]) -> list[str]:
    """Return notes on the axes over which scores are averaged, and a note if different settings are averaged."""
    repeats = [axis for axis in REPEAT_AXES if any(len({axis_value(run, axis) for run in runs}) > 1 for runs in means)]
    mixed = list(dict.fromkeys(axis for runs in means for axis in differing_axes(runs)))
    mixed = [axis for axis in mixed if axis != "setting" or "task" not in mixed]
    counts = sorted({len(runs) for runs in means})
    size = format_count(counts[0], "run") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    axes = " and ".join([*repeats, *mixed])
    variation = f"that differ {'' if mixed else 'only '}in {axes}" if axes else "with the same config"
    notes = [f"A cell with ± is the mean and standard deviation of {size} {variation}."]
    if mixed:
        notes.append(f"Different settings are averaged: {', '.join(mixed)}; add these axes to rows or cols.")
    if "seed" in repeats and any(len({run.scored_on for run in runs}) == 1 for runs in means):
        notes.append(
            "Seeds on the same split vary the initialisation and the order of training, so the standard deviation does "
            "not include the variation between splits."
        )
    if "fold" in repeats:
        notes.append("Scores of single folds are averaged; the score of the pooled predictions is different.")
    return notes


def _split_notes(cells: Sequence[Cell], runs: Sequence[ComparedRun]) -> list[str]:
    """Return a note on collections and splits if there are several, or if they are unknown."""
    collections = list(dict.fromkeys(axis_value(run, "data") for run in runs))
    splits = {clips for cell in cells for clips in cell.scored_on}
    suffix = f" The table contains several collections: {', '.join(collections)}." if len(collections) > 1 else ""
    by_measure: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        by_measure.setdefault(cell.measure, []).append(cell)
    targets = dict.fromkeys(
        measure[0]
        for measure, measured in by_measure.items()
        if not are_comparable(measured) or any(len(cell.n) > 1 and len(cell.scored_on) == 1 for cell in measured)
    )
    if targets:
        return [f"{', '.join(targets)}: runs were scored on different clips, so scores are not comparable.{suffix}"]
    if len(splits) < 2:
        return []
    if any(len(cell.scored_on) > 1 for cell in cells):
        return [f"Scored on {len(splits)} splits. All cells of a target have the same splits.{suffix}"]
    return [f"Scored on {len(splits)} collections or splits. All cells of a target have the same one.{suffix}"]
