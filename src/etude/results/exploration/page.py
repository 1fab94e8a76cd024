"""From numbers and clips to a folder: explore.html, explore.json and the figures as PNG.

The page is one file that asks nothing of any network. Every name from the data is escaped by the template; only the
figures and the card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.audio.front import Front
from etude.files.atomic import write_text
from etude.results import markdown
from etude.results.exploration import pictures
from etude.results.exploration.findings import findings
from etude.results.exploration.pictures import Shown
from etude.results.template import template

MOST_ROWS = 50  # of a table of pairs or files; explore.json has them all


def write(folder: Path, facts: dict[str, Any], shown: Sequence[Shown], front: Front, command: str, card: str) -> Path:
    """Write the page and what lies beside it.

    Args:
        folder: An existing folder; figures of an earlier look at the same collection are replaced.
        facts: As `facts.gather` returns them, with `skipped`: ids and reasons.
        shown: Clips that are shown.
        front: Parameters of their frames.
        command: That made this.
        card: The data card, in Markdown.

    Returns:
        Path of the page.
    """
    pictures.clear(folder)
    page = template("explore.html.j2").render(
        **facts,
        names_twice=facts["names"],
        findings=findings(facts),
        clips=pictures.clips(folder, shown, front),
        class_figures=pictures.classes(folder, facts),
        figures=pictures.histograms(folder, facts),
        card=markdown.to_html(card),
        command=command,
        most=MOST_ROWS,
    )
    write_text(folder / "explore.json", json.dumps(facts, indent=1, ensure_ascii=False))
    return write_text(folder / "explore.html", page)
