"""From numbers and clips to a folder: explore.html, explore.json and the figures as PNG.

The page is one file that asks nothing of any network. Every name from the data is escaped by the template; only the
figures and the card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.audio.front import Front
from etude.results import markdown, text
from etude.results.exploration import charts, spectra
from etude.results.exploration.findings import findings
from etude.results.exploration.views import View
from etude.results.measure import save

COLUMNS = 3600  # of all images of clips together: what bounds the size of the page
MOST_ROWS = 50  # of a table of pairs or files; explore.json has them all


@dataclass(frozen=True)
class Shown:
    """A clip that the page shows.

    Args:
        id: Of the clip.
        words: What is known about it: part, group and labels, as name and value.
        view: Its frames.
    """

    id: str
    words: list[tuple[str, Any]]
    view: View


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
    import jinja2

    for old in (*folder.glob("clip-*.png"), *folder.glob("figure-*.png")):
        old.unlink()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.results"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": text.number,
        "duration": text.duration,
        "sentence": text.sentence,
        "capital": text.capital,
    }
    environment.globals |= {"plural": text.plural}
    page = environment.get_template("explore.html.j2").render(
        **facts,
        names_twice=facts["names"],
        findings=findings(facts),
        clips=_clips(folder, shown, front),
        class_figures=_class_figures(folder, facts),
        figures=_histograms(folder, facts),
        card=markdown.to_html(card),
        command=command,
        most=MOST_ROWS,
    )
    save(folder / "explore.json", json.dumps(facts, indent=1, ensure_ascii=False))
    return save(folder / "explore.html", page)


def _clips(folder: Path, shown: Sequence[Shown], front: Front) -> list[dict[str, Any]]:
    """Each clip with its drawing, and sentences in place of what could not be drawn."""
    from etude.progress import track

    limits = spectra.range_of([clip.view for clip in shown], front)
    most = max(150, COLUMNS // max(1, len(shown)))
    found = []
    for place, clip in enumerate(track(shown, len(shown), "Pictures of clips", "clips"), 1):
        drawn = spectra.drawing(clip.view, front, folder / f"clip-{place}.png", limits, most, clip.id)
        beats, seconds = clip.view.beats, clip.view.seconds
        tempo = None
        if beats is not None and len(beats) > 1:
            tempo = 60 * (len(beats) - 1) / float(beats[-1] - beats[0])
        found.append({"id": clip.id, "words": clip.words, "svg": drawn, "seconds": seconds, "tempo": tempo}
                     | {"beats": None if beats is None else len(beats), "why": clip.view.why})  # fmt: skip
    return found


def _class_figures(folder: Path, facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Caption and drawing of each label's classes, as they were and as they are."""
    found: dict[str, list[tuple[str, str]]] = {}
    for place, (name, label) in enumerate(facts["labels"].items(), 1):
        found[name] = []
        if label["before"]:
            drawn = charts.before(name, label["before"], folder / f"figure-label-{place}-before.png")
            found[name].append(("Before merging", drawn))
        drawn = charts.classes(name, label, folder / f"figure-label-{place}.png")
        found[name].append(("After merging" if label["before"] else "", drawn))
    return found


def _histograms(folder: Path, facts: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Name, numbers and drawing of lengths, loudness and each scalar; no drawing where nothing is known or varies."""
    found = []
    rows = [("length", facts["lengths"], "length"), ("RMS level", facts["loudness"], "loudness")]
    rows += [(name, scalar, f"scalar-{k}") for k, (name, scalar) in enumerate(facts["scalars"].items(), 1)]
    for name, numbers, stem in rows:
        unit = numbers.get("unit") or f"range {numbers['low']:g} to {numbers['high']:g}" if "low" in numbers else ""
        least = 0.01 * numbers["max"] if stem == "length" and numbers["n"] else 0.0  # clips cut alike differ by a frame
        varies = numbers.get("n") and numbers["max"] - numbers["min"] > least
        path = folder / f"figure-{stem}.png"
        found.append((name, numbers, charts.histogram(name, numbers, unit, path) if varies else ""))
    return found
