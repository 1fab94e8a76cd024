"""Comparison of runs: tables, tests of pairs and remarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etude.config import options
from etude.errors import UserError
from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import NAMES, duration, plural
from etude.evaluation.metrics import LOWER_IS_BETTER
from etude.evaluation.paired_tests import Pair, compare_pairs
from etude.evaluation.verdict import caution
from etude.reports.comparison import axes
from etude.reports.comparison.axes import (
    FORMATS,
    PARTS,
    REPEATS,
    VIEWS,
    CompareOptions,
    chosen,
    differing,
    folded,
    layout,
    value,
)
from etude.reports.comparison.pivot import alike, pivot
from etude.reports.comparison.pooling import pool_folds
from etude.reports.comparison.runs import ComparedRun, printable, scored_targets, titles
from etude.reports.comparison.scores import gather, tidy
from etude.reports.comparison.table import Cell, Labels, Table
from etude.runs.folder import find_runs

if TYPE_CHECKING:
    from pandas import DataFrame


def notes(table: Table, runs: Sequence[ComparedRun], tests: bool = True) -> list[str]:
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
        found.append(caution({"scores": True, "groups": min(groups)}))
    return found


def _notes_on_means(means: list[list[ComparedRun]]) -> list[str]:
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


def _grounds(cells: Sequence[Cell], runs: Sequence[ComparedRun]) -> list[str]:
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


SPLIT_TITLES = {"test": "Test", "val": "Validation (it chose the weights: optimistic)"}


@dataclass
class Comparison:
    """What is known of some runs side by side.

    Args:
        wish: What was asked.
        runs: The runs in the tables.
        names: A title for each run's folder.
        frame: The scores behind the tables, and those of single folds that were pooled.
        tables: The tables.
        pairs: Pairs of runs, tested.
        remarks: Sentences about runs.
    """

    wish: CompareOptions
    runs: list[ComparedRun]
    names: dict[Path, str]
    frame: DataFrame
    tables: list[Table]
    pairs: list[Pair] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from etude.reports.comparison.text import to_markdown

        return to_markdown(self)


def build(runs: Sequence[ComparedRun], wish: CompareOptions | None = None, tests: bool = True) -> Comparison:
    """Compare runs.

    Args:
        runs: Runs in any state.
        wish: What is asked; none: a row per run and a column per target.
        tests: Whether pairs are tested.

    Raises:
        UserError: The wish names an axis, a metric or a value that these runs do not have.
    """
    wish = wish or CompareOptions()
    everything = chosen(runs, wish)
    shown = folded(everything, wish)
    names = titles(shown)
    rows, cols, metrics = layout(shown, wish)
    every = _only(tidy(everything, wish.part, metrics, "class" in (*rows, *cols)), wish)
    frame = every[every["folder"].isin({str(run.folder) for run in shown})]
    if frame["metric"].isna().all() and any(run.metrics for run in shown):
        asked = f"metric={','.join(metrics)}" if metrics else f"part={wish.part}"
        raise UserError(f"{asked}: no run has scores of this kind")
    tables = []
    for title, part in _split(frame, shown, (*rows, *cols)):
        tables.append(pivot(part, shown, names, rows, cols))
        tables[-1].title = f"{SPLIT_TITLES[wish.part]}{title}"
    if "run" in rows and "target" in (*rows, *cols) and (means := _table_of_means(frame, shown, names, rows, cols)):
        means.title = f"{SPLIT_TITLES[wish.part]}: means over runs of one setting"
        tables.append(means)
    for table in tables:
        table.notes = notes(table, shown, tests)
        if "run" in table.heads:
            times = {names[run.folder]: duration(run.seconds) for run in shown if run.seconds}
            table.aside = ("time", {row: times.get(row[table.heads.index("run")], "") for row in table.rows})
    remarks = [f"{names[run.folder]}: {run.remark}" for run in shown if run.remark]
    if hidden := len(everything) - len(shown):
        single = any(run.pooled for run in everything if run not in shown)
        what = "Folds stand by themselves: what was pooled" if single else "Folds are pooled: each by itself"
        remarks.append(f"{what} is in {wish.stem}.csv ({plural(hidden, 'run')}).")
    tested = [run for run in shown if run.status == "finished"] if tests else []
    metric = wish.metrics[0] if len(wish.metrics) == 1 else ""
    found, more = compare_pairs(scored_targets(tested, names, wish.part), metric)
    found = [pair for pair in found if pair.target in set(frame["target"])]
    return Comparison(wish, shown, names, every, tables, found, remarks + more)


def _only(frame: DataFrame, wish: CompareOptions) -> DataFrame:
    targets = wish.only.get("target")
    return frame[frame["target"].isin(targets)] if targets else frame


def _split(frame: DataFrame, runs: Sequence[ComparedRun], asked: Labels) -> Iterator[tuple[str, DataFrame]]:
    """A table per target where targets are no axis; per kind of target where metrics are one, as each has its own."""
    kinds = {name: target["kind"] for run in runs for name, target in run.metrics.items()}
    without = frame["target"].isna()
    if "target" not in asked:
        for name in frame["target"].dropna().unique():
            part = frame[(frame["target"] == name) | without]
            lead = "" if "metric" in asked else f", {NAMES[part['metric'].dropna().iloc[0]]}"
            yield f": {name}{lead}", part
    elif "metric" in asked and "class" not in asked:
        for kind in dict.fromkeys(kinds.values()):
            part = frame[frame["target"].map(kinds).eq(kind) | without]
            if part["metric"].notna().any():
                yield {"label": ": labels", "scalar": ": scalars"}[kind], part
    else:
        yield "", frame
    if "target" not in asked and without.all():
        yield "", frame


def _table_of_means(
    frame: DataFrame, runs: Sequence[ComparedRun], names: dict[Path, str], rows: Labels, cols: Labels
) -> Table | None:
    """The same without what is chance, where that brings runs together."""
    settings = tuple(axis for axis in rows if axis not in ("run", *axes.REPEATS))
    if not settings or frame["metric"].isna().all():
        return None
    table = pivot(frame[frame["metric"].notna()], runs, names, settings, cols)
    return table if any(len(cell.values) > 1 for cell in table.cells.values() if cell.folders) else None


def compare(folders: Sequence[str | Path], wish: CompareOptions | None = None, tests: bool = True) -> Comparison:
    """Compare the runs at or below some folders; folds that a folder holds are pooled in it first.

    Args:
        folders: Run folders, or folders that hold some (a sweep).
        wish: What is asked; none: a row per run and a column per target.
        tests: Whether pairs are tested.

    Raises:
        UserError: The wish does not go with these runs.
    """
    remarks = [remark for folder in folders for remark in _pool(Path(folder))]
    made = build(gather([Path(folder) for folder in folders]), wish, tests)
    made.remarks += remarks
    return made


NUMBERS = dict(zip("123", ("classes", "metrics", "settings"), strict=True))
"""Views by the number of their table in the source work."""


def compare_folders(folders: Sequence[Path], wish: CompareOptions | None = None) -> list[Path]:
    """Compare the runs at or below some folders, print the tables, and write the files.

    Args:
        folders: Run folders, or folders that hold some (a sweep).
        wish: The options; of a single folder of runs the files go there if the options name no other folder.

    Returns:
        Paths of the files.

    Raises:
        UserError: A folder holds no run, or the options do not go with these runs.
    """
    from etude.reports.comparison.text import print_comparison, write

    wish = wish or CompareOptions()
    for folder in folders:
        if not find_runs(folder):
            raise UserError(f"{folder} is not a run, and no run is below it.")
    if wish.to is None and len(folders) == 1 and find_runs(folders[0]) != list(folders):
        wish = replace(wish, to=folders[0])
    comparison = compare(folders, wish)
    print_comparison(comparison)
    return list(write(comparison))


def parse_options(words: Sequence[str]) -> tuple[CompareOptions, list[Path]]:
    """Return the options that words such as `rows=backbone` give, and the folders among the words.

    Args:
        words: Folders, and options as name=value; a word that names an existing path is a folder.

    Raises:
        UserError: A word is neither, or a value is unknown.
    """
    others, values = options.split_options(words, OPTIONS, "needs a value")
    folders: list[Path] = []
    filters: dict[str, Labels] = {}
    for word in others:
        if options.is_name(word):
            folders.append(options.path(word))
            continue
        axis, text = options.split_pair(word)  # whether there is such an axis is known when the runs are read
        filters[axis] = tuple(part for part in text.split(",") if part)
        if not filters[axis]:
            raise UserError(f"{word}: needs a value")
    wish = CompareOptions(**values, only=filters)
    if both := set(wish.rows) & set(wish.cols):
        raise UserError(f"{', '.join(sorted(both))}: stands in rows and in cols; leave it out of one")
    return wish, folders


def _labels(value: str) -> Labels:
    if not (labels := tuple(part for part in value.split(",") if part)):
        raise ValueError("needs a value")
    return labels


def _known(*choices: str) -> Callable[[str], str]:
    """Return a reader of one of the choices."""

    def reader(value: str) -> str:
        if value not in choices:
            raise ValueError(f"there is no {value}; there are {', '.join(sorted(choices))}")
        return value

    return reader


def _known_labels(*choices: str) -> Callable[[str], Labels]:
    """Return a reader of several choices with commas between them."""
    return lambda value: tuple(map(_known(*choices), _labels(value)))


def _view(value: str) -> str:
    return NUMBERS.get(value, _known(*VIEWS, *NUMBERS)(value))


OPTIONS: options.Options = {
    "rows": ("rows", _labels),
    "cols": ("cols", _labels),
    "metric": ("metrics", _known_labels(*NAMES)),
    "part": ("part", _known(*PARTS)),
    "table": ("view", _view),
    "format": ("formats", _known_labels(*FORMATS)),
    "to": ("to", options.path),
}


def show(folders: Sequence[str | Path]) -> None:
    """Print a table over runs, a row per run and a column per target; nothing is pooled, tested or written."""
    from etude.reports.comparison.text import print_comparison as print_it

    print_it(build(gather([Path(folder) for folder in folders]), tests=False))


def _pool(folder: Path) -> list[str]:
    """Pool the folds in the folder of a sweep; a remark when they are not folds of one split."""
    runs = find_runs(folder)
    if runs == [folder]:
        return []
    try:
        pool_folds(folder, runs)
    except (ValueError, OSError) as error:
        return [printable(f"{folder}: folds could not be pooled: {error}.")]
    return []
