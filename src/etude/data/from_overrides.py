"""Composition of a data module from the overrides of `prepare` and `explore`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from etude.config import options
from etude.config.compose import Composer, conf_dir, open_hydra
from etude.config.override_errors import format_errors, override_errors
from etude.config.overrides import quote_value
from etude.config.validation import node_errors, signature
from etude.errors import UserError

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData

log = logging.getLogger(__name__)
OPTIONS: options.Options = {
    "workers": ("workers", options.integer()),
    "retry": ("retry", options.boolean),
    "ray": ("ray", str),
}
"""Options of the preparation."""


def prepare(overrides: Sequence[str], verify: bool = False) -> None:
    """Prepare the pack of a collection and log its size.

    Args:
        overrides: Overrides as for `datamodule_from_overrides`.
        verify: Whether the frames are compared with their hashes.

    Raises:
        UserError: An override is unknown, or a value is missing or of the wrong type.
    """
    module, train_overrides = datamodule_from_overrides(overrides)
    pack = module.open_pack()
    if verify and hasattr(pack, "verify"):
        pack.verify()
        log.info("all clips match their checksums")
    summary = f"{len(pack.index)} clips, {int(pack.lengths.sum()):,} frames"
    log.info("%s%s", summary, f" in {pack.folder}" if hasattr(pack, "folder") else "")
    log.info("train with: python train.py %s", shlex.join(train_overrides))


def datamodule_from_overrides(arguments: Sequence[str]) -> tuple[MusicData, list[str]]:
    """Return the data module for the overrides of a command.

    Args:
        arguments: Overrides of Hydra, options of the source by their bare names, and `workers`, `retry`, `ray`.

    Returns:
        The module, and the overrides with which `train.py` uses the same data.

    Raises:
        UserError: An argument is unknown, or a value is missing or of the wrong type.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides, source_options, pack_options = _translate(arguments)
    with open_hydra() as composer:
        source = _compose(composer, overrides, arguments).data.source
        names = list(source.keys())
        annotations = _annotations(str(source.get("_target_")))
        for key, value in source_options.items():
            if key not in names:
                near = get_close_matches(key, names, n=1)
                available = ", ".join(name for name in names if name != "_target_") or "none"
                hint = f"did you mean {near[0]}?" if near else f"available: {available}"
                raise UserError(f"{key}: this source has no such option; {hint}")
            path = f"data.source.{key}"
            # replace a mapping; Hydra would merge the value into it
            replaces = (
                not OmegaConf.is_missing(source, key) and isinstance(source[key], DictConfig) and value[:1] == "{"
            )
            text = quote_value(value, annotations.get(key, ""))
            overrides += [f"~{path}", f"+{path}={text}"] if replaces else [f"{path}={text}"]
        config = _compose(composer, overrides, arguments)
    try:
        if missing := sorted(OmegaConf.missing_keys(config.data)):
            bare_names = {key: key.removeprefix("data.source.") for key in missing}
            messages = (
                f"{key}: needs a value; add {key if '.' in name else name}=..." for key, name in bare_names.items()
            )
            raise UserError("\n".join(messages))
        module = _build_module(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'the config'}: {str(error).splitlines()[0]}") from error
    module.pack_options = replace(module.pack_options, **pack_options)
    return module, overrides


def _annotations(target: str) -> dict[str, str]:
    """Return the types of a source's options, or an empty mapping if its code cannot be read."""
    try:
        target_signature = signature(target)
    except LookupError:
        return {}
    return target_signature.parameters if target_signature else {}


def _compose(composer: Composer, overrides: list[str], arguments: Sequence[str]) -> Any:
    """Return the config of overrides.

    Raises:
        UserError: An override is invalid; the message contains the argument of the command.
    """
    try:
        return composer.compose(overrides)
    except Exception as error:
        messages = override_errors(overrides, error=error, sweep_only="several values instead of one", validate=False)
        if not messages:
            raise
        sources = {f"data={argument[7:]}": argument for argument in arguments if argument.startswith("source=")}
        for translated, argument in sources.items():
            messages = [message.replace(translated, argument, 1) for message in messages]
        raise UserError(format_errors(messages)) from error


def _build_module(config: Any) -> MusicData:
    """Return the data module of a composed config. Its groups are checked as in training."""
    from omegaconf import OmegaConf

    from etude.data import datamodule  # heavy: torch and lightning

    plain: dict[str, Any] = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "feature")}
    if messages := [message for key, node in plain.items() for message in node_errors(key, node)]:
        raise UserError("\n".join(messages))
    return datamodule.build_datamodule({**plain, "seed": 0})


def _translate(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    """Return the overrides of Hydra, the options of the source, and the options of the preparation."""
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} | {"outputs"}
    remaining, pack_options = options.split_options(arguments, OPTIONS)
    overrides: list[str] = []
    source_options: dict[str, str] = {}
    for argument in remaining:
        key, value = options.split_pair(argument)
        if key == "source":
            overrides.insert(0, f"data={value}")
        elif key in groups or "." in key or "/" in key:
            overrides.append(argument)
        else:
            source_options[key] = value
    return overrides, source_options, pack_options
