"""Data module of the overrides of the commands prepare and explore."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from etude.config import options
from etude.config.compose import Composer, conf_dir, open_hydra
from etude.config.override_errors import error_text, override_errors
from etude.config.overrides import quote_value
from etude.config.validation import node_problems, signature
from etude.errors import UserError

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData

log = logging.getLogger(__name__)
OPTIONS: options.Options = {
    "workers": ("workers", options.whole()),
    "retry": ("retry", options.truth),
    "ray": ("ray", str),
}
"""Options of the preparation itself."""


def prepare(words: Sequence[str], verify: bool = False) -> None:
    """Make the pack of a collection if it is not there, and log what it contains.

    Args:
        words: As for `datamodule_from_overrides`.
        verify: Whether the pack is read once more and compared with its checksums.

    Raises:
        UserError: A word is unknown, or a value is missing or of the wrong type.
    """
    module, overrides = datamodule_from_overrides(words)
    pack = module.open_pack()
    if verify and hasattr(pack, "verify"):
        pack.verify()
        log.info("every clip is, byte for byte, what was written")
    hours = f"{len(pack.index)} clips, {int(pack.lengths.sum()):,} frames"
    log.info("%s%s", hours, f" in {pack.folder}" if hasattr(pack, "folder") else "")
    log.info("train with: python train.py %s", shlex.join(overrides))


def datamodule_from_overrides(words: Sequence[str]) -> tuple[MusicData, list[str]]:
    """The data module of some words.

    Args:
        words: Overrides of Hydra, the source's own settings by their bare names, and `workers`, `retry`, `ray`.

    Returns:
        The module, and the overrides with which `train.py` has the same data.

    Raises:
        UserError: A word is none of these, or a value is missing or of the wrong type.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides, settings, own = _translate(words)
    with open_hydra() as composer:
        source = _composed(composer, overrides, words).data.source
        known = list(source.keys())
        annotations = _annotations(str(source.get("_target_")))
        for key, value in settings.items():
            if key not in known:
                near = get_close_matches(key, known, n=1) or [", ".join(k for k in known if k != "_target_")]
                raise UserError(f"{key}: no such setting of this source; there is {near[0] or 'none'}")
            path = f"data.source.{key}"
            # what is given replaces a mapping; Hydra would put it into the one that is there
            replaced = (
                not OmegaConf.is_missing(source, key) and isinstance(source[key], DictConfig) and value[:1] == "{"
            )
            text = quote_value(value, annotations.get(key, ""))
            overrides += [f"~{path}", f"+{path}={text}"] if replaced else [f"{path}={text}"]
        config = _composed(composer, overrides, words)
    try:
        if missing := sorted(OmegaConf.missing_keys(config.data)):
            bare = {key: key.removeprefix("data.source.") for key in missing}
            said = (f"{key}: needs a value; add {key if '.' in word else word}=..." for key, word in bare.items())
            raise UserError("\n".join(said))
        module = _module(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'the config'}: {str(error).splitlines()[0]}") from error
    module.pack_options = replace(module.pack_options, **own)
    return module, overrides


def _annotations(target: str) -> dict[str, str]:
    """Return the types of a source's settings; none where its code cannot be read."""
    try:
        found = signature(target)
    except LookupError:
        return {}
    return found.takes if found else {}


def _composed(composer: Composer, overrides: list[str], words: Sequence[str]) -> Any:
    """The config of some overrides, or a sentence for each that is wrong, as this command would have it."""
    try:
        return composer.compose(overrides)
    except Exception as error:
        found = override_errors(overrides, error=error, several="several values, where one is wanted", whole=False)
        if not found:
            raise
        typed = {f"data={word[7:]}": word for word in words if word.startswith("source=")}
        for translated, word in typed.items():
            found = [fault.replace(translated, word, 1) for fault in found]
        raise UserError(error_text(found)) from error


def _module(config: Any) -> MusicData:
    """The data module of a composed config, checked as in training; the other groups do not matter here."""
    from omegaconf import OmegaConf

    from etude.data import datamodule  # heavy: torch and lightning

    plain: dict[str, Any] = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "feature")}
    if faults := [fault for key, node in plain.items() for fault in node_problems(key, node)]:
        raise UserError("\n".join(faults))
    return datamodule.build_datamodule({**plain, "seed": 0})


def _translate(words: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    """Return the overrides of Hydra, the settings of the source, and the options of the preparation."""
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} | {"outputs"}
    others, own = options.split_options(words, OPTIONS)
    overrides: list[str] = []
    settings: dict[str, str] = {}
    for word in others:
        key, value = options.split_pair(word)
        if key == "source":
            overrides.insert(0, f"data={value}")
        elif key in groups or "." in key or "/" in key:
            overrides.append(word)
        else:
            settings[key] = value
    return overrides, settings, own
