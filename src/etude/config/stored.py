"""Reading of the stored config of a run, which a stranger may have written."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.config.instantiate import vet
from etude.config.validation import problems
from etude.errors import UserError

log = logging.getLogger(__name__)
OUTPUTS = ("data.packs", "logger.mlflow.uri")  # places for output that may be named beside resume
LARGEST = 100_000  # values of a config; aliases of YAML make billions of a few lines
REMOTE = ("http", "https", "databricks")  # addresses of trackers that are not on this machine


def place_overrides() -> list[str]:
    """Return the overrides beside `resume` of the command that Hydra runs.

    Raises:
        UserError: The command names other settings than places for output.
    """
    from hydra.core.hydra_config import HydraConfig

    overrides = [word for word in HydraConfig.get().overrides.task if not word.startswith("resume=")]
    if others := [override for override in overrides if override.partition("=")[0] not in OUTPUTS]:
        raise UserError(f"resume goes on with the run's own config; leave out {' '.join(others)}")
    return overrides


def stored_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config of the run that is resumed, with its places for output recomputed.

    Args:
        path: The config.yaml in the run's folder.
        overrides: `key=value` for the places that the command line names in their stead.

    Raises:
        UserError: The config cannot be read or would call code that is not trusted.
    """
    config = read(path)
    vet(config)
    if faults := problems(config):
        raise UserError("\n  ".join([f"{os.path.relpath(path)}: the run cannot be resumed:", *faults]))
    return relocate(config, path.parent, overrides)


def read(path: Path) -> dict[str, Any]:
    """Return the content of a config.yaml, with interpolations as plain text.

    Args:
        path: The file.

    Raises:
        UserError: The file cannot be read, or is not the config of a run.
    """
    import yaml
    from omegaconf import OmegaConf

    shown = os.path.relpath(path)
    try:
        if (values := _count(yaml.compose(path.read_text("utf-8"), yaml.SafeLoader), {})) > LARGEST:
            raise ValueError(f"it has {values:.0e} values")
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # a damaged file makes the parser raise errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shown}: cannot be read as a config ({reason}); the run cannot be resumed") from error
    if not isinstance(config, dict) or not {"data", "feature", "backbone", "task", "trainer"} <= set(config):
        raise UserError(f"{shown}: is not a config; the run cannot be resumed")
    return {str(key): value for key, value in config.items()}


def _count(node: Any, known: dict[int, int]) -> int:
    """Return how many values a YAML node has once all of its aliases are written out.

    Args:
        node: As PyYAML composed it.
        known: Counts of nodes, by identity; -1 for a node that is still being counted.

    Raises:
        ValueError: A node contains itself.
    """
    if id(node) not in known:
        known[id(node)] = -1
        content = getattr(node, "value", None)
        pairs = content if isinstance(content, list) else []
        known[id(node)] = 1 + sum(_count(one, known) for pair in pairs for one in _nodes(pair))
    elif known[id(node)] < 0:
        raise ValueError("it contains itself")
    return known[id(node)]


def _nodes(item: Any) -> tuple[Any, ...]:
    """Return the nodes of an item of a sequence, or of a mapping, which are pairs."""
    return item if isinstance(item, tuple) else (item,)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted keys; a list is one value.

    Args:
        config: The config.
        prefix: Text before each key.
    """
    values: dict[str, Any] = {}
    for key, item in config.items():
        if isinstance(item, dict) and item:
            values |= flat(item, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = item
    return values


def relocate(config: dict[str, Any], folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Replace the places for output in a stored config.

    A stored place is used where it lies below the working directory, or where the run's folder lies below it. Packs
    elsewhere are only read. The folders of callbacks are recomputed when the callbacks are built.

    Args:
        config: The stored config; it is changed in place.
        folder: The run's folder.
        overrides: `key=value` for the places that the command line names in their stead.

    Returns:
        The config.
    """
    named = {key: value.strip("'\"") for key, _, value in (override.partition("=") for override in overrides)}
    outputs = str(config.get("outputs") or "outputs")
    if not (known := _trusted(outputs, folder)):
        config["outputs"] = str(folder.parent)
    if isinstance(data := config.get("data"), dict):
        packs = str(data.get("packs") or "outputs/packs")
        below = known and ".." not in Path(packs).parts and _real(packs).is_relative_to(_real(outputs))
        data["packs"] = named.get("data.packs", packs)
        data["packs_read_only"] = "data.packs" not in named and not below and not _trusted(packs, folder)
    mlflow = (config.get("logger") or {}).get("mlflow")
    if isinstance(mlflow, dict):
        uri = str(mlflow.get("uri") or "")
        if "logger.mlflow.uri" in named:
            mlflow["uri"] = named["logger.mlflow.uri"]
        elif uri and uri.partition(":")[0] not in REMOTE and not _trusted_database(uri, folder):
            log.warning("logger.mlflow.uri: the stored %s is not used; add logger.mlflow.uri=... to use it", uri)
            mlflow["uri"] = None
    return config


def _trusted(path: str, folder: Path) -> bool:
    """Return whether a stored place lies below the working directory or holds the run's folder."""
    full = _real(path)
    inside = full.is_relative_to(Path.cwd().resolve()) or folder.resolve().is_relative_to(full)
    return inside and ".." not in Path(path).parts


def _trusted_database(uri: str, folder: Path) -> bool:
    """Return whether the file of a stored SQLite address is in a trusted place."""
    kind, _, path = uri.partition(":///")  # a fourth slash makes the path absolute
    return kind == "sqlite" and _trusted(path, folder)


def _real(path: str) -> Path:
    return Path(path).resolve()
