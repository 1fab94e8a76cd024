"""A few clips of the run's own test part, to begin with: those whose sound is at hand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.demo.library import members
from etude.demo.near import Near
from etude.errors import UserError
from etude.results.exploration import choose
from etude.results.exploration.views import files

if TYPE_CHECKING:
    from etude.inspection.load import Run

log = logging.getLogger(__name__)
COUNT = 3


@dataclass(frozen=True)
class Example:
    """A clip.

    Args:
        name: What it is called.
        path: Its sound.
        card: What the page says of it: whose it is, its labels, and a player.
    """

    name: str
    path: Path
    card: dict[str, Any]


def examples(run: Run | None, near: Near) -> list[Example]:
    """Clips of the test part, of different classes first; none where their sound is not at hand.

    Args:
        run: The run; none for a checkpoint alone.
        near: Which knows what is said of a clip.
    """
    if run is None or not near.library.files:
        return []
    try:
        table = run.pack.index.iloc[members(run, "test")].reset_index(drop=True)
        known = files(run.data.source)
    except (UserError, OSError) as error:
        log.warning("no examples: %s", error)
        return []
    found: list[Example] = []
    for row in choose.random(table, near.columns.targets, 3 * COUNT, 0):
        about = table.iloc[row]
        file = known.get(str(about["id"]))
        card = near.card(about, file)
        if file is not None and card["sound"]:
            found.append(Example(card["credit"].get("title") or card["id"], file.under(near.front), card))
        if len(found) == COUNT:
            break
    return found
