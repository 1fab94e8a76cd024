"""Comparison of runs with tables, paired tests and remarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etude.config import options as command_options
from etude.errors import UserError
from etude.evaluation.formatting import NAMES, format_count, format_duration
from etude.evaluation.paired_tests import compare_pairs
from etude.files import ownership
from etude.files.atomic import write_text
from etude.reports.comparison.axes import (
    FORMATS,
    REPEAT_AXES,
    SPLITS,
    VIEWS,
    CompareOptions,
    layout,
    merge_folds,
    select_runs,
)
from etude.reports.comparison.page import SPLIT_TITLES, render_page
from etude.reports.comparison.pivot import pivot, table_notes
from etude.reports.comparison.pooling import pool_folds
from etude.reports.comparison.runs import ComparedRun, printable, run_titles, scored_targets
from etude.reports.comparison.scores import read_runs, score_frame
from etude.reports.comparison.table import Labels, Table
from etude.reports.comparison.text import Comparison, print_comparison, to_latex, to_markdown
from etude.runs.folder import find_runs

if TYPE_CHECKING:
    from pandas import DataFrame


VIEW_NUMBERS = dict(zip("123", ("classes", "metrics", "settings"), strict=True))
"""Views by the number of the corresponding table of the student report."""


def parse_options(arguments: Sequence[str]) -> tuple[CompareOptions, list[Path]]:
    """Return the options and the folders of the command's arguments.

    Args:
        arguments: Folders, and options as name=value. An argument that is an existing path is a folder.

    Raises:
        UserError: An argument is neither a folder nor an option, or a value is unknown.
    """
    others, values = command_options.split_options(arguments, OPTIONS, "needs a value")
    folders: list[Path] = []
    filters: dict[str, Labels] = {}
    for argument in others:
        if command_options.is_name(argument):
            folders.append(command_options.path(argument))
            continue
        axis, text = command_options.split_pair(argument)  # the axis is checked after the runs are read
        filters[axis] = tuple(value for value in text.split(",") if value)
        if not filters[axis]:
            raise UserError(f"{argument}: needs a value")
    options = CompareOptions(**values, filters=filters)
    if both := set(options.rows) & set(options.cols):
        raise UserError(f"in rows and in cols: {', '.join(sorted(both))}; keep each in only one")
    return options, folders


def compare_folders(folders: Sequence[Path], options: CompareOptions | None = None) -> list[Path]:
    """Compare the runs at or below some folders, print the tables, and write the files.

    Args:
        folders: Run folders, or folders that contain run folders, such as the folder of a sweep.
        options: Options. Without an output folder, the files are written to the given folder if it is the only one and
            contains several runs; otherwise no files are written.

    Returns:
        Paths of the files.

    Raises:
        UserError: A folder contains no run, or the options do not match the runs.
    """
    options = options or CompareOptions()
    for folder in folders:
        if not find_runs(folder):
            raise UserError(f"{folder}: is not a run folder and contains no run folder")
    if options.output_folder is None and len(folders) == 1 and find_runs(folders[0]) != list(folders):
        options = replace(options, output_folder=folders[0])
    comparison = compare(folders, options)
    print_comparison(comparison)
    return write_comparison(comparison)


def compare(folders: Sequence[str | Path], options: CompareOptions | None = None, tests: bool = True) -> Comparison:
    """Compare the runs at or below some folders, after pooling the folds of each folder.

    Args:
        folders: Run folders, or folders that contain run folders, such as the folder of a sweep.
        options: Options. None means a row per run and a column per target.
        tests: Whether to compute paired tests.

    Raises:
        UserError: The options do not match the runs.
    """
    remarks = [remark for folder in folders for remark in _pool_folds(Path(folder))]
    comparison = compare_runs(read_runs([Path(folder) for folder in folders]), options, tests)
    comparison.remarks += remarks
    return comparison


def show(folders: Sequence[str | Path]) -> None:
    """Print a table with a row per run and a column per target, without pooling, paired tests and files."""
    print_comparison(compare_runs(read_runs([Path(folder) for folder in folders]), tests=False))


def compare_runs(runs: Sequence[ComparedRun], options: CompareOptions | None = None, tests: bool = True) -> Comparison:
    """Compare runs.

    Args:
        runs: Runs in any state.
        options: Options. None means a row per run and a column per target.
        tests: Whether to compute paired tests.

    Raises:
        UserError: The options name an axis, a metric or a value that the runs do not have.
    """
    options = options or CompareOptions()
    selected = select_runs(runs, options)
    shown = merge_folds(selected, options)
    names = run_titles(shown)
    rows, cols, metrics = layout(shown, options)
    axes = (*rows, *cols)
    all_scores = _filter_targets(score_frame(selected, options.split, metrics, "class" in axes), options)
    frame = all_scores[all_scores["folder"].isin({str(run.folder) for run in shown})]
    if frame["metric"].isna().all() and any(run.metrics for run in shown):
        argument = f"metric={','.join(metrics)}" if metrics else f"part={options.split}"
        raise UserError(f"{argument}: no run has scores for this metric or split")
    tables = []
    for title, scores in _split_into_tables(frame, shown, axes):
        tables.append(pivot(scores, shown, names, rows, cols))
        tables[-1].title = f"{SPLIT_TITLES[options.split]}{title}"
    if "run" in rows and "target" in axes and (means := _table_of_means(frame, shown, names, rows, cols)):
        means.title = f"{SPLIT_TITLES[options.split]}: means over runs with the same settings"
        tables.append(means)
    for table in tables:
        table.notes = table_notes(table, shown, tests)
        if "run" in table.row_axes:
            times = {names[run.folder]: format_duration(run.seconds) for run in shown if run.seconds}
            i = table.row_axes.index("run")
            table.text_column = ("time", {row: times.get(row[i], "") for row in table.rows})
    remarks = [f"{names[run.folder]}: {run.remark}" for run in shown if run.remark]
    if hidden := len(selected) - len(shown):
        separate = any(run.pooled for run in selected if run not in shown)
        rest = (
            "Folds are shown separately; the pooled results are" if separate else "Folds are pooled; single folds are"
        )
        remarks.append(f"{rest} in {options.stem}.csv ({format_count(hidden, 'run')}).")
    tested = [run for run in shown if run.status == "finished"] if tests else []
    metric = options.metrics[0] if len(options.metrics) == 1 else ""
    pairs, test_remarks = compare_pairs(scored_targets(tested, names, options.split), metric)
    pairs = [pair for pair in pairs if pair.target in set(frame["target"])]
    return Comparison(options, shown, names, all_scores, tables, pairs, remarks + test_remarks)


def write_comparison(comparison: Comparison) -> list[Path]:
    """Write a comparison to the output folder in all formats of its options. Without a folder, write nothing.

    Returns:
        Paths of the written files.
    """
    options = comparison.options
    folder = options.output_folder
    if folder is None:
        return []
    ownership.open_folder(folder)
    ownership.check_names(folder, [f"{options.stem}.{suffix}" for suffix in options.formats])
    return [write_text(folder / f"{options.stem}.{suffix}", WRITERS[suffix](comparison)) for suffix in options.formats]


def _filter_targets(frame: DataFrame, options: CompareOptions) -> DataFrame:
    """Return the scores of the targets that pass the filters."""
    targets = options.filters.get("target")
    return frame[frame["target"].isin(targets)] if targets else frame


def _split_into_tables(frame: DataFrame, runs: Sequence[ComparedRun], axes: Labels) -> Iterator[tuple[str, DataFrame]]:
    """Yield title and scores of each table.

    There is a table per target if targets are not an axis. If metrics are an axis, there is a table per kind of target,
    because labels and scalars have different metrics.
    """
    kinds = {name: target["kind"] for run in runs for name, target in run.metrics.items()}
    without_target = frame["target"].isna()
    if "target" not in axes:
        for name in frame["target"].dropna().unique():
            scores = frame[(frame["target"] == name) | without_target]
            metric = "" if "metric" in axes else f", {NAMES[scores['metric'].dropna().iloc[0]]}"
            yield f": {name}{metric}", scores
    elif "metric" in axes and "class" not in axes:
        for kind in dict.fromkeys(kinds.values()):
            scores = frame[frame["target"].map(kinds).eq(kind) | without_target]
            if scores["metric"].notna().any():
                yield {"label": ": labels", "scalar": ": scalars"}[kind], scores
    else:
        yield "", frame
    if "target" not in axes and without_target.all():
        yield "", frame


def _table_of_means(
    frame: DataFrame, runs: Sequence[ComparedRun], names: dict[Path, str], rows: Labels, cols: Labels
) -> Table | None:
    """Return the table of means over repeated runs, or None if no run is repeated."""
    settings = tuple(axis for axis in rows if axis not in ("run", *REPEAT_AXES))
    if not settings or frame["metric"].isna().all():
        return None
    table = pivot(frame[frame["metric"].notna()], runs, names, settings, cols)
    return table if any(len(cell.values) > 1 for cell in table.cells.values() if cell.folders) else None


def _pool_folds(folder: Path) -> list[str]:
    """Pool the folds in the folder of a sweep, and return a remark if that is impossible."""
    runs = find_runs(folder)
    if runs == [folder]:
        return []
    try:
        pool_folds(folder, runs)
    except (ValueError, OSError) as error:
        return [printable(f"{folder}: folds could not be pooled: {error}.")]
    return []


def _to_csv(comparison: Comparison) -> str:
    """Return the scores as CSV with one row per score, for further analysis."""
    return comparison.frame.to_csv(index=False)


WRITERS: dict[str, Callable[[Comparison], str]] = {
    "csv": _to_csv,
    "md": to_markdown,
    "tex": to_latex,
    "html": render_page,
}


def _parse_labels(value: str) -> Labels:
    if not (labels := tuple(label for label in value.split(",") if label)):
        raise ValueError("needs a value")
    return labels


def _choice_parser(*choices: str) -> Callable[[str], str]:
    """Return a parser that accepts one of the choices."""

    def parser(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{value} is not one of {', '.join(sorted(choices))}")
        return value

    return parser


def _choices_parser(*choices: str) -> Callable[[str], Labels]:
    """Return a parser that accepts several choices, separated by commas."""
    return lambda value: tuple(map(_choice_parser(*choices), _parse_labels(value)))


def _parse_view(value: str) -> str:
    return VIEW_NUMBERS.get(value, _choice_parser(*VIEWS, *VIEW_NUMBERS)(value))


OPTIONS: command_options.Options = {
    "rows": ("rows", _parse_labels),
    "cols": ("cols", _parse_labels),
    "metric": ("metrics", _choices_parser(*NAMES)),
    "part": ("split", _choice_parser(*SPLITS)),
    "table": ("view", _parse_view),
    "format": ("formats", _choices_parser(*FORMATS)),
    "to": ("output_folder", command_options.path),
}
