"""Page of the learning curves of several runs.

Runs that differ only in seeds and folds have one setting, and a setting has one colour and one marker. All panels of a
quantity have the same axes. Losses of different tasks are not comparable and have panels of their own.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etude.evaluation.formatting import NAMES, capitalise_first, format_count, format_number, format_sentence
from etude.reports.charts import MARKERS, Panel, Range, log_ticks, marker_path, padded_range
from etude.reports.comparison.axes import NAMED_AXES, axis_value, differing_axes, settings_key
from etude.reports.comparison.runs import (
    TRIALS_WITHOUT_SCORES,
    ComparedRun,
    mapping_or_empty,
    optimiser_name,
    run_titles,
)
from etude.reports.html import load_template

CURVES_PAGE = "curves.html"
MOST_RUNS = 60
"""Maximum number of runs with panels of their own. The overlays and the table contain all runs."""
MAX_MARKERS = 30  # points of a line; a longer line has none
LOG_RATIO = 8  # losses over a wider range have a logarithmic axis
REDUNDANT_AXES = ("setting", "method")  # derived from the task and the experiment
MAX_KEYS = 2  # config keys in the label of a setting
LOSSES = ("train/loss", "val/loss")
TITLES = {"train/loss": "training loss", "val/loss": "validation loss"}


@dataclass(frozen=True)
class RunCurves:
    """Learning curves of one run.

    Args:
        title: Unique title of the run.
        setting: Index of the setting.
        values: Finite values by name and epoch, such as `{"val/loss": {1: 0.7}}`.
        best: Epoch with the best value of the monitor, or None.
        evaluated: Epoch whose weights computed the predictions. None for a run without predictions.
        diverged: First epoch with a value that is not finite, or None.
        monitor: Name of the value by which epochs are compared.
        state: Sentence about a run that is not finished or diverged, or "".
    """

    title: str
    setting: int
    values: Mapping[str, Mapping[int, float]]
    best: int | None
    evaluated: int | None
    diverged: int | None
    monitor: str
    state: str

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets."""
        names = (name.removeprefix("val/") for name in self.values if name.startswith("val/"))
        return tuple(sorted({name.rpartition("/")[0] for name in names if "/" in name}))

    @property
    def last_epoch(self) -> int:
        """Last epoch with a value."""
        return max(epoch for values in self.values.values() for epoch in values)

    @property
    def scores(self) -> list[str]:
        """Names of the validation scores. The mean score of a single target is left out."""
        names = [name for name in self.values if name.startswith("val/") and not name.endswith("loss")]
        return [name for name in names if name != "val/score" or len(names) != 2]


def render_curves(runs: Sequence[ComparedRun]) -> str:
    """Return the page of the learning curves of runs in any state as HTML. Pooled results have no curves."""
    runs = [run for run in runs if not run.pooled]
    titles, settings = run_titles(list(runs)), _group_by_setting(runs)
    curves: list[RunCurves] = []
    missing: dict[str, list[str]] = defaultdict(list)
    for i, same in enumerate(settings.values()):
        for run in same:
            title = titles[run.folder]
            values, problem = _read_values(run)
            if problem:
                missing[problem].append(title)
            else:
                curves.append(_describe_run(run, title, i, values))
    drawn = sorted({run.setting for run in curves})
    labels = _setting_labels(list(settings.values()))
    groups = _quantities(curves)
    return load_template("curves.html.j2").render(
        title=f"Learning curves of {format_count(len(curves), 'run')}" if curves else "Learning curves",
        legend=[
            (labels[i], *_style(i), marker_path(_style(i)[1], 4), sum(run.setting == i for run in curves))
            for i in drawn
        ],
        labels=labels,
        quantities=[_draw_quantity(title, names, members) for title, names, members in groups],
        runs=curves,
        monitored=_monitored_values(curves),
        missing=missing,
        left_out=max(0, len(curves) - MOST_RUNS),
        ring=marker_path("o", 5),
    )


def have_curves(runs: Iterable[ComparedRun]) -> bool:
    """Return whether some of the runs are trained in epochs. Pooled results, ensembles and linear probes are not."""
    return not all(run.pooled or _why_no_epochs(run) for run in runs)


def _why_no_epochs(run: ComparedRun) -> str:
    """Return why a run has no epochs, or "" if it has."""
    if run.record.get("ensemble"):
        return "an ensemble is not trained"
    return "a linear probe has no epochs" if optimiser_name(run) == "linear_probe" else ""


