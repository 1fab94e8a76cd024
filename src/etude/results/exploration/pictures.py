"""All pictures of a page, with what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.audio.front import Front
from etude.files.atomic import remove
from etude.progress import track
from etude.results.exploration import charts, spectra
from etude.results.exploration.views import View

COLUMNS = 3600  # of all images of clips together: what bounds the size of the page


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


def clear(folder: Path) -> None:
    """Take away the figures of an earlier look at the same collection."""
    for old in (*folder.glob("clip-*.png"), *folder.glob("figure-*.png")):
        remove(old)


def clips(folder: Path, shown: Sequence[Shown], front: Front) -> list[dict[str, Any]]:
    """Each clip with its drawing, its beats, and sentences in place of what could not be drawn."""
    limits = spectra.range_of([clip.view for clip in shown], front)
    most = max(150, COLUMNS // max(1, len(shown)))
    found = []
    for place, clip in enumerate(track(shown, len(shown), "Pictures of clips", "clips"), 1):
        view, beats = clip.view, clip.view.beats
        drawn = spectra.drawing(view, front, folder / f"clip-{place}.png", limits, most, clip.id)
        said = {"id": clip.id, "words": clip.words, "svg": drawn, "seconds": view.seconds, "why": view.why}
        count = None if beats is None else len(beats)
        tempo = 60 * (len(beats) - 1) / float(beats[-1] - beats[0]) if beats is not None and len(beats) > 1 else None
        found.append(said | {"beats": count, "tempo": tempo, "by_beat": "beat" in view.frames})
    return found


def classes(folder: Path, facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Caption and drawing of each label's classes, as they were and as they are."""
    found: dict[str, list[tuple[str, str]]] = {}
    for place, (name, label) in enumerate(facts["labels"].items(), 1):
        found[name] = []
        if label["before"]:
            drawn = charts.before(name, label["before"], folder / f"figure-label-{place}-before.png")
            found[name].append(("Before merging" + charts.first_of(len(label["before"])), drawn))
        drawn = charts.classes(name, label, folder / f"figure-label-{place}.png")
        shown = charts.first_of(len(label["classes"]))
        found[name].append((("After merging" if label["before"] else "Classes" if shown else "") + shown, drawn))
    return found


def histograms(folder: Path, facts: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Name, numbers and drawing of lengths, loudness and each scalar; no drawing where nothing is known or varies."""
    found = []
    rows = [("length", facts["lengths"], "length"), ("RMS level", facts["loudness"], "loudness")]
    rows += [(name, scalar, f"scalar-{k}") for k, (name, scalar) in enumerate(facts["scalars"].items(), 1)]
    for name, numbers, stem in rows:
        unit = numbers["unit"] if "unit" in numbers else "range {:g} to {:g}".format(*numbers.get("range", (0, 0)))
        least = 0.01 * numbers["max"] if stem == "length" and numbers["n"] else 0.0  # clips cut alike differ by a frame
        varies = numbers.get("n") and numbers["max"] - numbers["min"] > least
        path = folder / f"figure-{stem}.png"
        found.append((name, numbers, charts.histogram(name, numbers, unit, path) if varies else ""))
    return found
