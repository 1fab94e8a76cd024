"""Validation of a config against the signatures of the code, without imports.

Importing torch to find a typing error in a config takes seconds; parsing one file takes a millisecond. The signature is
the schema: a new backbone is validated as soon as its file exists.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Signature:
    """Parameters of a class or function.

    Args:
        takes: Annotations by name.
        open: Whether any other name is accepted too.
    """

    takes: dict[str, str]
    open: bool


@lru_cache(maxsize=256)
def signature(name: str) -> Signature | None:
    """Return the signature of a dotted name.

    Args:
        name: For example `etude.backbones.cnn.CNN`.

    Returns:
        Its parameters, or None when there is no source to read.

    Raises:
        LookupError: There is no such module, or the module has no such name.
    """
    module, _, attribute = name.rpartition(".")
    path = _file(module)
    if path is None:
        raise LookupError(f"there is no module {module}")
    if path.suffix != ".py":
        return None
    found = _find(path, module, attribute)
    if found is None:
        raise LookupError(f"{module} has no {attribute}")
    return _of(*found)


def _file(module: str) -> Path | None:
    """Return the source of a module without importlib, which would import its parent packages."""
    parts = module.split(".")
    spec = PathFinder.find_spec(parts[0])
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for part in parts[1:]:
        if path.name != "__init__.py":
            return None
        folder = path.parent
        path = next((p for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()), Path())
        if not path.name:
            return None
    return path


Found = tuple[ast.ClassDef | ast.FunctionDef, Path, str]


def _find(path: Path, module: str, name: str) -> Found | None:
    """Return the definition of a name in a file, or in the file that it is imported from."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, path, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                    base = (
                        ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
                    )
                    origin = ".".join(filter(None, (base, node.module)))
                    source = _file(origin)
                    return _find(source, origin, alias.name) if source else None
    return None


def _of(node: ast.ClassDef | ast.FunctionDef, path: Path, module: str) -> Signature:
    if isinstance(node, ast.FunctionDef):
        return _arguments(node.args, skip=0)
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return _arguments(child.args, skip=1)
    takes: dict[str, str] = {}
    is_open = False
    for base in node.bases:
        found = _find(path, module, base.id) if isinstance(base, ast.Name) else None
        if found is None:
            is_open = is_open or ast.unparse(base) != "object"  # a base that cannot be read may take anything
        elif not takes and not is_open:  # Python calls the first __init__ that it finds
            inherited = _of(*found)
            takes, is_open = dict(inherited.takes), inherited.open
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        takes |= {c.target.id: ast.unparse(c.annotation) for c in node.body
                  if isinstance(c, ast.AnnAssign) and isinstance(c.target, ast.Name) and _is_field(c)}  # fmt: skip
    return Signature(takes, is_open)


def _is_field(node: ast.AnnAssign) -> bool:
    """Return whether a line of a dataclass is a parameter of its __init__."""
    hidden = node.value is not None and "init=False" in ast.unparse(node.value)
    return not hidden and "ClassVar" not in ast.unparse(node.annotation)


def _arguments(args: ast.arguments, skip: int) -> Signature:
    every = [*args.posonlyargs, *args.args][skip:] + args.kwonlyargs
    return Signature({a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in every}, args.kwarg is not None)


TOP = (
    "data", "feature", "augment", "backbone", "head", "task", "weighting", "transfer", "optim", "trainer", "callbacks",
    "logger", "seed", "patience", "name", "resume", "outputs", "compile", "choices", "sweep",
)  # fmt: skip
NEEDED = ("data", "feature", "backbone", "head", "task", "weighting", "optim", "trainer")
TASK = ("targets", "monitor", "mode")
PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str, "dict": dict}
PLAIN_KEYS = ("seed", "patience", "name", "resume", "outputs", "compile")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true", "32", "16", "bf16", "64")
# settings of the trainer that a run sets itself, or that would disable what it needs, and what to use instead
OTHERWISE = {
    "logger": "a run makes it from the group `logger`; logger.csv=null leaves curves.csv out",
    "callbacks": "a run makes them from the group `callbacks`",
    "default_root_dir": "is the run's folder; choose it with outputs= or name=",
    "fast_dev_run": "keeps no checkpoint and predicts one batch; for a short run to the report: debug=fast",
    "barebones": "a run needs its callbacks; for a short run to the report: debug=fast",
    "overfit_batches": "would judge a run on what it was trained on; to learn a few clips by heart: debug=overfit",
    "limit_test_batches": "results are about all clips of a part; for a short run to the report: debug=fast",
}
LEAST = {  # the least value of a number, and whether that value itself is allowed
    "optim.lr": (0, False),
    "optim.weight_decay": (0, True),
    "optim.warmup": (0, True),
    "trainer.max_epochs": (1, True),
    "trainer.accumulate_grad_batches": (1, True),
    "trainer.check_val_every_n_epoch": (1, True),
    "trainer.limit_train_batches": (0, False),
    "trainer.limit_val_batches": (0, True),
    "trainer.gradient_clip_val": (0, True),
    "trainer.num_nodes": (1, True),
    "trainer.log_every_n_steps": (0, True),
}
MAPS = ("callbacks", "logger", "task.targets")  # groups that hold any number of named nodes


