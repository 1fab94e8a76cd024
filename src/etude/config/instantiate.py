"""Instantiation of configs, the check of a stored config before anything in it is called, and the columns of data."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.stored import read_config, relocate, renamed_target
from etude.config.validation import ROOT_KEYS, config_errors, expand_target, node_errors
from etude.errors import UserError
from etude.system.streams import silent_log

if TYPE_CHECKING:
    from omegaconf import DictConfig


# Modules whose public names a checkpoint may call. They build networks, and do not write or download files.
NETWORK_MODULES = (
    "etude.audio.checkpoint_fronts",
    "etude.audio.frontend",
    "etude.audio.kaldi",
    "etude.audio.log_mel",
    "etude.backbones",
    "etude.data.batches",
    "etude.embeddings.readouts",
    "etude.tasks",
    "etude.training.augmentation",
    "etude.training.optimiser",
)
# Modules whose public names the config of a resumed run may call as well.
TRUSTED_MODULES = (
    *NETWORK_MODULES,
    "etude.data.datamodule",
    "etude.data.sources",
    "etude.data.splits",
    "etude.loggers",
    "etude.training.callbacks",
    "etude.training.lr_finder",
    "etude.training.transfer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.trainer.trainer",
    "sklearn.metrics",
    "torch.nn.functional",
)
_own_functions: set[str] = set()  # functions that the config of this command names


ALL = "auto"  # task of all columns that can be targets
JOIN = "+"  # between the tasks of a list, in the name of their joined task
KINDS = ("label", "scalar")  # kinds of targets that need no file in conf/target
MAX_NAMES = 30  # maximum number of columns in an error message


@dataclass
class DataColumns:
    """Columns of the data of a command.

    Args:
        targets: Kind of each column that can be a target, by name.
        unused: Reason for each other column.
        tasks: Options of conf/task.
        error: Reason why the data cannot be read, or "".
    """

    targets: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    error: str = ""

    def unknown_task_error(self, option: str, hint: str = "") -> str:
        """Return the error message for a task that is no option and no column that can be a target."""
        unknown = [part for part in option.split(JOIN) if part not in self.targets and part not in self.tasks]
        if option not in self.unused and unknown:
            option = unknown[0]
        if option in self.unused:
            return f"the column {option} cannot be a target: {self.unused[option]}"
        text = f"no such option; {hint}available: {', '.join(self.tasks)}"
        if self.error:
            tasks = ", ".join(self.tasks)
            return f"the columns of the data cannot be read: {self.error}; tasks of the package: {tasks}"
        if set(self.targets) <= set(self.tasks):
            return f"{text}; the data of this command has no such column; data=... selects your own"
        names = [f"{name} ({kind})" for name, kind in islice(self.targets.items(), MAX_NAMES)]
        more = f" and {len(self.targets) - len(names)} more" if len(self.targets) > len(names) else ""
        return f"{text}; and of the columns of this data: {', '.join(names)}{more}, or {ALL} for all of them"


def make(node: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call the target of a config node with the values of the node.

    Args:
        node: Plain mapping with `_target_`. Nodes inside it are instantiated first.
        args: Positional arguments that are not in the config.
        kwargs: Keyword arguments that are not in the config.

    Returns:
        The return value of the target.

    Raises:
        UserError: The target does not exist or does not accept these values.
    """
    values = {key: make_nested(value) for key, value in node.items() if key != "_target_"}
    target = resolve(str(node["_target_"]))
    try:
        return target(*args, **values, **kwargs)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError) or _is_raised_inside_target(error):
            raise
        names_key = str(error).partition(".")[0] in ROOT_KEYS  # such as backbone.kernel, which users know
        raise UserError(str(error) if names_key else f"{node['_target_']}: {error}") from error


