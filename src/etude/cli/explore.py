"""The command that looks at a collection before anything is trained on it: `etude explore data=demo`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.cli import options
from etude.cli.runner import run_command
from etude.data.from_overrides import datamodule_from_overrides
from etude.errors import UserError

if TYPE_CHECKING:
    from etude.reports.dataset.page import ExploreOptions


MOST = 24  # clips on one page
HELP = """explore: look before you train. Clips as pictures, labels as counts, copies and leaks in sentences; one page.

  python scripts/explore.py data=demo                         four random clips of different classes
  python scripts/explore.py source=folder path=music count=8 seed=1
  python scripts/explore.py data=demo clips=<id>,<id>         these clips

  clips=<id,id,...> | count=<1 to 24> seed=<whole number>     which clips are shown
  out=<folder>                                                outputs/explore; a folder per collection is made in it

All other words are those of prepare, and the pack is made when it is not there: python scripts/prepare.py --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of a collection.

    Args:
        argv: The words of `prepare`, and clips, count, seed, out.

    Returns:
        0; 2 when the command or the data have to be mended; 130 when interrupted.
    """
    return run_command(argv, HELP, _work, "name another folder with out=<folder> or data.packs=<folder>")


def _work(words: list[str]) -> list[Path]:
    """The page of a collection."""
    from etude.reports.dataset.page import explore

    wish, rest = _own(words)
    return [explore(datamodule_from_overrides(rest)[0], wish, shlex.join(["python", "scripts/explore.py", *words]))]


def _own(words: list[str]) -> tuple[ExploreOptions, list[str]]:
    """What this command is told, and what prepare's words are."""
    from etude.reports.dataset.page import ExploreOptions

    own: dict[str, Any] = {}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        if key == "clips":
            own["clips"] = value
        elif key in ("count", "seed"):
            if not (value.isascii() and value.isdigit()) or (key == "count" and not 1 <= int(value) <= MOST):
                must = f"a whole number from 1 to {MOST}" if key == "count" else "a whole number of at least 0"
                raise UserError(f"{word}: must be {must}")
            own[key] = int(value)
        elif key == "out":
            own["out"] = options.path(value)
        else:
            rest.append(word)
    return ExploreOptions(**own), rest