def problems(config: Mapping[str, Any]) -> list[str]:
    """Return the faults of a resolved config.

    Args:
        config: Plain values, as a run gets them.

    Returns:
        One sentence per fault, each beginning with its key; empty if there is none.
    """
    read = ("task", "trainer", "optim", "choices")  # whose values the checks below look at
    if strange := [key for key in read if config.get(key) and not isinstance(config[key], Mapping)]:
        return [f"{key}: must be a group of settings, got {str(config[key])[:80]!r}" for key in strange]
    found = list(_keys("", config, TOP))
    found += [f"{key}: is missing" for key in NEEDED if not config.get(key)]
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        found.append(f"seed: must be a whole number of at least 0, got {seed!r}")
    found += [*_ranges(config), *_trainer(config)]
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
    """Yield the faults of a node and of the nodes inside it."""
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
        for index, item in enumerate(value) if isinstance(value, list) else [("", value)]:
            if isinstance(item, Mapping) and "_target_" in item:
                yield from node_problems(f"{path}.{key}" + (f"[{index}]" if index != "" else ""), item)


def _ranges(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the numbers that are too small."""
    for path, (least, allowed) in LEAST.items():
        group, _, key = path.partition(".")
        value = (config.get(group) or {}).get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            continue  # another check is about its type
        if value < least or (value == least and not allowed):
            yield f"{path}: must be {'at least' if allowed else 'greater than'} {least}, got {value!r}"


def _trainer(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of trainer settings that do not fit a run or its callbacks."""
    trainer, callbacks = config.get("trainer") or {}, config.get("callbacks") or {}
    if not isinstance(trainer, Mapping) or not isinstance(callbacks, Mapping):
        return
    for key, why in OTHERWISE.items():
        value = trainer.get(key)
        all_of_it = key == "limit_test_batches" and isinstance(value, float) and value == 1.0
        if key in trainer and not all_of_it and (value or key in ("logger", "callbacks", "limit_test_batches")):
            yield f"trainer.{key}: {why}"
    precision, strategy = str(trainer.get("precision") or "32-true"), str(trainer.get("strategy") or "")
    if precision not in PRECISIONS and "fsdp" not in strategy.lower():  # which casts what goes into the network
        yield f"trainer.precision: must be one of {', '.join(PRECISIONS[:4])}, got {precision}"
    steps = trainer.get("max_steps")
    if isinstance(steps, int) and steps < 1 and steps != -1:
        yield f"trainer.max_steps: must be at least 1, or -1 for no limit, got {steps}"
    nodes = {name: node for name, node in callbacks.items() if isinstance(node, Mapping)}
    keeping = [name for name, node in nodes.items() if str(node.get("_target_")).endswith(".ModelCheckpoint")]
    if trainer.get("enable_checkpointing", True) is False and keeping:
        without = " ".join(f"callbacks.{name}=null" for name in keeping)
        yield f"trainer.enable_checkpointing: a run without checkpoints needs {without} as well"
    for name, node in nodes.items():
        if str(node.get("_target_")).endswith(".StochasticWeightAveraging"):
            yield (
                f"callbacks.{name}: it averages after the last checkpoint is written, so the average would not "
                "predict; choose callbacks=ema"
            )
    yield from _unmonitored(trainer, nodes)


def _unmonitored(trainer: Mapping[str, Any], callbacks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the faults of settings that stop the validation that callbacks wait for."""
    waiting = [name for name, node in callbacks.items() if str(node.get("monitor") or "").startswith("val/")]
    if not waiting:
        return
    way = f"callbacks.{waiting[0]} needs scores of the validation part; with callbacks=default nothing does"
    if trainer.get("limit_val_batches") == 0:
        yield f"trainer.limit_val_batches=0: {way}"
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    if isinstance(every, int) and isinstance(epochs, int) and every > epochs > 0:
        yield f"trainer.check_val_every_n_epoch={every}: is more than trainer.max_epochs={epochs}; {way}"


def _keys(prefix: str, node: Mapping[str, Any], allowed: Any) -> Iterator[str]:
    """Yield a fault for each unknown key, with the nearest key that is known."""
    for key in node:
        if key not in allowed:
            near = get_close_matches(str(key), list(allowed), n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed) or 'none'}"
            yield f"{prefix}{key}: no such setting; {hint}"


def _type(path: str, value: Any, annotation: str) -> Iterator[str]:
    """Yield a fault for a plain value of the wrong type; other annotations are left to the code itself."""
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
        if option == "float" and isinstance(value, float) and not math.isfinite(value):
            yield f"{path}: must be a finite number, got {value!r}"
            return
        if option in PLAIN and isinstance(value, PLAIN[option]) and (option == "bool" or not isinstance(value, bool)):  # type: ignore[arg-type]
            return
    yield f"{path}: must be {' or '.join(options)}, got {value!r}"
