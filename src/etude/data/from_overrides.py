"""Data module of the overrides of the commands prepare and explore."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from etude.config.compose import conf_dir, open_hydra
from etude.config.overrides import quote_value, split_pair
from etude.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from etude.data.datamodule import MusicData


def datamodule_from_overrides(words: list[str]) -> tuple[MusicData, list[str]]:
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
    with open_hydra() as hydra:
        source = _composed(hydra, overrides, words).data.source
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
        config = _composed(hydra, overrides, words)
    try:
        if missing := sorted(OmegaConf.missing_keys(config.data)):
            bare = {key: key.removeprefix("data.source.") for key in missing}
            said = (f"{key}: needs a value; add {key if '.' in word else word}=..." for key, word in bare.items())
            raise UserError("\n".join(said))
        module = _module(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'the config'}: {str(error).splitlines()[0]}") from error
    module.rules = replace(module.rules, **own)
    return module, overrides


def _annotations(target: str) -> dict[str, str]:
    """Return the types of a source's settings; none where its code cannot be read."""
    from etude.config.validation import signature

    try:
        found = signature(target)
    except LookupError:
        return {}
    return found.takes if found else {}


def _composed(hydra: Hydra, overrides: list[str], words: list[str]) -> Any:
    """The config of some overrides, or a sentence for each that is wrong, as this command would have it."""
    from hydra.types import RunMode

    from etude.config.override_errors import error_text, override_errors

    try:
        return hydra.compose_config("train", list(overrides), RunMode.RUN)
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

    from etude.config.validation import node_problems
    from etude.data.datamodule import build_datamodule

    plain: dict[str, Any] = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "feature")}
    if faults := [fault for key, node in plain.items() for fault in node_problems(key, node)]:
        raise UserError("\n".join(faults))
    return build_datamodule({**plain, "seed": 0})


def _translate(words: list[str]) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    """What Hydra is told, what the source is told, and what is this command's own."""
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} | {"outputs"}
    overrides: list[str] = []
    settings: dict[str, str] = {}
    own: dict[str, Any] = {}
    for word in words:
        key, value = split_pair(word)
        if key == "workers":
            if not value.isdigit() or not int(value):
                raise UserError(f"workers={value}: must be a whole number of at least 1")
            own["workers"] = int(value)
        elif key == "retry":
            if value.lower() not in ("true", "false"):
                raise UserError(f"retry={value}: must be true or false")
            own["retry"] = value.lower() == "true"
        elif key == "ray":
            own["ray"] = value
        elif key == "source":
            overrides.insert(0, f"data={value}")
        elif key in groups or "." in key or "/" in key:
            overrides.append(word)
        else:
            settings[key] = value
    return overrides, settings, own
