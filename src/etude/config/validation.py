"""Validation of a config against the signatures of the code, without imports.

Importing torch to find a typo in a config would take seconds. Parsing one file takes a millisecond. The signatures are
the schema, so a new backbone can be validated as soon as its file exists.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from etude.config.stored import renamed_key, renamed_target


@dataclass(frozen=True)
class Signature:
    """Parameters of a class or function.

    Args:
        parameters: Annotations by name of the parameter.
        accepts_any: Whether any other name is accepted too.
    """

    parameters: dict[str, str]
    accepts_any: bool


@lru_cache(maxsize=256)
def signature(name: str) -> Signature | None:
    """Return the signature of a dotted name, or None if it has no definition in Python source.

    Raises:
        LookupError: The module does not exist or does not contain the name.
    """
    module, _, attribute = name.rpartition(".")
    path = _source_path(module)
    if path is None:
        raise LookupError(f"there is no module {module}")
    if path.suffix != ".py":
        return None
    if definition := _find_definition(path, module, attribute):
        return _definition_signature(*definition)
    unknown = rf"^{re.escape(attribute)}\s*[:=]|^from [\w.]+ import \*"  # such as a functools.partial
    if re.search(unknown, path.read_text(encoding="utf-8"), re.MULTILINE):
        return None
    raise LookupError(f"{module} has no {attribute}")


def _source_path(module: str) -> Path | None:
    """Return the source file of a module without importlib, which would import its parent packages."""
    names = module.split(".")
    spec = PathFinder.find_spec(names[0])
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for name in names[1:]:
        files = (path.parent / name / "__init__.py", path.parent / f"{name}.py") if path.name == "__init__.py" else ()
        path = next(filter(Path.is_file, files), Path())
        if not path.name:
            return None
    return path


Definition = tuple[ast.ClassDef | ast.FunctionDef, Path, str]  # syntax tree, source file and module


def _find_definition(path: Path, module: str, name: str) -> Definition | None:
    """Return the definition of a name in a file, or in the file that it is imported from."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, path, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                    parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                    origin = ".".join([*parents, *filter(None, [node.module])])
                    source = _source_path(origin)
                    return _find_definition(source, origin, alias.name) if source else None
    return None


def _definition_signature(node: ast.ClassDef | ast.FunctionDef, path: Path, module: str) -> Signature:
    """Return the signature of a function, or of the `__init__` of a class."""
    if isinstance(node, ast.FunctionDef):
        return _arguments_signature(node.args, skip=0)
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return _arguments_signature(child.args, skip=1)
    parameters: dict[str, str] = {}
    accepts_any = False
    for base in node.bases:
        definition = _find_definition(path, module, base.id) if isinstance(base, ast.Name) else None
        if definition is None:
            accepts_any = accepts_any or ast.unparse(base) != "object"  # the parameters of this base are unknown
        elif not parameters and not accepts_any:  # Python calls the first __init__ in the order of the bases
            inherited = _definition_signature(*definition)
            parameters, accepts_any = dict(inherited.parameters), inherited.accepts_any
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        parameters |= {c.target.id: ast.unparse(c.annotation) for c in node.body
                       if isinstance(c, ast.AnnAssign) and isinstance(c.target, ast.Name) and _is_field(c)}  # fmt: skip
    return Signature(parameters, accepts_any)


def _is_field(node: ast.AnnAssign) -> bool:
    """Return whether an assignment in a dataclass is a parameter of its `__init__`."""
    hidden = node.value is not None and "init=False" in ast.unparse(node.value)
    return not hidden and "ClassVar" not in ast.unparse(node.annotation)


def _arguments_signature(args: ast.arguments, skip: int) -> Signature:
    """Return the signature of arguments without the first `skip` positional ones."""
    named = [*args.posonlyargs, *args.args][skip:] + args.kwonlyargs
    parameters = {arg.arg: ast.unparse(arg.annotation) if arg.annotation else "" for arg in named}
    return Signature(parameters, args.kwarg is not None)


