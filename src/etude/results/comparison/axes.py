"""An axis is a question that each run answers: which backbone, which seed, which `optim.lr`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from etude.errors import UserError
from etude.results.comparison.run import Run, printable

OF_SCORES = ("target", "metric", "class")
"""Axes along which one run has several scores."""
REPEATS = ("seed", "fold", "data.split.seed")
"""Axes of chance: a mean over them is the same experiment again."""
NOT_SETTINGS = (
    *("name", "outputs", "resume", "sweep", "compile", "choices", "callbacks.progress", "logger", "data.packs"),
)
"""Keys of a config that say nothing of what was measured."""


def _chosen(group: str) -> Callable[[Run], Any]:
    """An option by its record, else by its config: an unfinished run has no record yet."""
    return lambda run: _at(run.record, "model", group) or _at(run.config, "choices", group)


def _transfer(run: Run) -> str:
    return _at(run.config, "transfer", "train") or "none"


def _origin(run: Run) -> str:
    """Where the run begins from, whatever the seed: in a sweep, seed 1 begins from `<run>_seed1`."""
    parts = PurePath(str(_at(run.config, "transfer", "init_from") or "")).parts
    own = f"_seed{run.config.get('seed')}"
    return str(PurePath(*(part.removesuffix(own) for part in parts))) if parts else ""


def _pretrained(run: Run) -> str:
    """Where the weights come from: another run, a file, a name such as imagenet, or nowhere."""
    if origin := _origin(run):
        path = PurePath(origin)
        return f"from {path.parent.parent.name if path.suffix == '.ckpt' else path.name}"
    weights = _at(run.config, "backbone", "weights")
    return PurePath(str(weights)).name if weights else "random"


def _method(run: Run) -> str:
    """The first word of `experiment=lab/table1/lstm_mel`: whose settings they are."""
    group, parted, _ = str(_at(run.config, "choices", "experiment") or "").partition("/")
    return group if parted else ""


def _setting(run: Run) -> str:
    return "single-task" if len(run.metrics or _at(run.config, "task", "targets") or ()) == 1 else "multitask"


NAMED: dict[str, Callable[[Run], Any]] = {
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
    "method": "of an experiment, what its name begins with: lab or better",
    "setting": "single-task or multitask",
    "transfer": "what goes on learning: none, full, last_k, ...",
    "pretrained": "random, imagenet, a file of weights, or the run that was begun from",
    "fold": "of a cross-validation",
}


def value(run: Run, axis: str) -> str:
    """Where a run is on an axis; "–" when it does not say."""
    found = NAMED[axis](run) if axis in NAMED else flat(run.config).get(axis)
    return "–" if found is None or found == "" else printable(found)


def check(axis: str, runs: Sequence[Run], word: str) -> None:
    """Refuse an axis that no run has.

    Raises:
        UserError: With what was probably meant.
    """
    if axis in (*OF_SCORES, *NAMED, "run"):
        return
    keys = sorted({key for run in runs for key in flat(run.config)})
    if axis not in keys:
        near = get_close_matches(axis, [*keys, *NAMED, *OF_SCORES, "run"], n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join((*NAMED, *OF_SCORES, 'run'))}"
        raise UserError(f"{word}: {axis} is neither an axis nor a key of these runs' config.yaml; {known}")


def differing(runs: Sequence[Run], most: int = 4) -> list[str]:
    """The axes on which runs differ: named ones, then keys that differ between runs which these do not tell apart."""
    named = [axis for axis in NAMED if axis not in REPEATS and len({value(run, axis) for run in runs}) > 1]
    alike = defaultdict(list)
    for run in runs:
        here = tuple(value(run, axis) for axis in NAMED if axis not in REPEATS)
        alike[here].append(flat(run.config) | {"transfer.init_from": _origin(run)})
    keys: dict[str, None] = {}
    for configs in alike.values():
        every = dict.fromkeys(key for config in configs for key in config)
        keys |= {key: None for key in every if _matters(key) and len({repr(c.get(key)) for c in configs}) > 1}
    return named + list(keys)[:most]


def same(here: str, wanted: str) -> bool:
    """Whether a value is the one that was asked for, 1e-3 being .001."""
    try:
        return here == wanted or float(here) == float(wanted)
    except ValueError:
        return False


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values; a list is one value."""
    return dict(_flat(config, prefix))


def _flat(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in config.items():
        path = f"{prefix}{key}"
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{path}.")
        else:
            yield path, item


def _matters(key: str) -> bool:
    apart = (*NOT_SETTINGS, *REPEATS, "data.split.fold", "_target_")
    return not any(key == name or key.startswith(f"{name}.") or key.endswith(f".{name}") for name in apart)


def _at(mapping: Any, *keys: str) -> Any:
    """A value in nested mappings, None where the way ends."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping
