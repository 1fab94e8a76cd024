"""Composition of a data module from overrides, for `etude prepare` and `etude explore`, and the folds of a sweep."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.compose import Composer, conf_dir, open_hydra, program_name
from etude.config.instantiate import make, resolution_error
from etude.config.override_errors import format_errors, override_errors
from etude.config.overrides import quote_value
from etude.config.validation import node_errors
from etude.data.pack_writer import read_skipped
from etude.data.partition import find_column, official_folds, select_fold
from etude.errors import UserError
from etude.system.streams import silent_log

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareOptions:
    """Options of the preparation of a pack.

    Args:
        overrides: Overrides as in training, for `data` and `feature`.
        workers: Number of decoding processes. None means one per core.
        retry: Whether skipped clips are tried again.
        ray: Address of a Ray cluster, or `local`. None uses processes of this machine.
        verify: Whether the frames are compared with their hashes.
        config_dir: A folder of additional options of config groups.
    """

    overrides: Sequence[str]
    workers: int | None = None
    retry: bool = False
    ray: str | None = None
    verify: bool = False
    config_dir: Path | None = None


def prepare_pack(options: PrepareOptions) -> dict[str, Any]:
    """Prepare the pack of a collection and log its size.

    Returns:
        `pack`, the folder; `clips` and `frames`, their numbers; `skipped`, id and reason of each skipped item.

    Raises:
        UserError: An override is unknown, or a value is missing or of the wrong type.
    """
    module = datamodule_from_overrides(options)
    pack = module.open_pack()
    if options.verify and hasattr(pack, "verify"):
        pack.verify()
        log.info("all clips match their checksums")
    folder = str(pack.folder) if hasattr(pack, "folder") else None
    n_frames = int(pack.lengths.sum())
    log.info("%s%s", f"{len(pack.index)} clips, {n_frames:,} frames", f" in {folder}" if folder else "")
    folder_flag = [f"--config-dir={options.config_dir}"] if options.config_dir else []
    needs_task = "genre" not in module.targets and not any(text.startswith("task=") for text in options.overrides)
    arguments = [*folder_flag, *options.overrides, *(["task=auto"] if needs_task else [])]
    log.info("train with: %s %s", program_name(), shlex.join(arguments))
    skipped = [{"id": clip, "reason": reason} for clip, reason in read_skipped(pack)]
    return {"pack": folder, "clips": len(pack.index), "frames": n_frames, "skipped": skipped}


def datamodule_from_overrides(options: PrepareOptions) -> MusicData:
    """Return the data module for overrides of training.

    Raises:
        UserError: An override is unknown, or a value is missing or of the wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = list(options.overrides)
    if messages := [message for argument in overrides if (message := _source_option_error(argument))]:
        raise UserError("\n".join(messages))
    with open_hydra(options.config_dir) as composer:
        config = _compose(composer, overrides, options.config_dir)
    try:
        if missing := sorted(OmegaConf.missing_keys(config.data)):
            keys = (key if key.startswith("data.") else f"data.{key}" for key in missing)
            raise UserError("\n".join(f"{key}: needs a value; add {key}=..." for key in keys))
        module = _build_module(config)
    except OmegaConfBaseException as error:
        raise resolution_error(error) from error
    pack_options = module.pack_options
    module.pack_options = replace(
        pack_options,
        workers=options.workers or pack_options.workers,
        retry=options.retry,
        ray=options.ray or pack_options.ray,
    )
    return module


def _source_option_error(argument: str) -> str:
    """Return the error message for the forms `source=folder` and `path=music` of version 0.1, or ""."""
    key, equals, value = argument.lstrip("+~").partition("=")
    if key == "source":
        return f"{argument}: was renamed; use data={value}"
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} | {"outputs"}
    if not equals or "." in key or "/" in key or "@" in key or key in groups:
        return ""
    return f"{argument}: is not an override for data or feature; an option of the source is data.source.{key}={value}"


def _compose(composer: Composer, overrides: list[str], config_dir: Path | None) -> Any:
    """Return the config of overrides.

    Raises:
        UserError: An override is invalid.
    """
    try:
        return composer.compose(overrides)
    except Exception as error:
        several = "several values instead of one"
        messages = override_errors(overrides, folder=config_dir, error=error, sweep_only=several, validate=False)
        if not messages:
            raise
        raise UserError(format_errors(messages)) from error


def _build_module(config: Any) -> MusicData:
    """Return the data module of a composed config. Its groups are checked as in training."""
    from omegaconf import OmegaConf

    from etude.data import datamodule  # heavy: torch

    plain: dict[str, Any] = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "feature")}
    if messages := [message for key, node in plain.items() for message in node_errors(key, node)]:
        raise UserError("\n".join(messages))
    return datamodule.build_datamodule({**plain, "seed": 0})


def fold_names(data: Any, kind: str | None = None) -> str:
    """Return the names of all folds of a collection as the values of a sweep, such as `0,1,2,3,4`.

    They are the names in the column of official folds, or the numbers below `data.split.folds` without such a column.

    Args:
        data: Node `data` of a composed config.
        kind: `data.split.kind` of the jobs, if the sweep sets it.

    Raises:
        UserError: The collection cannot be read, or its column has splits instead of folds.
    """
    from omegaconf import OmegaConf

    split, numbers = data.split, ",".join(map(str, range(data.split.folds)))
    kind = kind or split.kind
    if kind not in ("auto", "official") or split.column is None or OmegaConf.missing_keys(data):
        return numbers
    with silent_log():
        collection = make(OmegaConf.to_container(data.source, resolve=True))  # type: ignore[arg-type]
        table = collection.opened.index if hasattr(collection, "opened") else getattr(collection, "table", None)
        column = None if table is None else find_column(table, str(kind), split.column, [*collection.targets])
        if table is None or column is None:
            return numbers
        cells = [cell for cell in table[column].tolist() if cell != ""]
        _, folds = official_folds(cells, f"column {column}")
        select_fold(split.fold if folds else 0, folds, column)
    return ",".join(str(name) if isinstance(name, int) else quote_value(name, "str") for name in folds)
