"""Command `etude prepare`, which creates the pack of a collection without training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.config import options
from etude.config.compose import conf_dir
from etude.config.validation import signature
from etude.data.from_overrides import prepare

ADVICE = "; repeat the command to resume"
HELP = """Usage: python scripts/prepare.py source=<name> [OPTION=VALUE ...]
       python scripts/prepare.py data=<name> [OVERRIDE ...]

Create the pack of a collection, which contains the frames of all its clips, without training.

Examples:
  python scripts/prepare.py source=folder path=music                 a folder per class
  python scripts/prepare.py source=table table=clips.csv audio=wavs  a table of clips
  python scripts/prepare.py data=demo feature.sync=beat              overrides as in training

Sources and their options:
  source=<{options}>
  {settings}

Options:
  feature=<view> feature.sync=<none|beat> feature/front=<{fronts}>   frames
  data.packs=<folder>                     folder of the packs
  workers=<number>                        processes that decode
  retry=true                              try skipped clips again
  ray=<local | address of a cluster>      prepare with Ray
  verify=true                             compare the pack with its checksums

An option without a dot that is not in this list is an option of the source. To resume an interrupted preparation,
repeat the command."""


TARGET = re.compile(r"^source:\n  _target_: (etude\.data\.sources\.\w+\.collection)$", re.MULTILINE)
OPTIONS: options.Options = {"verify": ("verify", options.boolean)}


def main(argv: Sequence[str] | None = None) -> int:
    """Create the pack of a configured collection, with `data=` and `feature=` as in training.

    Args:
        argv: Hydra overrides, and options of the source by their bare names.

    Returns:
        0; 2 if the config or the data must be corrected; 130 if interrupted.
    """

    def create_pack(arguments: list[str]) -> list[Path]:
        others, values = options.split_options(arguments, OPTIONS)
        prepare(others, **values)
        return []

    return run_command(argv, _help, create_pack, "name another folder with data.packs=<folder>", ADVICE)


def _help() -> str:
    """Return the help text with the sources, their options, and the front ends."""
    sources = sorted((conf_dir() / "data").glob("*.yaml"))
    fronts = sorted(path.stem for path in (conf_dir() / "feature" / "front").glob("*.yaml"))
    names: dict[str, str] = {}  # config name by target; if several, the one equal to the module's
    for path in sources:
        if match := TARGET.search(path.read_text("utf-8")):
            names[match[1]] = path.stem if f".{path.stem}." in match[1] else names.get(match[1], path.stem)
    signatures = {name: signature(target) for target, name in names.items()}
    settings = [
        f"source={name:<8} {' '.join(f'{key}=...' for key in target_signature.parameters)}"
        for name, target_signature in sorted(signatures.items())
        if target_signature and target_signature.parameters
    ]
    return HELP.format(
        options=", ".join(path.stem for path in sources),
        settings="\n  ".join(settings),
        fronts=", ".join(fronts),
    )
