"""Axes of a comparison and their layout in rows and columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from etude.config.stored import flatten, readout_name, renamed_key, weights_name
from etude.errors import UserError
from etude.evaluation.formatting import BUILT_IN, METRIC_ORDER, NAMES, printable
from etude.evaluation.means import mean_name
from etude.reports.comparison.runs import ComparedRun, describe_penalties, nested_value, optimiser_name
from etude.reports.comparison.table import REPEAT_AXES, SCORE_AXES, Labels

SPLITS = ("test", "val")
FORMATS, LAYOUT_NAMES = ("csv", "md", "tex", "html"), ("runs", "classes", "metrics", "settings")
IGNORED_KEYS = (
    *("name", "outputs", "resume", "sweep", "compile", "shortcut_baseline", "choices", "callbacks.progress", "logger"),
    "data.packs",
)
"""Config keys that do not change the scores."""
CLASS_METRICS = ("precision", "recall", "f1")
CHOSEN_AXES = ("penalty", "evaluation")
"""Axes that are no settings of an experiment, so that runs with other values can still repeat it."""
RUN_TABLE_AXES = ("backbone", "feature", "task")
"""Axes that a table of runs always shows, even if all runs have the same value."""


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison.

    Args:
        rows: Axes in rows. Empty means the axes of the layout.
        cols: Axes in columns. Empty means the axes of the layout.
        metrics: Metrics. Empty means the primary metric of each target, or all metrics of a run report if `metric`
            is an axis.
        split: test or val.
        layout: Predefined axes: runs, classes, metrics or settings.
        where: Allowed values by axis. Runs with other values are left out.
        out: Folder of the files. None means the folder of the sweep.
        formats: File formats.
        stem: File name without suffix.
        trials: Whether trial runs are shown beside other runs.

    Raises:
        UserError: The split, the layout or a format is unknown, or an axis is in rows and in columns.
    """

    rows: Labels = ()
    cols: Labels = ()
    metrics: Labels = ()
    split: str = "test"
    layout: str = "runs"
    where: dict[str, Labels] = field(default_factory=dict)
    out: Path | None = None
    formats: Labels = FORMATS
    stem: str = "compare"
    trials: bool = False

    def __post_init__(self) -> None:
        if both := set(self.rows) & set(self.cols):
            raise UserError(f"in rows and in columns: {', '.join(sorted(both))}; keep each in only one")
        for name, values, known in (
            ("split", (self.split,), SPLITS),
            ("layout", (self.layout,), LAYOUT_NAMES),
            ("format", self.formats, FORMATS),
        ):
            _check_known(name, values, known)


def _check_known(name: str, values: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError if one of the values of an option is unknown."""
    if unknown := [value for value in values if value not in known]:
        raise UserError(f"--{name} {unknown[0]}: is not one of {', '.join(known)}")


LAYOUTS = {
    "runs": CompareOptions(rows=("run",), cols=("target",)),
    "classes": CompareOptions(rows=("class",), cols=("feature", "metric"), metrics=("precision", "recall", "f1")),
    "metrics": CompareOptions(rows=("target", "backbone"), cols=("metric",)),
    "settings": CompareOptions(rows=("backbone", "setting", "pretrained"), cols=("target",)),
}


def options_from_config(values: Any) -> CompareOptions:
    """Return the options for a table of a sweep's config.

    Args:
        values: Mapping of fields of CompareOptions. Lists are lists of text.

    Raises:
        UserError: A field or metric is unknown, or a value is neither a list nor, for `where`, a mapping.
    """
    known = ("rows", "cols", "metrics", "split", "layout", "where", "formats")
    if not isinstance(values, Mapping):
        raise UserError("must be a mapping of options, such as {rows: [backbone], cols: [metric]}")
    if unknown := [name for name in values if name not in known]:
        raise UserError(f"{unknown[0]}: is not an option of a table; available: {', '.join(known)}")
    plain: dict[str, Any] = {
        name: _labels(name, value) for name, value in values.items() if name not in ("split", "layout", "where")
    }
    filters = values.get("where", {})
    if not isinstance(filters, Mapping):
        raise UserError("where: must be a mapping of axes, such as {backbone: [lstm, cnn]}")
    where = {axis: _labels(f"where.{axis}", value) for axis, value in filters.items()}
    _check_known("metric", plain.get("metrics", ()), NAMES)
    return CompareOptions(**plain, **{key: values[key] for key in ("split", "layout") if key in values}, where=where)


def _labels(name: str, value: Any) -> Labels:
    """Return a list of a config as text."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{name}: must be a list, such as [{value}]")
    return tuple(str(item) for item in value)


