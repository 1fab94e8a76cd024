"""Comparison of runs with tables, paired tests and remarks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.stored import flatten
from etude.errors import UserError, missing_path
from etude.evaluation.formatting import NAMES, format_count, format_duration, printable
from etude.evaluation.means import MEAN
from etude.evaluation.paired_tests import Pair, compare_pairs
from etude.evaluation.score_summary import SPLIT_NAMES, count_trained_clips
from etude.files import ownership
from etude.files.atomic import write_text
from etude.reports.comparison.axes import (
    CompareOptions,
    axis_value,
    layout,
    merge_folds,
    select_runs,
)
from etude.reports.comparison.curves import CURVES_PAGE, render_curves
from etude.reports.comparison.page import has_curves_page, render_page, split_title
from etude.reports.comparison.pivot import pivot, table_notes
from etude.reports.comparison.pooling import pool_folds, score_repeats
from etude.reports.comparison.runs import ComparedRun, hide_trials, mean_titles, run_titles, scored_targets
from etude.reports.comparison.scores import (
    find_repetitions,
    no_scores_message,
    read_runs,
    runs_outside_sweeps,
    score_frame,
    single_task_means,
)
from etude.reports.comparison.table import REPEAT_AXES, Labels, Table
from etude.reports.comparison.text import Comparison, print_comparison, test_lines, to_latex, to_markdown
from etude.runs.folder import find_runs

DATA_OPTIONS = ("data.source.", "data.min_seconds", "data.max_seconds", "feature.")  # select clips and frames

if TYPE_CHECKING:
    from pandas import DataFrame


def compare_folders(folders: Sequence[Path], options: CompareOptions | None = None) -> tuple[Comparison, list[Path]]:
    """Compare the runs at or below some folders, print the tables, and write the files.

    Args:
        folders: Run folders, or folders that contain run folders, such as the folder of a sweep.
        options: Options. Without an output folder, the files are written to the given folder if it is the only one and
            contains several runs, but no sweeps; otherwise no files are written.

    Returns:
        The comparison, and the paths of the files.

    Raises:
        UserError: A folder contains no run, or the options do not match the runs.
    """
    options = options or CompareOptions()
    for folder in folders:
        if not find_runs(folder):
            raise UserError(f"{folder}: contains no run" if folder.exists() else missing_path(folder, "run folder"))
    if options.out is None and len(folders) == 1 and [folder] != find_runs(folder) == runs_outside_sweeps(folder):
        options = replace(options, out=folder)
    comparison = compare(folders, options)
    print_comparison(comparison)
    return comparison, write_comparison(comparison)


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
    runs, hidden = hide_trials(read_runs([Path(folder) for folder in folders]), options is not None and options.trials)
    comparison = compare_runs(runs, options, tests)
    comparison.remarks += [*remarks, *hidden]
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
    names = run_titles(shown, with_common_fold=False)
    rows, cols, metrics = layout(shown, options)
    axes = (*rows, *cols)
    repeated, repeat_remarks = find_repetitions(shown, names)
    combined, mean_remarks = _combined_means([run for run in shown if run.folder not in repeated], options, axes)
    scored = [*selected, *combined]
    all_scores = _filter_targets(score_frame(scored, options.split, metrics, "class" in axes), options)
    frame = all_scores[all_scores["folder"].isin({str(run.folder) for run in shown})]
    once = frame[~frame["folder"].isin({str(folder) for folder in repeated})]
    if frame["metric"].isna().all() and any(run.metrics for run in shown):
        without_mean = [run for run in shown if run.remark and not run.mean and MEAN in options.where.get("target", ())]
        reasons = [*(f"{names[run.folder]}: {run.remark}" for run in without_mean), *mean_remarks]
        raise UserError("; ".join([no_scores_message(options), *(reason.rstrip(".") for reason in reasons)]))
    tables = []
    for title, scores in _split_into_tables(frame if "run" in axes else once, shown, axes):
        tables.append(pivot(scores, shown, names, rows, cols))
        tables[-1].title = f"{split_title(shown, options.split)}{title}"
    if "run" in rows and "target" in axes and (means := _table_of_means(once, shown, names, rows, cols)):
        means.title = f"{split_title(shown, options.split)}: means over runs with the same settings"
        tables.append(means)
    for table in tables:
        table.notes = [*_notes_on_target_means(table, scored), *table_notes(table, shown, tests)]
        if "run" in table.row_axes:
            times = {names[run.folder]: format_duration(run.seconds) for run in shown if run.seconds}
            i = table.row_axes.index("run")
            table.text_column = ("time", {row: times.get(row[i], "") for row in table.rows})
    remarks = [f"{names[run.folder]}: {run.remark}" for run in shown if run.remark]
    if hidden := len(selected) - len(shown):
        separate = any(run.pooled for run in selected if run not in shown)
        rest = "Folds are shown separately; pooled results" if separate else "Folds are pooled; single folds"
        file = f"{options.stem}.csv" if options.out else "the file that --out FOLDER writes"
        remarks.append(f"{rest} are in {file} ({format_count(hidden, 'run')}).")
    optimistic = runs_scored_on_training_clips(shown, names, options.split)
    excluded = repeated | set(optimistic)
    tested = [run for run in shown if run.status == "finished" and run.folder not in excluded] if tests else []
    metric = options.metrics[0] if len(options.metrics) == 1 else ""
    pairs, test_remarks = compare_pairs(scored_targets(tested, names, options.split, mean_titles(scored)), metric)
    pairs = [pair for pair in pairs if pair.target in set(frame["target"])]
    remarks += _remarks_on_collections(pairs, shown, names) + _remarks_on_changed_data(shown, names)
    remarks += [*optimistic.values(), *repeat_remarks, *mean_remarks, *test_remarks]
    return Comparison(options, shown, names, all_scores, tables, pairs, remarks, selected)


def runs_scored_on_training_clips(
    runs: Sequence[ComparedRun], names: Mapping[Path, str], split: str
) -> dict[Path, str]:
    """Return a remark for each run whose initial weights were trained on scored clips, by folder.

    Their scores are not comparable with those of other runs, so they are not tested.

    Args:
        runs: Runs in any state.
        names: Titles of the runs by folder.
        split: test or val.
    """
    remarks = {}
    for run in runs:
        if count := count_trained_clips(run.record, split):
            clips = format_count(count, f"{SPLIT_NAMES[split]} clip")
            remarks[run.folder] = (
                f"{names[run.folder]}: the initial weights were trained on {clips}, or on clips of the same groups, so "
                "the scores are optimistic; the run is left out of paired tests."
            )
    return remarks


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """Return the scores of the tables, the paired tests and the remarks as plain values.

    Returns:
        `scores`: a row per score, as in compare.csv. `tests`: lines with the results. `remarks`: sentences.
    """
    return {
        "scores": json.loads(comparison.frame.to_json(orient="records")),
        "tests": test_lines(comparison.pairs),
        "remarks": comparison.remarks,
    }


def write_comparison(comparison: Comparison) -> list[Path]:
    """Write a comparison to the output folder in all formats of its options. Without a folder, write nothing.

    Returns:
        Paths of the written files.
    """
    options = comparison.options
    if (folder := options.out) is None:
        return []
    ownership.open_folder(folder)
    has_curves = has_curves_page(comparison)
    ownership.check_names(folder, [*(f"{options.stem}.{s}" for s in options.formats), *[CURVES_PAGE] * has_curves])
    paths = [write_text(folder / f"{options.stem}.{s}", WRITERS[s](comparison)) for s in options.formats]
    return [*paths, write_text(folder / CURVES_PAGE, render_curves(comparison.selected))] if has_curves else paths


def _filter_targets(frame: DataFrame, options: CompareOptions) -> DataFrame:
    """Return the scores of the targets that pass the filters."""
    targets = options.where.get("target")
    if not targets:
        return frame
    means = frame["target"].astype(str).str.startswith(f"{MEAN} of ") if MEAN in targets else False
    return frame[frame["target"].isin(targets) | means]


def _combined_means(
    runs: Sequence[ComparedRun], options: CompareOptions, axes: Labels
) -> tuple[list[ComparedRun], list[str]]:
    """Return the means over the targets of several single-task runs, and remarks, unless an axis separates the runs.

    If only means are shown, a remark states that the runs are separated.
    """
    targets = options.where.get("target", ("mean",))
    separate = any(axis in ("run", "class", "task", "name") or axis.startswith(("task.", "choices.")) for axis in axes)
    if not any(target.startswith(MEAN) for target in targets):
        return [], []
    if not separate:
        return single_task_means(runs, options.split)
    single = [run.name for run in runs if [target["kind"] for target in run.metrics.values()] == ["scalar"]]
    reason = "there is no mean over their targets in a table with the axis run, class, task or name"
    shown = options.where.get("target") == (MEAN,) and len(single) > 1
    return [], [f"{', '.join(single)}: {reason}; use --layout settings."] if shown else []


def _notes_on_target_means(table: Table, runs: Sequence[ComparedRun]) -> list[str]:
    """Return a note for each mean over scalars in a table."""
    notes = []
    shown = {cell.measure[0] for cell in table.cells.values() if cell.folders}
    for title in dict.fromkeys(title for title in mean_titles(runs).values() if title in shown):
        means = [run for run in runs if run.mean and mean_titles(runs)[run.folder] == title]
        targets = means[0].mean["targets"]
        note = f"{title}: mean of the scores of {', '.join(targets[:-1])} and {targets[-1]}."
        if any(not run.metrics for run in means):
            note += (
                f" For single-task runs, it is computed from the predictions of {len(targets)} runs, one for each "
                "target, with the same seed and otherwise equal settings."
            )
        notes.append(note)
    return notes


def _split_into_tables(frame: DataFrame, runs: Sequence[ComparedRun], axes: Labels) -> Iterator[tuple[str, DataFrame]]:
    """Yield title and scores of each table.

    There is a table per target if targets are not an axis. If metrics are an axis, there is a table per kind of target,
    because labels and scalars have different metrics.
    """
    kinds = dict.fromkeys(frame["target"].dropna(), "scalar")  # means are scalars
    kinds |= {name: target["kind"] for run in runs for name, target in run.metrics.items() if name in kinds}
    without_target = frame["target"].isna()
    if "target" not in axes:
        for name in frame["target"].dropna().unique():
            scores = frame[(frame["target"] == name) | without_target]
            if "metric" in axes:
                yield f": {name}", scores
                continue
            for metric in scores["metric"].dropna().unique():  # several if runs have different kinds of this target
                yield f": {name}, {NAMES[metric]}", scores[(scores["metric"] == metric) | without_target[scores.index]]
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
    """Return the table of means over repeats of pooled folds, of one fold or of one split, or None without repeats."""
    settings = tuple(axis for axis in rows if axis not in ("run", *REPEAT_AXES))
    settings += ("evaluation",) if settings and len({axis_value(run, "evaluation") for run in runs}) > 1 else ()
    if not settings or frame["metric"].isna().all():
        return None
    table = pivot(frame[frame["metric"].notna()], runs, names, settings, cols)
    return table if any(len(cell.values) > 1 for cell in table.cells.values() if cell.folders) else None


def _remarks_on_collections(pairs: Sequence[Pair], runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> list[str]:
    """Return a remark if runs on different collections were compared, because their clips have equal ids and labels."""
    collections = {names[run.folder]: axis_value(run, "data") for run in runs}
    mixed = {name for pair in pairs for name in (pair.a, pair.b) if collections[pair.a] != collections[pair.b]}
    if not mixed:
        return []
    shown = ", ".join(f"{name} ({collections[name]})" for name in sorted(mixed))
    return [
        f"{shown}: these runs used different collections, whose test clips have equal ids, groups and true values. The "
        "paired tests compare them as the same clips."
    ]


def _remarks_on_changed_data(runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> list[str]:
    """Return a remark for each collection whose labels or audio changed between runs with equal options."""
    remarks = []
    for noun, hashed, groups in (
        ("clips, groups or labels", "labels", ("data",)),
        ("audio or frames", "hash", ("data", "feature")),
    ):
        by_options: dict[str, list[ComparedRun]] = defaultdict(list)
        for run in runs:
            config = flatten({group: run.config.get(group) for group in groups})
            options = [(key, repr(value)) for key, value in config.items() if key.startswith(DATA_OPTIONS)]
            axes = [axis_value(run, axis) for axis in groups]
            if run.data.get(hashed):
                by_options[repr((axes, sorted(options)))].append(run)
        for same in by_options.values():
            if len({run.data[hashed] for run in same}) > 1:
                titles, collection = ", ".join(names[run.folder] for run in same), axis_value(same[0], "data")
                remarks.append(
                    f"{titles}: the {noun} of {collection} changed between these runs, so their scores and means over "
                    "them are not comparable."
                )
    return remarks


def _pool_folds(folder: Path) -> list[str]:
    """Pool the folds in the folder of a sweep, and return the scores of repeats, or why folds cannot be pooled."""
    runs = runs_outside_sweeps(folder)
    if runs == [folder]:
        return []
    try:
        return score_repeats(folder, pool_folds(folder, runs))
    except (ValueError, OSError) as error:
        return [printable(f"{folder}: folds could not be pooled: {error}.")]


def _to_csv(comparison: Comparison) -> str:
    """Return the scores as CSV with one row per score, for further analysis."""
    return comparison.frame.to_csv(index=False)


WRITERS: dict[str, Callable[[Comparison], str]] = {
    "csv": _to_csv,
    "md": to_markdown,
    "tex": to_latex,
    "html": render_page,
}
