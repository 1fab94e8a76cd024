"""A config is checked whole, before anything heavy is imported, and everything wrong with it is said at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from etude.signature import signature

TOP = (
    "data", "feature", "augment", "backbone", "head", "task", "balance", "transfer", "optim", "trainer", "callbacks",
    "logger", "seed", "patience", "name", "resume", "outputs", "compile", "choices", "sweep",
)  # fmt: skip
NEEDED = ("data", "feature", "backbone", "head", "task", "balance", "optim", "trainer")
TASK = ("targets", "monitor", "mode")
PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str, "dict": dict}
PLAIN_KEYS = ("seed", "patience", "name", "resume", "outputs", "compile")
MAPS = ("callbacks", "logger", "task.targets")  # groups that hold any number of named nodes


def problems(config: Mapping[str, Any]) -> list[str]:
    """Everything wrong with a resolved config.

    Args:
        config: Plain values, as a run would get them.

    Returns:
        One sentence per fault, each beginning with the key that it is about; empty when there is none.
    """
    found = list(_keys("", config, TOP))
    found += [f"{key}: is missing" for key in NEEDED if not config.get(key)]
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        found.append(f"seed: must be a whole number of at least 0, got {seed!r}")
    epochs = (config.get("trainer") or {}).get("max_epochs")
    if isinstance(epochs, int) and epochs < 1:
        found.append(f"trainer.max_epochs: must be at least 1, got {epochs}")
    if not isinstance(config.get("compile", False), bool):
        found.append(f"compile: must be bool, got {config['compile']!r}")
    task = config.get("task") or {}
    found += _keys("task.", task, TASK)
    if not task.get("targets"):
        found.append("task.targets: a task needs at least one target")
    if task.get("mode") not in ("min", "max"):
        found.append(f"task.mode: must be min or max, got {task.get('mode')!r}")
    for path, group in [*((key, config.get(key)) for key in TOP), ("task.targets", task.get("targets"))]:
        if path in (*PLAIN_KEYS, "task", "choices", "sweep") or not group:  # an empty group is `none`
            continue
        if path not in MAPS:
            found += node_problems(path, group)
        elif isinstance(group, Mapping):
            for name, node in group.items():
                found += node_problems(f"{path}.{name}", node)
        else:
            found.append(f"{path}: must hold named nodes, got {group!r}")
    return found


def node_problems(path: str, node: Any) -> Iterator[str]:
    """Faults of one node and of those inside it."""
    if node is None:
        return
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        yield f"{path}: needs a _target_, the class or function that it configures"
        return
    try:
        known = signature(node["_target_"])
    except LookupError as error:
        yield f"{path}._target_: {error}"
        return
    settings = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    if known is not None:
        if not known.open:
            yield from _keys(f"{path}.", settings, known.takes)
        for key, value in settings.items():
            yield from _type(f"{path}.{key}", value, known.takes.get(key, ""))
    for key, value in settings.items():
        for place, item in enumerate(value) if isinstance(value, list) else [("", value)]:
            if isinstance(item, Mapping) and "_target_" in item:
                yield from node_problems(f"{path}.{key}" + (f"[{place}]" if place != "" else ""), item)


def _keys(prefix: str, node: Mapping[str, Any], allowed: Any) -> Iterator[str]:
    """Keys that nobody reads, each with the nearest that somebody does."""
    for key in node:
        if key not in allowed:
            near = get_close_matches(str(key), list(allowed), n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed) or 'none'}"
            yield f"{prefix}{key}: no such setting; {hint}"


def _type(path: str, value: Any, annotation: str) -> Iterator[str]:
    """A plain value of the wrong type; annotations that are not plain are left to the code itself."""
    if annotation.startswith("Optional["):
        annotation = f"{annotation[9:-1]} | None"
    if annotation.startswith("Union["):
        annotation = annotation[6:-1].replace(",", " |")
    options = [option.strip() for option in annotation.split("|")] if annotation else []
    options = ["dict" if option.startswith("dict[") else option for option in options]
    if not options or any(option not in (*PLAIN, "None") for option in options):
        return
    for option in options:
        if value is None and option == "None":
            return
        if option in PLAIN and isinstance(value, PLAIN[option]) and (option == "bool" or not isinstance(value, bool)):  # type: ignore[arg-type]
            return
    yield f"{path}: must be {' or '.join(options)}, got {value!r}"
