"""Reading of the stored config of a run, which may come from an untrusted source."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.config.instantiate import check_trusted
from etude.config.validation import config_errors
from etude.errors import UserError

log = logging.getLogger(__name__)
OUTPUT_KEYS = ("data.packs", "logger.mlflow.uri")  # output locations that may be overridden together with resume
MAX_VALUES = 100_000  # values of a config; YAML aliases can expand a few lines to billions of values
REMOTE_SCHEMES = ("http", "https", "databricks")  # schemes of tracker addresses that are not local paths


def output_overrides() -> list[str]:
    """Return the overrides of the current Hydra command, without `resume`.

    Raises:
        UserError: The command overrides keys other than output locations.
    """
    from hydra.core.hydra_config import HydraConfig

    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]
    if others := [override for override in overrides if override.partition("=")[0] not in OUTPUT_KEYS]:
        raise UserError(f"{' '.join(others)}: cannot be changed, because resume uses the run's own config; remove it")
    return overrides


def stored_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config of the run that is resumed, with its output locations updated.

    Args:
        path: The config.yaml in the run's folder.
        overrides: `key=value` for the output locations that the command line replaces.

    Raises:
        UserError: The config cannot be read, is invalid, or would call code that is not trusted.
    """
    config = read_config(path)
    check_trusted(config)
    if errors := config_errors(config):
        raise UserError("\n  ".join([f"{os.path.relpath(path)}: the run cannot be resumed:", *errors]))
    return relocate(config, path.parent, overrides)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config.yaml, with interpolations as plain text.

    Raises:
        UserError: The file cannot be read, or is not the config of a run.
    """
    import yaml
    from omegaconf import OmegaConf

    shown = os.path.relpath(path)
    try:
        if (n_values := _count_values(yaml.compose(path.read_text("utf-8"), yaml.SafeLoader), {})) > MAX_VALUES:
            raise ValueError(f"it has {n_values:.0e} values")
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # the parser raises errors of many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shown}: cannot be read as a config ({reason}); the run cannot be resumed") from error
    if not isinstance(config, dict) or not {"data", "feature", "backbone", "task", "trainer"} <= set(config):
        raise UserError(f"{shown}: is not a config; the run cannot be resumed")
    return {str(key): value for key, value in config.items()}


def _count_values(node: Any, counts: dict[int, int]) -> int:
    """Return the number of values in a YAML node after all aliases are expanded.

    Args:
        node: Node composed by PyYAML.
        counts: Counts of nodes by identity; -1 for a node that is being counted.

    Raises:
        ValueError: A node contains itself.
    """
    if id(node) not in counts:
        counts[id(node)] = -1
        content = getattr(node, "value", None)
        items = content if isinstance(content, list) else []
        counts[id(node)] = 1 + sum(_count_values(child, counts) for item in items for child in _item_nodes(item))
    elif counts[id(node)] < 0:
        raise ValueError("it contains itself")
    return counts[id(node)]


def _item_nodes(item: Any) -> tuple[Any, ...]:
    """Return the node of an item of a sequence, or the nodes of key and value of an item of a mapping."""
    return item if isinstance(item, tuple) else (item,)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted keys. A list is one value.

    Args:
        config: The config.
        prefix: Text before each key.
    """
    values: dict[str, Any] = {}
    for key, item in config.items():
        if isinstance(item, dict) and item:
            values |= flatten(item, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = item
    return values


def relocate(config: dict[str, Any], folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Update the output locations in a stored config.

    A stored location is used if it is below the working directory, or if it contains the run's folder. Packs in other
    locations are read but not written. The folders of callbacks are set again when the callbacks are built.

    Args:
        config: The stored config, which is changed in place.
        folder: The run's folder.
        overrides: `key=value` for the output locations that the command line replaces.

    Returns:
        The config.
    """
    named = {key: value.strip("'\"") for key, _, value in (override.partition("=") for override in overrides)}
    outputs = str(config.get("outputs") or "outputs")
    if not (is_trusted := _is_trusted_path(outputs, folder)):
        config["outputs"] = str(folder.parent)
    if isinstance(data := config.get("data"), dict):
        packs = str(data.get("packs") or "outputs/packs")
        below = is_trusted and ".." not in Path(packs).parts and _real_path(packs).is_relative_to(_real_path(outputs))
        data["packs"] = named.get("data.packs", packs)
        data["packs_read_only"] = "data.packs" not in named and not below and not _is_trusted_path(packs, folder)
    mlflow = (config.get("logger") or {}).get("mlflow")
    if isinstance(mlflow, dict):
        uri = str(mlflow.get("uri") or "")
        if "logger.mlflow.uri" in named:
            mlflow["uri"] = named["logger.mlflow.uri"]
        elif uri and uri.partition(":")[0] not in REMOTE_SCHEMES and not _is_trusted_database(uri, folder):
            log.warning("logger.mlflow.uri: the stored %s is not used; add logger.mlflow.uri=... to use it", uri)
            mlflow["uri"] = None
    return config


def _is_trusted_path(path: str, folder: Path) -> bool:
    """Return whether a stored location is below the working directory or contains the run's folder."""
    full = _real_path(path)
    inside = full.is_relative_to(Path.cwd().resolve()) or folder.resolve().is_relative_to(full)
    return inside and ".." not in Path(path).parts


def _is_trusted_database(uri: str, folder: Path) -> bool:
    """Return whether the file of a stored SQLite address is in a trusted location."""
    scheme, _, path = uri.partition(":///")  # a fourth slash makes the path absolute
    return scheme == "sqlite" and _is_trusted_path(path, folder)


def _real_path(path: str) -> Path:
    return Path(path).resolve()
