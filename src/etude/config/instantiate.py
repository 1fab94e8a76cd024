"""Instantiation of configs, and the list of targets that a stored config may call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    pass


# Modules whose public names a checkpoint may call: they build parts of a network and neither write nor fetch.
NETWORK = (
    *(
        "etude.audio.frontend",
        "etude.audio.kaldi",
        "etude.audio.log_mel",
        "etude.training.augmentation",
        "etude.backbones",
        "etude.data.feature",
    ),
    *("etude.training.optimiser", "etude.tasks"),
)
# And those that a run which is resumed may call as well.
TRUSTED = (
    *(
        *NETWORK,
        "etude.training.callbacks",
        "etude.data.datamodule",
        "etude.data.sources",
        "etude.data.splits",
        "etude.training.callbacks",
    ),
    *(
        "etude.training.lr_finder",
        "etude.loggers",
        "etude.training.transfer",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.trainer.trainer",
    ),
)


def make(node: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call what a config node names with what it holds.

    Args:
        node: Plain mapping with `_target_`; nodes inside it are made first.
        args: Positional arguments that the config cannot know.
        kwargs: Further named arguments.

    Returns:
        What the target returns.

    Raises:
        UserError: The target does not exist or does not take these values.
    """
    values = {key: _value(value) for key, value in node.items() if key != "_target_"}
    target = resolve(str(node["_target_"]))
    try:
        return target(*args, **values, **kwargs)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError) or _deep(error):
            raise
        raise UserError(f"{node['_target_']}: {error}") from error


def resolve(name: str) -> Any:
    """The class or function of a dotted name, e.g. `etude.backbones.cnn.CNN`.

    The module is imported and the last part looked up in it, nothing else:
    `etude.training.augmentation.torch.hub.load` is no such name, although attributes lead there.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"there is no {name}: {error}") from error


def vet(node: Any, packages: tuple[str, ...] = TRUSTED) -> None:
    """Refuse a config that somebody else may have written when it would call what is not trusted.

    Args:
        node: A whole config or any part of it, from a checkpoint or a run folder. Trusted are public names that are
            defined in `packages` or in a package that the environment variable `ETUDE_TRUST` names (comma separated).
        packages: Whose public names are trusted.

    Raises:
        UserError: A target is outside, or is only borrowed by a trusted module from somewhere else.
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


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return make(value) if "_target_" in value else {key: _value(item) for key, item in value.items()}
    return [_value(item) for item in value] if isinstance(value, list) else value


def _deep(error: BaseException) -> bool:
    """Whether an error comes from far inside what was called, where a traceback says more than a sentence."""
    trace, depth = error.__traceback__, 0
    while trace is not None:
        trace, depth = trace.tb_next, depth + 1
    return depth > 4
