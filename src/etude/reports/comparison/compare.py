"""Comparison of runs: tables, tests of pairs and remarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etude.config import options
from etude.errors import UserError
from etude.evaluation.formatting import NAMES, format_count, format_duration
from etude.evaluation.paired_tests import compare_pairs
from etude.files import ownership
from etude.files.atomic import write_text
from etude.reports.comparison.axes import FORMATS, PARTS, REPEATS, VIEWS, CompareOptions, chosen, folded, layout
from etude.reports.comparison.page import SPLIT_TITLES, page
from etude.reports.comparison.pivot import notes, pivot
from etude.reports.comparison.pooling import pool_folds
from etude.reports.comparison.runs import ComparedRun, printable, scored_targets, titles
from etude.reports.comparison.scores import gather, tidy
from etude.reports.comparison.table import Labels, Table
from etude.reports.comparison.text import Comparison, print_comparison, to_latex, to_markdown
from etude.runs.folder import find_runs

if TYPE_CHECKING:
    from pandas import DataFrame


NUMBERS = dict(zip("123", ("classes", "metrics", "settings"), strict=True))
"""Views by the number of their table in the source work."""


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
    wish = wish or CompareOptions()
    for folder in folders:
        if not find_runs(folder):
            raise UserError(f"{folder} is not a run, and no run is below it.")
    if wish.to is None and len(folders) == 1 and find_runs(folders[0]) != list(folders):
        wish = replace(wish, to=folders[0])
    comparison = compare(folders, wish)
    print_comparison(comparison)
    return write(comparison)


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


def show(folders: Sequence[str | Path]) -> None:
    """Print a table over runs, a row per run and a column per target; nothing is pooled, tested or written."""
    print_comparison(build(gather([Path(folder) for folder in folders]), tests=False))


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
            times = {names[run.folder]: format_duration(run.seconds) for run in shown if run.seconds}
            table.aside = ("time", {row: times.get(row[table.heads.index("run")], "") for row in table.rows})
    remarks = [f"{names[run.folder]}: {run.remark}" for run in shown if run.remark]
    if hidden := len(everything) - len(shown):
        single = any(run.pooled for run in everything if run not in shown)
        what = "Folds stand by themselves: what was pooled" if single else "Folds are pooled: each by itself"
        remarks.append(f"{what} is in {wish.stem}.csv ({format_count(hidden, 'run')}).")
    tested = [run for run in shown if run.status == "finished"] if tests else []
    metric = wish.metrics[0] if len(wish.metrics) == 1 else ""
    found, more = compare_pairs(scored_targets(tested, names, wish.part), metric)
    found = [pair for pair in found if pair.target in set(frame["target"])]
    return Comparison(wish, shown, names, every, tables, found, remarks + more)


def write(comparison: Comparison) -> list[Path]:
    """Write the formats of the options into their folder; nothing without a folder.

    Returns:
        The paths that were written.
    """
    folder = comparison.wish.to
    if folder is None:
        return []
    ownership.open_folder(folder)
    ownership.check_names(folder, [f"{comparison.wish.stem}.{kind}" for kind in comparison.wish.formats])
    return [
        write_text(folder / f"{comparison.wish.stem}.{kind}", WRITERS[kind](comparison))
        for kind in comparison.wish.formats
    ]


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
    settings = tuple(axis for axis in rows if axis not in ("run", *REPEATS))
    if not settings or frame["metric"].isna().all():
        return None
    table = pivot(frame[frame["metric"].notna()], runs, names, settings, cols)
    return table if any(len(cell.values) > 1 for cell in table.cells.values() if cell.folders) else None


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


def _csv(comparison: Comparison) -> str:
    """Return a row per score, not a table: what tables and figures of one's own can be made from."""
    return comparison.frame.to_csv(index=False)


WRITERS: dict[str, Callable[[Comparison], str]] = {"csv": _csv, "md": to_markdown, "tex": to_latex, "html": page}


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