def layout(runs: Sequence[ComparedRun], options: CompareOptions) -> tuple[Labels, Labels, Labels]:
    """Return axes in rows, axes in columns, and metrics.

    A predefined layout includes all axes on which the runs differ. The means in its tables are therefore only
    over random variation. Axes of the options are used unchanged.

    Raises:
        UserError: A metric does not match the axes.
    """
    if options.rows or options.cols:
        rows, cols, metrics = *_axes_of_options(options), options.metrics
    else:
        rows, cols, metrics = _axes_of_layout(runs, options)
    axes = (*rows, *cols)
    if "class" in axes:
        if wrong := [metric for metric in metrics if metric not in CLASS_METRICS]:
            raise UserError(f"--metric {','.join(wrong)}: is not a metric of a class; use {', '.join(CLASS_METRICS)}")
        metrics = metrics or (CLASS_METRICS if "metric" in axes else ("f1",))
    elif wrong := [metric for metric in metrics if metric in CLASS_METRICS]:
        raise UserError(
            f"--metric {','.join(wrong)}: is a metric of a class; add --rows class, or use macro_{wrong[0]}"
        )
    elif "metric" in axes and not metrics:
        metrics = (*METRIC_ORDER["label"], *METRIC_ORDER["scalar"], *(name for name in NAMES if name not in BUILT_IN))
    if len(metrics) > 1 and "metric" not in axes:
        cols = (*cols, "metric")
    return rows, cols, metrics


def select_runs(runs: Sequence[ComparedRun], options: CompareOptions) -> list[ComparedRun]:
    """Return the runs that pass the filters, in the order of the filters' values.

    Raises:
        UserError: No run has an axis of the options, or no run has a value of the filters.
    """
    _check_known("metric", options.metrics, NAMES)  # not earlier, because metrics of functions are read with the runs
    for key, axes in (("--rows", options.rows), ("--cols", options.cols), ("", tuple(options.where))):
        for axis in axes:
            check_axis(axis, runs, f"{key} {axis}" if key else f"--where {axis}={','.join(options.where[axis])}")
    selected = list(runs)
    for axis, values in options.where.items():
        argument = f"--where {axis}={','.join(values)}"
        if axis in ("metric", "class", "run"):
            raise UserError(f"{argument}: runs cannot be filtered by this axis; use it in --rows or --cols")
        by_folder = {run.folder: _filter_values(run, axis) for run in selected}
        order = {folder: _first_match(run_values, values) for folder, run_values in by_folder.items()}
        selected = sorted((run for run in selected if order[run.folder] < len(values)), key=lambda r: order[r.folder])
        if not selected:
            known = dict.fromkeys(value for run_values in by_folder.values() for value in run_values if value != "–")
            raise UserError(f"{argument}: no run has this value; the known values are {', '.join(known) or 'none'}")
    return selected


def merge_folds(runs: Sequence[ComparedRun], options: CompareOptions) -> list[ComparedRun]:
    """Remove folds whose pooled result is present, or remove the pooled results if fold is an axis."""
    if "fold" in (*options.rows, *options.cols, *options.where):
        return [run for run in runs if not run.pooled]
    pooled_runs = [run for run in runs if run.pooled]
    return [run for run in runs if run.pooled or not any(_is_fold_of(run, pooled) for pooled in pooled_runs)]