def _group_by_setting(runs: Iterable[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Return the runs by setting, in the order of their first run."""
    settings: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        # the data of a record contain the fold, and a run that is not finished has no record
        config_only = replace(run, record={"model": mapping_or_empty(run.record.get("model"))}, metrics={})
        settings[settings_key(config_only)].append(run)
    return dict(settings)


def _setting_labels(settings: Sequence[Sequence[ComparedRun]]) -> list[str]:
    """Return a label of each setting, with the named axes that differ, and config keys if these axes are equal."""
    firsts = [runs[0] for runs in settings]
    named = [axis for axis in differing_axes(firsts) if axis in NAMED_AXES and axis not in REDUNDANT_AXES]
    named = named or ["backbone", "feature", "task"]
    labels = [_join_values(run, named) for run in firsts]
    for label in set(labels):
        same = [i for i, other in enumerate(labels) if other == label]
        keys = [axis for axis in differing_axes([firsts[i] for i in same], MAX_KEYS) if axis not in NAMED_AXES]
        for i in same if len(same) > 1 else ():
            labels[i] = _join_values(firsts[i], [*named, *keys])
    return [label or f"setting {i}" for i, label in enumerate(labels, 1)]


def _join_values(run: ComparedRun, axes: Iterable[str]) -> str:
    """Return the known values of a run on some axes as text. A config key is written with its name."""
    values = [(axis, axis_value(run, axis)) for axis in axes]
    return " · ".join(value if axis in NAMED_AXES else f"{axis}={value}" for axis, value in values if value != "–")


def _read_values(run: ComparedRun) -> tuple[dict[str, dict[int, float]], str]:
    """Return the logged values by name and epoch, and the reason why there are none.

    A value that is not finite is nan. Several values of one epoch are averaged.
    """
    try:
        rows = run.files.read_curve_rows()
    except (OSError, ValueError, csv.Error):
        return {}, "curves.csv cannot be read"
    if run.status == "finished" and (reason := _why_no_epochs(run)):
        return {}, reason
    if not run.files.curves_path.is_file():
        return {}, run.remark.rstrip(".") if run.status != "finished" and run.remark else "there is no curves.csv"
    cells: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        epoch = _number(row.get("epoch"))
        if epoch is None or not math.isfinite(epoch):
            continue
        for name, text in row.items():
            value = _number(text) if isinstance(name, str) and name.startswith(("train/", "val/")) else None
            if value is not None:
                cells[name][int(epoch)].append(value)
    means = {name: {e: sum(v) / len(v) for e, v in sorted(epochs.items())} for name, epochs in cells.items()}
    if not any(math.isfinite(value) for name in means for value in means[name].values()):
        return {}, "no epoch is complete yet" if run.status == "unfinished" else "curves.csv has no finite values"
    return means, ""


def _number(text: object) -> float | None:
    """Return the number in a cell, inf as nan, or None if the cell is empty or contains other text."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else math.nan


def _describe_run(run: ComparedRun, title: str, setting: int, values: dict[str, dict[int, float]]) -> RunCurves:
    """Return the curves of a run with its best epoch, its evaluated epoch and its state."""
    model, task = (mapping_or_empty(item) for item in (run.record.get("model"), run.config.get("task")))
    monitor = str(model.get("monitor") or task.get("monitor") or "val/score")
    broken = [epoch for series in values.values() for epoch, value in series.items() if math.isnan(value)]
    finite = {name: {e: v for e, v in series.items() if math.isfinite(v)} for name, series in values.items()}
    finite = {name: series for name, series in finite.items() if series}
    lower = monitor.endswith("loss") or task.get("mode") == "min"
    series = finite.get(monitor, {})
    best = (min if lower else max)(series, key=lambda epoch: series[epoch]) if series else None
    evaluated = model.get("best_epoch") if run.status == "finished" else None
    curves = RunCurves(title, setting, finite, best, evaluated, min(broken, default=None), monitor, "")
    epochs = mapping_or_empty(run.config.get("trainer")).get("max_epochs")
    states = []
    if curves.diverged is not None:
        states.append(f"diverged: values are not finite from epoch {curves.diverged}")
    elif run.status == "failed":
        states.append(run.remark)
    trial = mapping_or_empty(run.config.get("choices")).get("debug")
    if run.status == "unfinished" and trial in TRIALS_WITHOUT_SCORES:
        states.append(run.remark)
    elif run.status in ("unfinished", "interrupted"):
        word = "not finished" if run.status == "unfinished" else "interrupted"
        states.append(f"{word}: {curves.last_epoch} of {epochs} epochs" if epochs else word)
    return replace(curves, state=" ".join(format_sentence(state) for state in states))


def _quantities(curves: Sequence[RunCurves]) -> list[tuple[str, tuple[str, ...], list[RunCurves]]]:
    """Return title, names of the values and runs of each quantity: the losses by task, and each score."""
    by_task: dict[tuple[str, ...], list[RunCurves]] = defaultdict(list)
    for run in curves:
        if any(name in run.values for name in LOSSES):
            by_task[run.targets].append(run)
    groups: list[tuple[str, tuple[str, ...], list[RunCurves]]] = [
        (f"loss of {', '.join(targets)}" if len(by_task) > 1 and targets else "loss", LOSSES, members)
        for targets, members in by_task.items()
    ]
    scores = dict.fromkeys(name for run in curves for name in run.scores)
    for name in sorted(scores, key=lambda name: name != "val/score"):
        groups.append((_score_title(name), (name,), [run for run in curves if name in run.scores]))
    return groups


def _score_title(name: str) -> str:
    """Return the title of a validation score such as `val/genre/macro_f1`."""
    target, _, metric = name.removeprefix("val/").rpartition("/")
    if name == "val/score":
        return "mean of the primary scores"
    return f"{NAMES.get(metric, metric)} of {target}" if target else NAMES.get(metric, metric)


def _style(setting: int) -> tuple[str, str]:
    """Return colour role and marker of a setting."""
    return f"group-{setting % 8 + 1}", MARKERS[(setting + setting // 8) % len(MARKERS)]


def _draw_quantity(title: str, names: tuple[str, ...], runs: Sequence[RunCurves]) -> dict[str, Any]:
    """Return title, overlays of all runs and a panel of each run, with common axes."""
    values = [v for run in runs for name in names for v in run.values.get(name, {}).values()]
    logarithmic = names == LOSSES and min(values) > 0 and max(values) > LOG_RATIO * min(values)
    epochs = [epoch for run in runs for name in names for epoch in run.values.get(name, {})]
    axes = _Axes(
        padded_range([*epochs, min(epochs) + 1], 0.03),
        padded_range([math.log10(v) if logarithmic else v for v in values], 0.05),
        logarithmic,
    )
    unit = "no unit, logarithmic" if logarithmic else "no unit"
    overlays = []
    for name in names:
        members = [run for run in runs if name in run.values]
        if members:
            heading = f"{TITLES[name]}{title.removeprefix('loss')}" if names == LOSSES else f"{title}, validation"
            heading = capitalise_first(heading)
            description = f"{heading} of {format_count(len(members), 'run')} by epoch; the table lists the runs."
            panel = axes.panel(description, f"{heading} ({unit})", (500, 290))
            for run in members:
                _draw_line(axes, panel, run, name, wide=True)
            overlays.append((heading, panel.svg()))
    panels = []
    for run in runs[:MOST_RUNS]:
        last = [f"{TITLES.get(name, title)} {format_number(_last(run.values[name]), 3)}" for name in names
                if name in run.values]  # fmt: skip
        description = f"{capitalise_first(title)} of {run.title} by epoch; last values: {', '.join(last)}."
        panel = axes.panel(description, "", (250, 150))
        for name in names:
            if name in run.values:
                _draw_line(axes, panel, run, name, wide=False)
        panels.append((run, panel.svg()))
    return {"title": title, "unit": unit, "is_loss": names == LOSSES, "overlays": overlays, "panels": panels}


@dataclass(frozen=True)
class _Axes:
    """Common axes of the panels of a quantity. On a logarithmic axis, y is the decimal logarithm."""

    x: Range
    y: Range
    logarithmic: bool

    def panel(self, description: str, ylabel: str, size: tuple[int, int]) -> Panel:
        """Return an empty panel with these axes."""
        ticks = log_ticks(self.y, max(2, size[1] // 34)) if self.logarithmic else None
        return Panel(self.x, self.y, description, "epoch", ylabel, size, yticks=ticks, integer=True)

    def position(self, value: float) -> float:
        """Return the position of a value on the y axis."""
        return math.log10(value) if self.logarithmic else value


def _draw_line(axes: _Axes, panel: Panel, run: RunCurves, name: str, wide: bool) -> None:
    """Draw one curve of a run with its markers. In a panel of one run, the training loss is dashed."""
    role, shape = _style(run.setting)
    values = run.values[name]
    xs, ys = list(values), [axes.position(value) for value in values.values()]
    dashed = name == "train/loss" and not wide
    evaluated = run.evaluated if run.evaluated in values else None
    if evaluated is not None and not wide:
        panel.line([evaluated] * 2, axes.y, "muted", "1.5 3", 1.1)
    panel.line(xs, ys, role, "5 3" if dashed else "", 1.6, run.title if wide else "")
    if not wide and len(xs) <= MAX_MARKERS and not dashed:
        panel.points(xs, ys, role, "o", 1.8)
    if dashed:
        return
    if evaluated is not None:
        panel.points([evaluated], [axes.position(values[evaluated])], role, shape, 4.4)
    elif wide:
        panel.points(xs[-1:], ys[-1:], role, shape, 4.0, hollow=True)
    if run.best is not None and run.best in values and name != "train/loss":
        panel.points([run.best], [axes.position(values[run.best])], "ink", "o", 6.2, hollow=True)
    if run.diverged is not None:
        panel.text(xs[-1], ys[-1], "✕", "middle", "bad", up=-4)


def _last(values: Mapping[int, float]) -> float:
    """Return the value of the last epoch."""
    return values[max(values)]


def _monitored_values(curves: Sequence[RunCurves]) -> dict[str, tuple[float | None, float | None]]:
    """Return the monitored value at the best and at the evaluated epoch, by title of the run."""
    result: dict[str, tuple[float | None, float | None]] = {}
    for run in curves:
        series = run.values.get(run.monitor, {})
        best = None if run.best is None else series.get(run.best)
        result[run.title] = (best, None if run.evaluated is None else series.get(run.evaluated))
    return result