def resolve(name: str) -> Any:
    """Return the class or function of a dotted name, such as `etude.backbones.cnn.CNN`.

    All components except the last must be a module. `etude.training.augmentation.torch.hub.load` is refused, although
    it can be reached through attributes.

    Raises:
        UserError: The module cannot be imported or has no such name.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        new = renamed_target(name)
        reason = f"was renamed; use {new}" if new else f"cannot be imported ({error})"
        raise UserError(f"{name}: {reason}") from error


def load_function(key: str, node: Mapping[str, Any], parameters: Collection[str] = ()) -> Callable[..., Any]:
    """Return the function of a node, which is called with the values of the node as keyword parameters.

    Args:
        key: Key of the node in a config, for messages.
        node: Plain mapping with `_target_`.
        parameters: Keys of the node that are not parameters of the function.

    Raises:
        UserError: The function cannot be imported, or the target is not a function.
    """
    name = str(node["_target_"])
    try:
        function = resolve(name)
        values = {k: make_nested(value) for k, value in node.items() if k not in ("_target_", *parameters)}
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    if not callable(function):
        raise UserError(f"{key}: {name} is not a function")
    return partial(function, **values) if values else function


def has_parameter(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has a parameter of this name. False for a function without a known signature."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def expand_functions(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config in which the losses and metrics of targets are nodes, not dotted names of functions."""
    task = config.get("task")
    if not isinstance(task, Mapping) or not isinstance(targets := task.get("targets"), Mapping):
        return config
    return config | {"task": {**task, "targets": {name: expand_target(node) for name, node in targets.items()}}}


def trust_functions(config: dict[str, Any]) -> dict[str, Any]:
    """Trust the functions that the losses and metrics of a command's own config name, and return the config."""
    for target in config["task"]["targets"].values():
        nodes = [target.get("loss"), *(target.get("metrics") or {}).values()]
        _own_functions.update(str(node["_target_"]) for node in nodes if isinstance(node, Mapping))
    return config


def check_trusted(node: Any, packages: tuple[str, ...] = TRUSTED_MODULES) -> None:
    """Check that a config of unknown origin calls trusted targets only.

    Public names are trusted if they are defined in `packages`, or in a package that the environment variable
    `ETUDE_TRUST` (comma separated) contains. So are the losses and metrics of the command's own config.

    Args:
        node: Config or a node of it, from a checkpoint or a run folder.
        packages: Packages and modules whose public names are trusted.

    Raises:
        UserError: A target is not trusted. A name that a trusted module imports from another package is not trusted.
    """
    if isinstance(node, Mapping):
        if isinstance(name := node.get("_target_"), str) and name not in _own_functions:
            trusted = (*packages, *os.environ.get("ETUDE_TRUST", "").replace(",", " ").split())
            roots = {package.split(".")[0] for package in trusted}  # checked first, because importing a module runs it
            public = name.split(".")[0] in roots and not any(part.startswith("_") for part in name.split("."))
            if not public or not _is_in_packages(getattr(resolve(name), "__module__", ""), trusted):
                raise UserError(
                    f"the stored config calls {name}, which is not trusted; if you trust it, add its package to the "
                    "environment variable ETUDE_TRUST"
                )
        for value in node.values():
            check_trusted(value, packages)
    elif isinstance(node, list):
        for value in node:
            check_trusted(value, packages)