def axis_value(run: ComparedRun, axis: str) -> str:
    """Return the value of a run on an axis, or "–" if it is unknown."""
    value = NAMED_AXES[axis](run) if axis in NAMED_AXES else flatten(run.config).get(axis)
    return "–" if value is None or value == "" else printable(value)


def check_axis(axis: str, runs: Sequence[ComparedRun], argument: str) -> None:
    """Check that an axis of an argument of the command is a named axis or a config key of a run.

    Raises:
        UserError: No run has the axis. The message names the closest axis.
    """
    if axis in (*SCORE_AXES, *NAMED_AXES, "run"):
        return
    keys = sorted({key for run in runs for key in flatten(run.config)})
    if axis not in keys:
        if new := renamed_key(axis):
            raise UserError(f"{argument}: {axis} was renamed; use {new}")
        similar = get_close_matches(axis, [*keys, *NAMED_AXES, *SCORE_AXES, "run"], n=1)
        axes = ", ".join((*NAMED_AXES, *SCORE_AXES, "run"))
        remedy = f"did you mean {similar[0]}?" if similar else f"the axes are {axes}"
        raise UserError(f"{argument}: {axis} is neither an axis nor a key of these runs' config.yaml; {remedy}")


def differing_axes(runs: Sequence[ComparedRun], maximum: int = 4) -> list[str]:
    """Return the axes on which runs differ.

    Returns:
        Named axes, then at most `maximum` config keys that differ between runs that are equal on all named axes.
    """
    setting_axes = [axis for axis in NAMED_AXES if axis not in (*REPEAT_AXES, *CHOSEN_AXES)]
    named = [axis for axis in setting_axes if len({axis_value(run, axis) for run in runs}) > 1]
    by_values = defaultdict(list)
    for run in runs:
        values = tuple(axis_value(run, axis) for axis in setting_axes)
        by_values[values].append(flatten(run.config) | {"transfer.init_from": run.source})
    keys: dict[str, None] = {}
    for configs in by_values.values():
        all_keys = dict.fromkeys(key for config in configs for key in config)
        keys |= {k: None for k in all_keys if _changes_scores(k) and len({repr(c.get(k)) for c in configs}) > 1}
    return named + list(keys)[:maximum]


def settings_key(run: ComparedRun, left_out: str = "seed") -> str:
    """Return the settings of a run as text, without seeds in the config, names, paths and one axis."""
    config = flatten(run.config) | {"transfer.init_from": run.source}
    values = sorted(
        (key, repr(value))
        for key, value in config.items()
        if _changes_scores(key) and not key.startswith(f"{left_out}.")
    )
    return repr([values, *(reader(run) for axis, reader in NAMED_AXES.items() if axis not in (left_out, *CHOSEN_AXES))])


def equal_values(first: str, second: str) -> bool:
    """Return whether two values are equal as text or as numbers, such as 1e-3 and .001."""
    try:
        return first == second or float(first) == float(second)
    except ValueError:
        return False


def _group_option(group: str) -> Callable[[ComparedRun], Any]:
    """Return a function that reads the option of a config group from the record, or from an unfinished run's config."""
    return lambda run: nested_value(run.record, "model", group) or nested_value(run.config, "choices", group)


def _transfer(run: ComparedRun) -> str:
    return nested_value(run.config, "transfer", "train") or "none"


def _pretrained(run: ComparedRun) -> str:
    """Return the source of the initial weights, such as another run, a file, imagenet or random."""
    if source := run.source:
        path = PurePath(source)
        return f"from {path.parent.parent.name if path.suffix == '.ckpt' else path.name}"
    return weights_name(nested_value(run.config, "backbone")) or "random"


def _method(run: ComparedRun) -> str:
    """Return `ensemble` for an average of runs, or the first component of the experiment's name.

    For example, it is `reproduction` for `reproduction/table1/lstm_mel`.
    """
    group, slash, _ = str(nested_value(run.config, "choices", "experiment") or "").partition("/")
    return "ensemble" if run.record.get("ensemble") else group if slash else ""


def _setting(run: ComparedRun) -> str:
    targets = run.metrics or nested_value(run.config, "task", "targets") or ()
    return "single-task" if len(targets) == 1 else "multitask"


