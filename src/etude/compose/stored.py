"""The config of a run that is resumed, which somebody else may have written."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.errors import UserError

log = logging.getLogger(__name__)
OUTPUTS = ("data.packs", "logger.mlflow.uri")  # places for output that may be named beside resume
REMOTE = ("http", "https", "databricks")  # addresses of trackers that are not on this machine


def finished(folder: Path) -> bool:
    """Return whether a run has all of its files: the report is the last that is written."""
    return (folder / "metrics.json").is_file() and (folder / "report.html").is_file()


def stored(folder: Path) -> dict[str, Any]:
    """Return the config of the run that is resumed, with its places for output recomputed.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The command names other settings than places for output, the run is finished, or its config cannot be
            read or would call code that is not trusted.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from etude.build import vet

    overrides = [word for word in HydraConfig.get().overrides.task if not word.startswith("resume=")]
    if others := [override for override in overrides if override.partition("=")[0] not in OUTPUTS]:
        raise UserError(f"resume goes on with the run's own config; leave out {' '.join(others)}")
    if finished(folder):
        raise UserError(f"resume={os.path.relpath(folder)}: this run is finished; its report is there")
    path = os.path.relpath(folder / "config.yaml")
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except Exception as error:  # a damaged file makes the parser raise errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as a config ({reason}); the run cannot be resumed") from error
    if not isinstance(config, dict) or not {"data", "feature", "backbone", "task", "trainer"} <= set(config):
        raise UserError(f"{path}: is not a config; the run cannot be resumed")
    vet(config)
    return relocate({str(key): value for key, value in config.items()}, folder, overrides)


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