ROOT_KEYS = (
    "data", "feature", "augment", "backbone", "readout", "head", "task", "weighting", "transfer", "optim", "trainer",
    "callbacks", "logger", "seed", "patience", "name", "resume", "outputs", "compile", "choices", "sweep",
    "shortcut_baseline", "imagenet_weights",
)  # fmt: skip
REQUIRED_KEYS = ("data", "feature", "backbone", "head", "task", "weighting", "optim", "trainer")
TASK_KEYS = ("targets", "monitor", "mode")
METRIC_KEYS = {"title": "str", "lower_is_better": "bool", "range": "", "on": "str"}  # beside a function's parameters
PLAIN_TYPES = {"int": int, "float": (int, float), "bool": bool, "str": str, "dict": dict}
PLAIN_KEYS = ("seed", "patience", "name", "resume", "outputs", "compile", "shortcut_baseline", "imagenet_weights")
IMAGENET_WEIGHTS = ("imagenet", "untrained")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true", "32", "16", "bf16", "64")
# Keys of the trainer that a run sets itself or that would disable required functions, with reason and remedy.
REFUSED_TRAINER_KEYS = {
    "logger": "is set from the config group `logger`; use logger.csv=null to write no curves.csv",
    "callbacks": "is set from the config group `callbacks`; use it instead",
    "default_root_dir": "is the run folder; use outputs= or name= to choose it",
    "fast_dev_run": "writes no checkpoint and predicts one batch only; for a short complete run use debug=fast",
    "barebones": "disables the callbacks, which a run requires; for a short complete run use debug=fast",
    "overfit_batches": "would evaluate a run on its training data; to memorise a few clips use debug=overfit",
    "limit_test_batches": "would evaluate only a part of the clips; for a short complete run use debug=fast",
}
MINIMUMS = {  # lower bound of a number, and whether the bound itself is allowed
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
NAMED_NODES = ("callbacks", "logger", "task.targets")  # keys whose value is any number of named nodes


def config_errors(config: Mapping[str, Any]) -> list[str]:
    """Return the errors of a resolved config of plain values. Each message begins with the key."""
    inspected = ("task", "trainer", "optim", "choices")  # keys whose values are used by the checks below
    if invalid := [key for key in inspected if config.get(key) and not isinstance(config[key], Mapping)]:
        return [f"{key}: must be a mapping, got {str(config[key])[:80]!r}" for key in invalid]
    errors = list(_unknown_key_errors("", config, ROOT_KEYS))
    errors += [f"{key}: is missing" for key in REQUIRED_KEYS if not config.get(key)]
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        errors.append(f"seed: must be a whole number of at least 0, got {seed!r}")
    errors += [*_minimum_errors(config), *_trainer_errors(config)]
    for key in ("compile", "shortcut_baseline"):
        errors += _type_errors(key, config.get(key, False), "bool")
    if (weights := config.get("imagenet_weights")) not in (None, *IMAGENET_WEIGHTS):
        errors.append(
            f"imagenet_weights: must be {' or '.join(IMAGENET_WEIGHTS)}, got {weights!r}; to start from a file, set "
            "backbone.weights"
        )
    task = config.get("task") or {}
    errors += _unknown_key_errors("task.", task, TASK_KEYS)
    if not task.get("targets"):
        errors.append("task.targets: a task needs at least one target")
    if task.get("mode") not in ("min", "max"):
        errors.append(f"task.mode: must be min or max, got {task.get('mode')!r}")
    for key, value in [*((key, config.get(key)) for key in ROOT_KEYS), ("task.targets", task.get("targets"))]:
        if key in (*PLAIN_KEYS, "task", "choices", "sweep") or not value:  # an empty value is the option `none`
            continue
        if key not in NAMED_NODES:
            errors += node_errors(key, value)
        elif isinstance(value, Mapping):
            for name, node in value.items():
                errors += (_target_errors if key == "task.targets" else node_errors)(f"{key}.{name}", node)
        else:
            errors.append(f"{key}: must be a mapping of named nodes, got {value!r}")
    return errors


def expand_target(node: Any) -> Any:
    """Return the node of a target with the nodes of its functions. A metric in a list has the name of its function."""
    if not isinstance(node, Mapping):
        return node
    loss, metrics = node.get("loss"), node.get("metrics") or {}
    if isinstance(metrics, list):
        metrics = {str(value).rpartition(".")[2]: value for value in metrics}
    named = metrics if isinstance(metrics, Mapping) else {"": metrics}
    nodes = {name: {"_target_": value} if isinstance(value, str) else value for name, value in named.items() if value}
    functions = {"loss": {"_target_": loss}} if isinstance(loss, str) and "." in loss else {}
    return {**node, **functions} | ({"metrics": nodes} if "metrics" in node else {})


def _target_errors(path: str, node: Any) -> Iterator[str]:
    """Yield the errors of a target, its loss and its metrics."""
    target = expand_target(node)
    metrics = target.pop("metrics", {}) if isinstance(target, dict) else {}
    yield from node_errors(path, target)
    for name, metric in metrics.items():
        if not str(name).isidentifier():
            yield f"{path}.metrics: must be functions by names of letters, digits and _, got {name or metric!r}"
        else:
            yield from node_errors(f"{path}.metrics.{name}", metric, METRIC_KEYS)


def node_errors(path: str, node: Any, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the errors of a node and of the nodes inside it.

    Args:
        path: Dotted key of the node.
        node: Plain value of the node; None is valid.
        more: Annotations of valid keys that are not parameters of its target.
    """
    if node is None:
        return
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        yield f"{path}: needs a _target_, the class or function that it configures"
        return
    try:
        target_signature = signature(node["_target_"])
    except LookupError as error:
        new = renamed_target(node["_target_"])
        yield f"{path}._target_: {node['_target_']} was renamed; use {new}" if new else f"{path}._target_: {error}"
        return
    values = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    if target_signature is not None:
        parameters = target_signature.parameters | dict(more or {})
        if not target_signature.accepts_any:
            yield from _unknown_key_errors(f"{path}.", values, parameters)
        for key, value in values.items():
            yield from _type_errors(f"{path}.{key}", value, parameters.get(key, ""))
    for key, value in values.items():
        for index, item in enumerate(value) if isinstance(value, list) else [("", value)]:
            if isinstance(item, Mapping) and "_target_" in item:
                yield from node_errors(f"{path}.{key}" + (f"[{index}]" if index != "" else ""), item)


def _minimum_errors(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for each number that is too small."""
    for path, (minimum, allowed) in MINIMUMS.items():
        group, _, key = path.partition(".")
        value = (config.get(group) or {}).get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            continue  # the type is checked elsewhere
        if value < minimum or (value == minimum and not allowed):
            yield f"{path}: must be {'at least' if allowed else 'greater than'} {minimum}, got {value!r}"


def _trainer_errors(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the errors of trainer values that do not fit a run or its callbacks."""
    trainer, callbacks = config.get("trainer") or {}, config.get("callbacks") or {}
    if not isinstance(trainer, Mapping) or not isinstance(callbacks, Mapping):
        return
    for key, reason in REFUSED_TRAINER_KEYS.items():
        value = trainer.get(key)
        is_all = key == "limit_test_batches" and isinstance(value, float) and value == 1.0
        if key in trainer and not is_all and (value or key in ("logger", "callbacks", "limit_test_batches")):
            yield f"trainer.{key}: {reason}"
    precision, strategy = str(trainer.get("precision") or "32-true"), str(trainer.get("strategy") or "")
    if precision not in PRECISIONS and "fsdp" not in strategy.lower():  # FSDP casts the inputs of the network
        yield f"trainer.precision: must be one of {', '.join(PRECISIONS[:4])}, got {precision}"
    steps = trainer.get("max_steps")
    if isinstance(steps, int) and steps < 1 and steps != -1:
        yield f"trainer.max_steps: must be at least 1, or -1 for no limit, got {steps}"
    nodes = {name: node for name, node in callbacks.items() if isinstance(node, Mapping)}
    checkpoints = [name for name, node in nodes.items() if str(node.get("_target_")).endswith(".ModelCheckpoint")]
    if trainer.get("enable_checkpointing", True) is False and checkpoints:
        without = " ".join(f"callbacks.{name}=null" for name in checkpoints)
        yield f"trainer.enable_checkpointing: a run without checkpoints also needs {without}"
    for name, node in nodes.items():
        if str(node.get("_target_")).endswith(".StochasticWeightAveraging"):
            yield (
                f"callbacks.{name}: averages the weights after the last checkpoint is written, so that predictions "
                "would not use the average; use callbacks=ema"
            )
    yield from _monitor_errors(trainer, nodes)


def _monitor_errors(trainer: Mapping[str, Any], callbacks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield an error for each trainer value that disables the validation although a callback monitors its scores."""
    monitoring = [name for name, node in callbacks.items() if str(node.get("monitor") or "").startswith("val/")]
    if not monitoring:
        return
    reason = f"callbacks.{monitoring[0]} needs validation scores; with callbacks=default no callback needs them"
    if trainer.get("limit_val_batches") == 0:
        yield f"trainer.limit_val_batches=0: {reason}"
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    if isinstance(every, int) and isinstance(epochs, int) and every > epochs > 0:
        yield f"trainer.check_val_every_n_epoch={every}: is more than trainer.max_epochs={epochs}; {reason}"


def _unknown_key_errors(prefix: str, node: Mapping[str, Any], valid: Any) -> Iterator[str]:
    """Yield an error for each unknown key, with its new name or the most similar valid key."""
    for key in node:
        if key in valid:
            continue
        if new := renamed_key(f"{prefix}{key}"):
            yield f"{prefix}{key}: was renamed; use {new}"
            continue
        near = get_close_matches(str(key), list(valid), n=1)
        hint = f"did you mean {near[0]}?" if near else f"available: {', '.join(valid) or 'none'}"
        yield f"{prefix}{key}: no such config key; {hint}"


def _type_errors(path: str, value: Any, annotation: str) -> Iterator[str]:
    """Yield an error for a plain value of the wrong type. The target itself checks other annotations."""
    if annotation.startswith("Optional["):
        annotation = f"{annotation[9:-1]} | None"
    if annotation.startswith("Union["):
        annotation = annotation[6:-1].replace(",", " |")
    types = [name.strip() for name in annotation.split("|")] if annotation else []
    types = ["dict" if name.startswith("dict[") else name for name in types]
    if "Mapping[str, float]" in types:
        is_valid = isinstance(value, Mapping) and all(type(number) in (int, float) for number in value.values())
        if not is_valid and not (value is None and "None" in types):
            yield f"{path}: must be a mapping from names to numbers, got {value!r}"
        return
    if not types or any(name not in (*PLAIN_TYPES, "None") for name in types):
        return
    for name in types:
        if value is None and name == "None":
            return
        if name == "float" and isinstance(value, float) and not math.isfinite(value):
            yield f"{path}: must be a finite number, got {value!r}"
            return
        is_valid_bool = name == "bool" or not isinstance(value, bool)  # a bool is an int in Python
        if name in PLAIN_TYPES and isinstance(value, PLAIN_TYPES[name]) and is_valid_bool:  # type: ignore[arg-type]
            return
    yield f"{path}: must be {' or '.join(types)}, got {value!r}"
