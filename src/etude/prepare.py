"""The command that makes a pack without training on it: `etude prepare source=folder path=music`."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from etude.build import conf_dir
from etude.errors import UserError

log = logging.getLogger(__name__)
HELP = """prepare: make the pack of a collection, the frames of all its clips in one file.

  python scripts/prepare.py source=folder path=music                 a folder per class
  python scripts/prepare.py source=table table=clips.csv audio=wavs  any table of clips
  python scripts/prepare.py data=demo feature.sync=beat              groups and values as in training

  source=<{options}>
  {settings}
  feature=<view> feature.sync=<none|beat> feature/front=<{fronts}> data.packs=<folder>
  workers=<processes> retry=true (what was skipped) ray=<local | address of a cluster>

A word without a dot that is none of these is the source's own. Interrupted at any moment, the same line goes on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pack of a configured collection; `data=` and `feature=` as in training.

    Args:
        argv: Hydra overrides, or the source's own settings by their bare names.

    Returns:
        0; 2 when the config or the data have to be mended; 130 when interrupted.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        print(_help())  # noqa: T201
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        overrides, settings, own = _translate(words)
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            known = list(compose("train", overrides=overrides).data.source.keys())
            for key in settings:
                if key not in known:
                    near = get_close_matches(key, known, n=1) or [", ".join(k for k in known if k != "_target_")]
                    raise UserError(f"{key}: no such setting of this source; there is {near[0] or 'none'}")
            overrides += [f"data.source.{key}={_quoted(value)}" for key, value in settings.items()]
            config = compose("train", overrides=overrides)
        if missing := sorted(OmegaConf.missing_keys(config.data)):
            bare = {key: key.removeprefix("data.source.") for key in missing}
            said = (f"{key}: needs a value; add {key if '.' in word else word}=..." for key, word in bare.items())
            raise UserError("\n".join(said))
        module = _module(config)
        module.rules = replace(module.rules, **own)
        pack = module.source.pack(module.feature.front, module.rules)
    except KeyboardInterrupt:
        log.warning("interrupted; the same command goes on from here")
        return 130
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    hours = f"{len(pack.index)} clips, {int(pack.lengths.sum()):,} frames"
    log.info("%s%s", hours, f" in {pack.folder}" if hasattr(pack, "folder") else "")
    log.info("train with: python train.py %s", shlex.join(overrides))
    return 0


def _module(config: Any) -> Any:
    """The data module of a composed config, checked as in training; the other groups do not matter here."""
    from omegaconf import OmegaConf

    from etude import build
    from etude.schema import node_problems

    plain: dict[str, Any] = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "feature")}
    if faults := [fault for key, node in plain.items() for fault in node_problems(key, node)]:
        raise UserError("\n".join(faults))
    return build.data({**plain, "seed": 0})


def _translate(words: list[str]) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    """What Hydra is told, what the source is told, and what is this command's own."""
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} | {"outputs"}
    overrides: list[str] = []
    settings: dict[str, str] = {}
    own: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        if not equals:
            raise UserError(f"{word}: is not of the form name=value; --help shows some")
        if key == "workers":
            if not value.isdigit() or not int(value):
                raise UserError(f"workers={value}: must be a whole number of at least 1")
            own["workers"] = int(value)
        elif key == "retry":
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


def _quoted(value: str) -> str:
    """A value as Hydra reads it: lists and mappings are its own grammar, anything else is a text, spaces and all."""
    if value[:1] in ("[", "{", "'", '"') or value.lower() in ("null", "true", "false", "???"):
        return value
    escaped = value.replace("'", "\\'")
    return value if re.fullmatch(r"[\w./-]+", value) else f"'{escaped}'"


def _help() -> str:
    from etude.signature import signature

    sources = sorted(path.stem for path in (conf_dir() / "data").glob("*.yaml"))
    fronts = sorted(path.stem for path in (conf_dir() / "feature" / "front").glob("*.yaml"))
    settings = []
    for name in sources:
        known = signature(f"etude.data.sources.{name}.collection") if _is_source(name) else None
        if known and known.takes:
            settings.append(f"source={name:<8} {' '.join(f'{key}=...' for key in known.takes)}")
    return HELP.format(options=", ".join(sources), settings="\n  ".join(settings), fronts=", ".join(fronts))


def _is_source(name: str) -> bool:
    from pathlib import Path

    return (Path(__file__).parent / "data" / "sources" / f"{name}.py").is_file()