NAMED_AXES: dict[str, Callable[[ComparedRun], Any]] = {
    "method": _method,
    "backbone": _group_option("backbone"),
    "feature": _group_option("feature"),
    "head": _group_option("head"),
    "task": _group_option("task"),
    "setting": _setting,
    "readout": lambda run: readout_name(run.config.get("readout")) if run.config else None,
    "transfer": _transfer,
    "optim": optimiser_name,
    "penalty": describe_penalties,
    "pretrained": _pretrained,
    "data": lambda run: run.data.get("name") or nested_value(run.config, "choices", "data"),
    "seed": lambda run: run.record.get("seed", run.config.get("seed")),
    "fold": lambda run: run.fold,
    "evaluation": lambda run: run.fold if run.pooled else "one fold" if run.fold else "one split",
}


def _axes_of_options(options: CompareOptions) -> tuple[Labels, Labels]:
    """Return the axes of the options. Empty rows or columns become targets, or metrics if targets are already used."""
    given = options.rows or options.cols
    other = ("target",) if "target" not in given else ("metric",) if options.rows else ("run",)
    return options.rows or other, options.cols or other


def _axes_of_layout(runs: Sequence[ComparedRun], options: CompareOptions) -> tuple[Labels, Labels, Labels]:
    """Return rows, columns and metrics of a predefined layout, with the axes on which the runs differ."""
    axes = LAYOUTS[options.layout]
    rows, cols, metrics = axes.rows, axes.cols, options.metrics or axes.metrics
    more = [axis for axis in differing_axes(runs) if axis not in (*rows, *cols)]
    if options.layout == "runs":
        repeats = [axis for axis in REPEAT_AXES if axis != "fold" and len({axis_value(run, axis) for run in runs}) > 1]
        rows = (*rows, *RUN_TABLE_AXES, *[axis for axis in more if axis not in (*RUN_TABLE_AXES, "setting")], *repeats)
    elif "target" not in (*rows, *cols):
        cols = (*[axis for axis in more if axis != "setting"], *cols)
    else:  # the table shows the targets of a task, so the name of the task is redundant
        i = next(i for i, axis in enumerate(rows) if axis != "target") + 1
        rows = (*rows[:i], *[axis for axis in more if axis != "task"], *rows[i:])
    return rows, cols, metrics


def _first_match(run_values: Sequence[str], allowed: Sequence[str]) -> int:
    """Return the index of the first allowed value that a run has, or the number of allowed values if it has none."""
    matches = (i for i, value in enumerate(allowed) if any(equal_values(other, value) for other in run_values))
    return next(matches, len(allowed))


def _filter_values(run: ComparedRun, axis: str) -> list[str]:
    """Return the values of a run on an axis. The target can also be the mean over scalars.

    A run with one scalar can be part of a mean over several runs. The mean of a run of an older version is missing,
    which its remark states.
    """
    if axis != "target":
        return [axis_value(run, axis)]
    n_scalars = sum(target["kind"] == "scalar" for target in run.metrics.values())
    has_mean = run.mean or n_scalars > 1 or n_scalars == len(run.metrics) == 1
    return [*run.metrics, *([mean_name(run.metrics)] if has_mean else [])]


def _is_fold_of(fold: ComparedRun, pooled: ComparedRun) -> bool:
    """Return whether a run is one of the folds of a pooled result."""
    if fold.data.get("fold") is None or pooled.folder.parent.parent != fold.folder.parent:
        return False
    names = pooled.data.get("pooled_from")  # missing in the records of older versions
    return fold.folder.name in names if names else fold.name == pooled.name


def _changes_scores(key: str) -> bool:
    """Return whether a config key can change the scores by more than random variation."""
    ignored = (*IGNORED_KEYS, *REPEAT_AXES, "data.split.fold", "_target_")
    if ".metrics." in key or key.endswith(".loss._target_"):  # functions of targets
        return ".metrics." not in key
    return not any(key == name or key.startswith(f"{name}.") or key.endswith(f".{name}") for name in ignored)
