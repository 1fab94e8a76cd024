"""Axes of a comparison, and their layout in rows and columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from etude.config.stored import flatten
from etude.errors import UserError
from etude.evaluation.formatting import METRIC_ORDER
from etude.reports.comparison.runs import ComparedRun, printable
from etude.reports.comparison.table import Labels

PARTS = ("test", "val")
FORMATS = ("csv", "md", "tex", "html")
OF_SCORES = ("target", "metric", "class")
"""Axes along which one run has several scores."""
REPEATS = ("seed", "fold", "data.split.seed")
"""Axes of chance: a mean over them is the same experiment again."""
NOT_SETTINGS = (
    *("name", "outputs", "resume", "sweep", "compile", "choices", "callbacks.progress", "logger", "data.packs"),
)
"""Keys of a config that do not change what is measured."""
OF_CLASSES = ("precision", "recall", "f1")
USUAL = ("backbone", "feature", "task")
"""Axes of a table of runs, whether runs differ on them or not."""


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison.

    Args:
        rows: Axes in rows; empty: those of the view.
        cols: Axes in columns.
        metrics: Metrics; empty: the leading one of each target, or those of a report where `metric` is an axis.
        part: test or val.
        view: Name of a layout: runs, classes, metrics or settings.
        only: Values by axis: runs with other values are left out.
        to: Folder of the files; None: that of a sweep.
        formats: Formats of the files.
        stem: Their name without suffix.
    """

    rows: Labels = ()
    cols: Labels = ()
    metrics: Labels = ()
    part: str = "test"
    view: str = "runs"
    only: dict[str, Labels] = field(default_factory=dict)
    to: Path | None = None
    formats: Labels = FORMATS
    stem: str = "compare"


VIEWS = {
    "runs": CompareOptions(rows=("run",), cols=("target",)),
    "classes": CompareOptions(rows=("class",), cols=("feature", "metric"), metrics=("precision", "recall", "f1")),
    "metrics": CompareOptions(rows=("target", "backbone"), cols=("metric",)),
    "settings": CompareOptions(rows=("backbone", "setting", "pretrained"), cols=("target",)),
}


