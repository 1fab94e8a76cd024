"""Instantiation of configs, and the list of targets that a stored config may call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from etude.errors import UserError

# Modules whose public names a checkpoint may call: they build parts of a network and neither write nor download.
NETWORK = (
    "etude.audio.frontend",
    "etude.audio.kaldi",
    "etude.audio.log_mel",
    "etude.backbones",
    "etude.data.feature",
    "etude.tasks",
    "etude.training.augmentation",
    "etude.training.optimiser",
)
# Modules whose public names the config of a resumed run may call as well.
TRUSTED = (
    *NETWORK,
    "etude.data.datamodule",
    "etude.data.sources",
    "etude.data.splits",
    "etude.loggers",
    "etude.training.callbacks",
    "etude.training.lr_finder",
    "etude.training.transfer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.trainer.trainer",
)


def make(node: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call the target of a config node with the values of the node.

    Args:
        node: Plain mapping with `_target_`; nodes inside it are made first.
        args: Positional arguments that are not in the config.
        kwargs: Further named arguments.

    Returns:
        The return value of the target.

    Raises:
        UserError: The target does not exist or does not take these values.
    """
    values = {key: make_nested(value) for key, value in node.items() if key != "_target_"}
    target = resolve(str(node["_target_"]))
    try:
        return target(*args, **values, **kwargs)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError) or _deep(error):
            raise
        raise UserError(f"{node['_target_']}: {error}") from error


def resolve(name: str) -> Any:
    """Return the class or function of a dotted name, e.g. `etude.backbones.cnn.CNN`.

    The module is imported and the last part looked up in it, nothing else:
    `etude.training.augmentation.torch.hub.load` is no such name, although attributes lead there.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"there is no {name}: {error}") from error


def vet(node: Any, packages: tuple[str, ...] = TRUSTED) -> None:
    """Refuse a config of unknown origin with a target that is not trusted.

    Args:
        node: A whole config or any part of it, from a checkpoint or a run folder. Trusted are public names that are
            defined in `packages` or in a package that the environment variable `ETUDE_TRUST` names (comma separated).
        packages: Whose public names are trusted.

    Raises:
        UserError: A target is outside, or a trusted module only imports it from somewhere else.
    """
    if isinstance(node, Mapping):
        if isinstance(name := node.get("_target_"), str):
            trusted = (*packages, *os.environ.get("ETUDE_TRUST", "").replace(",", " ").split())
            roots = {package.split(".")[0] for package in trusted}  # importing already runs a module
            public = name.split(".")[0] in roots and not any(part.startswith("_") for part in name.split("."))
            if not public or not _within(getattr(resolve(name), "__module__", ""), trusted):
                raise UserError(
                    f"the stored config wants to call {name}, which is not trusted; if you trust it, name its package "
                    "in the environment variable ETUDE_TRUST"
                )
        for value in node.values():
            vet(value, packages)
    elif isinstance(node, list):
        for value in node:
            vet(value, packages)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def make_nested(value: Any) -> Any:
    """Return a plain value in which every node with a target is made."""
    if isinstance(value, Mapping):
        return make(value) if "_target_" in value else {key: make_nested(item) for key, item in value.items()}
    return [make_nested(item) for item in value] if isinstance(value, list) else value


def _deep(error: BaseException) -> bool:
    """Return whether an error comes from deep inside the target, where a traceback is more useful than a sentence."""
    trace, depth = error.__traceback__, 0
    while trace is not None:
        trace, depth = trace.tb_next, depth + 1
    return depth > 4
