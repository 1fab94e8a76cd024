"""Command `etude prepare`: the pack of a collection, without training on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.config import options
from etude.config.compose import conf_dir
from etude.config.validation import signature
from etude.data.from_overrides import prepare

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


TARGET = re.compile(r"^source:\n  _target_: (etude\.data\.sources\.\w+\.collection)$", re.MULTILINE)
OPTIONS: options.Options = {"verify": ("verify", options.boolean)}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pack of a configured collection; `data=` and `feature=` as in training.

    Args:
        argv: Hydra overrides, or the source's own settings by their bare names.

    Returns:
        0; 2 if the config or the data have to be corrected; 130 if interrupted.
    """

    def work(words: list[str]) -> list[Path]:
        others, values = options.split_options(words, OPTIONS)
        prepare(others, **values)
        return []

    return run_command(argv, _help, work, "name another folder with data.packs=<folder>", ADVICE)


def _help() -> str:
    """Return the help with the sources, their settings, and the front ends."""
    sources = sorted((conf_dir() / "data").glob("*.yaml"))
    fronts = sorted(path.stem for path in (conf_dir() / "feature" / "front").glob("*.yaml"))
    named: dict[str, str] = {}  # target to option; of several options the one that is called like the module
    for path in sources:
        if found := TARGET.search(path.read_text("utf-8")):
            named[found[1]] = path.stem if f".{path.stem}." in found[1] else named.get(found[1], path.stem)
    known = {option: signature(target) for target, option in named.items()}
    settings = [
        f"source={option:<8} {' '.join(f'{key}=...' for key in found.parameters)}"
        for option, found in sorted(known.items())
        if found and found.parameters
    ]
    return HELP.format(
        options=", ".join(path.stem for path in sources),
        settings="\n  ".join(settings),
        fronts=", ".join(fronts),
    )
