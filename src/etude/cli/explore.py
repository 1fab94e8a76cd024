"""Command `etude explore`, which writes a page about a collection."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.config import options
from etude.data.from_overrides import datamodule_from_overrides

HELP = """Usage: python scripts/explore.py data=<name> [OPTION=VALUE ...]
       python scripts/explore.py source=<name> [OPTION=VALUE ...]

Write a page about a collection before training: clips as images, statistics of the targets, duplicates and leakage
between splits. The pack of the collection is created if it does not exist.

Examples:
  python scripts/explore.py data=demo                           four random clips of different classes
  python scripts/explore.py source=folder path=music count=8 seed=1
  python scripts/explore.py data=demo clips=<id>,<id>           these clips

Options:
  clips=<id,id,...>   clips on the page (default: random clips)
  count=<1 to 24>     number of random clips (default: 4)
  seed=<number>       seed of the random clips (default: 0)
  out=<folder>        output folder, with a subfolder for each collection (default: outputs/explore)

All other options are the same as for prepare: python scripts/prepare.py --help"""


OPTIONS: options.Options = {
    "clips": ("clips", str),
    "count": ("count", options.integer(1, 24)),
    "seed": ("seed", options.integer(0)),
    "out": ("out", options.path),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of a collection.

    Args:
        argv: The arguments of `prepare`, and clips, count, seed, out.

    Returns:
        0; 2 if the command or the data must be corrected; 130 if interrupted.
    """

    def write_page(arguments: list[str]) -> list[Path]:
        others, values = options.split_options(arguments, OPTIONS)
        from etude.reports.dataset.page import ExploreOptions, explore  # heavy: numpy

        module, _ = datamodule_from_overrides(others)
        return [explore(module, ExploreOptions(**values), shlex.join(["python", "scripts/explore.py", *arguments]))]

    return run_command(argv, HELP, write_page, "name another folder with out=<folder> or data.packs=<folder>")
