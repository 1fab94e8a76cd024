"""The command that makes a pack without training on it: `etude prepare source=folder path=music`."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence

from etude.cli.runner import guard_command
from etude.config.compose import conf_dir
from etude.data.from_overrides import datamodule_from_overrides

log = logging.getLogger(__name__)
ADVICE = "; the same command goes on from here"
HELP = """prepare: make the pack of a collection, the frames of all its clips in one file.

  python scripts/prepare.py source=folder path=music                 a folder per class
  python scripts/prepare.py source=table table=clips.csv audio=wavs  any table of clips
  python scripts/prepare.py data=demo feature.sync=beat              groups and values as in training

  source=<{options}>
  {settings}
  feature=<view> feature.sync=<none|beat> feature/front=<{fronts}> data.packs=<folder>
  workers=<processes> retry=true (what was skipped) ray=<local | address of a cluster>
  verify=true (read the pack and tell whether a byte of it was changed)

A word without a dot that is none of these is the source's own. Interrupted at any moment, the same line goes on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pack of a configured collection; `data=` and `feature=` as in training.

    Args:
        argv: Hydra overrides, or the source's own settings by their bare names.

    Returns:
        0; 2 when the config or the data have to be mended; 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guard_command(lambda: _prepare(words), "name another folder with data.packs=<folder>", ADVICE)


def _prepare(words: list[str]) -> int:
    """Make the pack that the words of the command describe."""
    if not words or "-h" in words or "--help" in words:
        print(_help())  # noqa: T201
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module, overrides = datamodule_from_overrides([word for word in words if word != "verify=true"])
    pack = module.open_pack()
    if "verify=true" in words and hasattr(pack, "verify"):
        pack.verify()
        log.info("every clip is, byte for byte, what was written")
    hours = f"{len(pack.index)} clips, {int(pack.lengths.sum()):,} frames"
    log.info("%s%s", hours, f" in {pack.folder}" if hasattr(pack, "folder") else "")
    log.info("train with: python train.py %s", shlex.join(overrides))
    return 0


def _help() -> str:
    from etude.config.validation import signature

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

    return (Path(__file__).parents[1] / "data" / "sources" / f"{name}.py").is_file()