def _is_in_packages(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def make_nested(value: Any) -> Any:
    """Return a plain value in which every node with a target is instantiated."""
    if isinstance(value, Mapping):
        return make(value) if "_target_" in value else {key: make_nested(item) for key, item in value.items()}
    return [make_nested(item) for item in value] if isinstance(value, list) else value


def _is_raised_inside_target(error: BaseException) -> bool:
    """Return whether an error was raised deep inside the target, where the traceback is more useful than a message."""
    trace, depth = error.__traceback__, 0
    while trace is not None:
        trace, depth = trace.tb_next, depth + 1
    return depth > 4


def stored_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config of the run that is resumed, with its output locations updated.

    Args:
        path: The config.yaml in the run's folder.
        overrides: `key=value` for the output locations that the command line replaces.

    Raises:
        UserError: The config cannot be read, is invalid, or would call code that is not trusted.
    """
    config = expand_functions(read_config(path))
    check_trusted(config)
    if errors := config_errors(config):
        raise UserError("\n  ".join([f"{os.path.relpath(path)}: the run cannot be resumed:", *errors]))
    return relocate(config, path.parent, overrides)


def inherited_nodes(source: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the options and values of `backbone` and `feature` of the run from which weights are copied.

    The source is a run folder, or a checkpoint in it. Without a readable config, the result is empty. A config that
    would call code that is not trusted raises UserError.
    """
    path = Path(source).expanduser()
    folder = next((home for home in (path, *path.parents[:2]) if (home / "config.yaml").is_file()), None)
    if folder is None:
        return {}
    try:
        config = read_config(folder / "config.yaml")
    except UserError:
        return {}  # the weights may be readable
    choices = config.get("choices")
    result = {}
    for group in ("backbone", "feature"):
        option, node = choices.get(group) if isinstance(choices, Mapping) else None, config.get(group)
        if isinstance(option, str) and isinstance(node, Mapping) and "${" not in json.dumps(node, default=str):
            result[group] = (option, dict(node))
    check_trusted([node for _, node in result.values()], NETWORK_MODULES)
    return result


def source_node(config: DictConfig) -> Mapping[str, Any]:
    """Return the resolved node of the source of the data.

    Raises:
        UserError: A value is missing, invalid or cannot be resolved.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = OmegaConf.select(config, "data.source")
        if node is None or not OmegaConf.is_config(node):
            raise UserError("data.source: needs a value")
        if missing := sorted(OmegaConf.missing_keys(node)):
            raise UserError(f"data.source.{missing[0]}: needs a value; add data.source.{missing[0]}=... to the command")
        source: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    if errors := list(node_errors("data.source", source)):
        raise UserError("; ".join(errors))
    return dict(source)


def read_columns(source: Mapping[str, Any]) -> DataColumns:
    """Return the columns of a source. Its messages are not logged, because the run logs them."""
    with silent_log():
        collection = make(source)
    kinds = {name: str(spec["kind"]) for name, spec in collection.targets.items()}
    unused = {name: f"its name contains {JOIN}, which separates the tasks of a list" for name in kinds if JOIN in name}
    unused |= dict(getattr(collection, "unused_columns", {}))
    targets = {name: kind for name, kind in kinds.items() if kind in KINDS and name not in unused}
    return DataColumns(targets, unused)


def plain_config(composed: DictConfig) -> dict[str, Any]:
    """Return the resolved and validated config of a run.

    Args:
        composed: Config composed by Hydra, without Hydra's own node.

    Raises:
        UserError: Values are missing, cannot be resolved, or do not fit the signatures of the code.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        missing = OmegaConf.missing_keys(composed)
        config: Any = {} if missing else OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise resolution_error(error) from None
    if missing := missing or OmegaConf.missing_keys(OmegaConf.create(config)):  # including values that a sweep sets
        raise UserError("\n".join(f"{key}: needs a value; add {key}=... to the command" for key in sorted(missing)))
    for key in ("sweep", "resume"):  # they select the run's folder and do not describe the run
        config.pop(key, None)
    if errors := config_errors(config):
        heading = "an error" if len(errors) == 1 else f"{len(errors)} errors"
        raise UserError("\n  ".join([f"the config has {heading}:", *errors]))
    return trust_functions(expand_functions(config))


def resolution_error(error: Exception) -> UserError:
    """Return the error for a value of a config that OmegaConf cannot resolve."""
    if isinstance(error.__cause__, UserError):  # of a function of RESOLVERS
        return error.__cause__
    reason = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", str(error).splitlines()[0])
    if missing := re.fullmatch(r"Missing mandatory value: (\S+)", reason):  # of another key that a value refers to
        return UserError(f"{missing[1]}: needs a value; add {missing[1]}=... to the command")
    return UserError(f"{getattr(error, 'full_key', None) or 'the config'}: {reason}")