def layout(runs: Sequence[ComparedRun], wish: CompareOptions) -> tuple[Labels, Labels, Labels]:
    """Return axes in rows, axes in columns, and metrics.

    A named view takes in all axes on which the runs differ, so that it averages over nothing but chance. Axes of the
    options are taken as they are.

    Raises:
        UserError: A metric does not go with the axes.
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
        metrics = (*METRIC_ORDER["label"], *METRIC_ORDER["scalar"])
    if len(metrics) > 1 and "metric" not in asked:
        cols = (*cols, "metric")
    return rows, cols, metrics


def chosen(runs: Sequence[ComparedRun], wish: CompareOptions) -> list[ComparedRun]:
    """Return the runs that the options do not leave out, in the order in which these name values.

    Raises:
        UserError: The options name an axis that no run has, or values that none has.
    """
    for key, names in (("rows", wish.rows), ("cols", wish.cols), ("", tuple(wish.only))):
        for axis in names:
            check(axis, runs, f"{key}={axis}" if key else f"{axis}={','.join(wish.only[axis])}")
    kept = list(runs)
    for axis, values in wish.only.items():
        if axis in ("metric", "class", "run"):
            raise UserError(f"{axis}={','.join(values)}: cannot be chosen; put it into rows or cols")
        there = {run.folder: _values(run, axis) for run in kept}
        order = {folder: _first_index(found, values) for folder, found in there.items()}
        kept = sorted((run for run in kept if order[run.folder] < len(values)), key=lambda run: order[run.folder])
        if not kept:
            known = dict.fromkeys(one for found in there.values() for one in found)
            raise UserError(f"{axis}={','.join(values)}: no run has it; there are {', '.join(known) or 'none'}")
    return kept


def folded(runs: Sequence[ComparedRun], wish: CompareOptions) -> list[ComparedRun]:
    """Return folds as one run where they were pooled; as single runs where fold is an axis."""
    if "fold" in (*wish.rows, *wish.cols, *wish.only):
        return [run for run in runs if not run.pooled]
    wholes = [run for run in runs if run.pooled]
    return [run for run in runs if run.pooled or not any(_part_of(run, whole) for whole in wholes)]


def value(run: ComparedRun, axis: str) -> str:
    """Return the value of a run on an axis; "–" when it is not known."""
    found = NAMED[axis](run) if axis in NAMED else flatten(run.config).get(axis)
    return "–" if found is None or found == "" else printable(found)


def check(axis: str, runs: Sequence[ComparedRun], word: str) -> None:
    """Refuse an axis that no run has.

    Raises:
        UserError: No run has it; the message names the closest axis.
    """
    if axis in (*OF_SCORES, *NAMED, "run"):
        return
    keys = sorted({key for run in runs for key in flatten(run.config)})
    if axis not in keys:
        near = get_close_matches(axis, [*keys, *NAMED, *OF_SCORES, "run"], n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join((*NAMED, *OF_SCORES, 'run'))}"
        raise UserError(f"{word}: {axis} is neither an axis nor a key of these runs' config.yaml; {known}")


def differing(runs: Sequence[ComparedRun], most: int = 4) -> list[str]:
    """Return the axes on which runs differ: named ones, then keys that differ between runs alike in these."""
    named = [axis for axis in NAMED if axis not in REPEATS and len({value(run, axis) for run in runs}) > 1]
    alike = defaultdict(list)
    for run in runs:
        here = tuple(value(run, axis) for axis in NAMED if axis not in REPEATS)
        alike[here].append(flatten(run.config) | {"transfer.init_from": _origin(run)})
    keys: dict[str, None] = {}
    for configs in alike.values():
        every = dict.fromkeys(key for config in configs for key in config)
        keys |= {key: None for key in every if _matters(key) and len({repr(c.get(key)) for c in configs}) > 1}
    return named + list(keys)[:most]


def same(here: str, wanted: str) -> bool:
    """Return whether a value equals another one, as numbers where both are: 1e-3 equals .001."""
    try:
        return here == wanted or float(here) == float(wanted)
    except ValueError:
        return False


def _chosen(group: str) -> Callable[[ComparedRun], Any]:
    """Return a reader of an option in the record, else in the config: an unfinished run has no record yet."""
    return lambda run: _at(run.record, "model", group) or _at(run.config, "choices", group)


def _transfer(run: ComparedRun) -> str:
    return _at(run.config, "transfer", "train") or "none"


def _origin(run: ComparedRun) -> str:
    """Return the run that a run starts from, whatever the seed: in a sweep, seed 1 starts from `<run>_seed1`."""
    parts = PurePath(str(_at(run.config, "transfer", "init_from") or "")).parts
    own = f"_seed{run.config.get('seed')}"
    return str(PurePath(*(part.removesuffix(own) for part in parts))) if parts else ""


def _pretrained(run: ComparedRun) -> str:
    """Return the source of the weights: another run, a file, a name such as imagenet, or random."""
    if origin := _origin(run):
        path = PurePath(origin)
        return f"from {path.parent.parent.name if path.suffix == '.ckpt' else path.name}"
    weights = _at(run.config, "backbone", "weights")
    return PurePath(str(weights)).name if weights else "random"


def _method(run: ComparedRun) -> str:
    """Return the first word of `experiment=reproduction/table1/lstm_mel`."""
    group, parted, _ = str(_at(run.config, "choices", "experiment") or "").partition("/")
    return group if parted else ""


def _setting(run: ComparedRun) -> str:
    return "single-task" if len(run.metrics or _at(run.config, "task", "targets") or ()) == 1 else "multitask"


NAMED: dict[str, Callable[[ComparedRun], Any]] = {
    "method": _method,
    "backbone": _chosen("backbone"),
    "feature": _chosen("feature"),
    "head": _chosen("head"),
    "task": _chosen("task"),
    "setting": _setting,
    "transfer": _transfer,
    "pretrained": _pretrained,
    "data": lambda run: run.data.get("name") or _at(run.config, "choices", "data"),
    "seed": lambda run: run.record.get("seed", run.config.get("seed")),
    "fold": lambda run: run.fold,
}
ABOUT = {
    "method": "of an experiment, what its name begins with: reproduction or improved",
    "setting": "single-task or multitask",
    "transfer": "what goes on learning: none, full, last_k, ...",
    "pretrained": "random, imagenet, a file of weights, or the run that was begun from",
    "fold": "of a cross-validation",
}


def _given(wish: CompareOptions) -> tuple[Labels, Labels]:
    """Return the axes of the options; a side that is empty is filled with targets, or else with metrics."""
    given = wish.rows or wish.cols
    other = ("target",) if "target" not in given else ("metric",) if wish.rows else ("run",)
    return wish.rows or other, wish.cols or other


def _view(runs: Sequence[ComparedRun], wish: CompareOptions) -> tuple[Labels, Labels, Labels]:
    view = VIEWS[wish.view]
    rows, cols, metrics = view.rows, view.cols, wish.metrics or view.metrics
    more = [axis for axis in differing(runs) if axis not in (*rows, *cols)]
    if wish.view == "runs":
        chance = [axis for axis in REPEATS if axis != "fold" and len({value(run, axis) for run in runs}) > 1]
        rows = (*rows, *USUAL, *[axis for axis in more if axis not in (*USUAL, "setting")], *chance)
    elif "target" not in (*rows, *cols):
        cols = (*[axis for axis in more if axis != "setting"], *cols)
    else:  # the targets of a task are there, so that its name says nothing more
        i = next(i for i, axis in enumerate(rows) if axis != "target") + 1
        rows = (*rows[:i], *[axis for axis in more if axis != "task"], *rows[i:])
    return rows, cols, metrics


def _first_index(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Return the index of the first wanted value that a run has; their number where it has none."""
    return next((i for i, value in enumerate(wanted) if any(same(one, value) for one in found)), len(wanted))


def _values(run: ComparedRun, axis: str) -> list[str]:
    return list(run.metrics) if axis == "target" else [value(run, axis)]


def _part_of(fold: ComparedRun, whole: ComparedRun) -> bool:
    if fold.data.get("fold") is None or whole.folder.parent.parent != fold.folder.parent:
        return False
    made_of = whole.data.get("pooled_from")  # what an older version pooled does not say it
    return fold.folder.name in made_of if made_of else fold.name == whole.name


def _matters(key: str) -> bool:
    apart = (*NOT_SETTINGS, *REPEATS, "data.split.fold", "_target_")
    return not any(key == name or key.startswith(f"{name}.") or key.endswith(f".{name}") for name in apart)


def _at(mapping: Any, *keys: str) -> Any:
    """Return a value in nested mappings; None where a key is missing."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping
