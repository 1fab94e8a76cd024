"""Command `etude explore`: a page about a collection before training on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.config import options
from etude.data.from_overrides import datamodule_from_overrides

HELP = """explore: look before you train. Clips as pictures, labels as counts, copies and leaks in sentences; one page.

  python scripts/explore.py data=demo                         four random clips of different classes
  python scripts/explore.py source=folder path=music count=8 seed=1
  python scripts/explore.py data=demo clips=<id>,<id>         these clips

  clips=<id,id,...> | count=<1 to 24> seed=<whole number>     which clips are shown
  out=<folder>                                                outputs/explore; a folder per collection is made in it

All other words are those of prepare, and the pack is made when it is not there: python scripts/prepare.py --help"""


OPTIONS: options.Options = {
    "clips": ("clips", str),
    "count": ("count", options.integer(1, 24)),
    "seed": ("seed", options.integer(0)),
    "out": ("out", options.path),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of a collection.

    Args:
        argv: The words of `prepare`, and clips, count, seed, out.

    Returns:
        0; 2 if the command or the data have to be corrected; 130 if interrupted.
    """

    def work(words: list[str]) -> list[Path]:
        others, values = options.split_options(words, OPTIONS)
        from etude.reports.dataset.page import ExploreOptions, explore  # heavy: numpy

        module, _ = datamodule_from_overrides(others)
        return [explore(module, ExploreOptions(**values), shlex.join(["python", "scripts/explore.py", *words]))]

    return run_command(argv, HELP, work, "name another folder with out=<folder> or data.packs=<folder>")
