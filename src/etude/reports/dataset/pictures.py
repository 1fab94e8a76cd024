"""Charts and pictures of the dataset page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.data.splits import SPLITS, UNUSED
from etude.files.atomic import remove
from etude.files.progress import track
from etude.reports import spectrogram
from etude.reports.clip_frames import ClipView
from etude.reports.svg import Colours, grid, picture, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST = 40  # classes in a picture; the table has them all
COLUMNS = 3600  # of all images of clips together, which bounds the size of the page
LOOK = {"train": ("network", ""), "val": ("constant", "...."), "test": ("linear", "////"), UNUSED: ("rule", "")}
SAID = {UNUSED: "left out"}


@dataclass(frozen=True)
class ShownClip:
    """Clip that the page shows.

    Args:
        id: Of the clip.
        words: Its split, group and labels, as name and value.
        view: Its frames.
    """

    id: str
    words: list[tuple[str, Any]]
    view: ClipView


def clear_figures(folder: Path) -> None:
    """Remove the figures of an earlier call for the same collection."""
    for old in (*folder.glob("clip-*.png"), *folder.glob("figure-*.png")):
        remove(old)


def clip_figures(folder: Path, shown: Sequence[ShownClip], front: FrontEnd) -> list[dict[str, Any]]:
    """Return each clip with its drawing, its beats, and sentences in place of missing drawings."""
    limits = spectrogram.range_of([clip.view for clip in shown], front)
    most = max(150, COLUMNS // max(1, len(shown)))
    found = []
    for place, clip in enumerate(track(shown, len(shown), "Pictures of clips", "clips"), 1):
        view, beats = clip.view, clip.view.beats
        drawn = spectrogram.drawing(view, front, folder / f"clip-{place}.png", limits, most, clip.id)
        said = {"id": clip.id, "words": clip.words, "svg": drawn, "seconds": view.seconds, "why": view.why}
        count = None if beats is None else len(beats)
        tempo = 60 * (len(beats) - 1) / float(beats[-1] - beats[0]) if beats is not None and len(beats) > 1 else None
        found.append(said | {"beats": count, "tempo": tempo, "by_beat": "beat" in view.frames})
    return found


def class_figures(folder: Path, facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return caption and drawing of each label's classes, before and after merging."""
    found: dict[str, list[tuple[str, str]]] = {}
    for place, (name, label) in enumerate(facts["labels"].items(), 1):
        found[name] = []
        if label["before"]:
            drawn = unmerged_class_chart(name, label["before"], folder / f"figure-label-{place}-before.png")
            found[name].append(("Before merging" + first_of(len(label["before"])), drawn))
        drawn = class_chart(name, label, folder / f"figure-label-{place}.png")
        shown = first_of(len(label["classes"]))
        found[name].append((("After merging" if label["before"] else "Classes" if shown else "") + shown, drawn))
    return found


def histogram_figures(folder: Path, facts: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return name, numbers and drawing of lengths, loudness and scalars; no drawing where nothing varies."""
    found = []
    rows = [("length", facts["lengths"], "length"), ("RMS level", facts["loudness"], "loudness")]
    rows += [(name, scalar, f"scalar-{k}") for k, (name, scalar) in enumerate(facts["scalars"].items(), 1)]
    for name, numbers, stem in rows:
        unit = numbers["unit"] if "unit" in numbers else "range {:g} to {:g}".format(*numbers.get("range", (0, 0)))
        least = 0.01 * numbers["max"] if stem == "length" and numbers["n"] else 0.0  # clips cut alike differ by a frame
        varies = numbers.get("n") and numbers["max"] - numbers["min"] > least
        path = folder / f"figure-{stem}.png"
        found.append((name, numbers, histogram_chart(name, numbers, unit, path) if varies else ""))
    return found


def class_chart(name: str, label: dict[str, Any], path: Path) -> str:
    """Draw the clips of each class as bars, one colour for each split.

    Args:
        name: The label.
        label: As `statistics.label_counts` returns it.
        path: Where the PNG goes.
    """
    rows = label["classes"][:MOST]
    seen = [part for part in (*SPLITS, UNUSED) if part in rows[0]["parts"]]

    def draw(figure: Figure, colours: Colours) -> None:
        axes = figure.add_subplot()
        y, left = np.arange(len(rows)), np.zeros(len(rows))
        for part in seen or ["all"]:
            role, hatch = LOOK.get(part, ("network", ""))
            width = np.array([row["parts"][part] if seen else row["clips"] for row in rows], dtype=float)
            axes.barh(y, width, 0.72, left, color=colours[role], edgecolor=colours["paper"], linewidth=0.8,
                      hatch=hatch, label=SAID.get(part, part))  # fmt: skip
            left += width
        _finish(figure, colours, [(row["class"], row["clips"]) for row in rows], legend=bool(seen))

    split = ", by part of the split" if seen else ""
    first = first_of(len(label["classes"]))
    about = f"Clips of each class of {name}{split}{first}; the table has the numbers."
    size = (5.2, 1.0 + 0.28 * len(rows) + 0.3 * bool(seen))
    return picture(draw, path, size, about, f"{name}: clips of each class{first or split}")


def unmerged_class_chart(name: str, counts: dict[str, int], path: Path) -> str:
    """Draw the clips of each class before classes were merged, the largest first."""
    rows = sorted(counts.items(), key=lambda row: -row[1])[:MOST]

    def draw(figure: Figure, colours: Colours) -> None:
        figure.add_subplot().barh(np.arange(len(rows)), [count for _, count in rows], 0.72, color=colours["group-7"])
        _finish(figure, colours, rows, legend=False)

    first = first_of(len(counts))
    about = f"Clips of each class of {name} before classes were merged{first}; the table has the numbers."
    title = f"{name}: clips of each class before merging{first}"
    return picture(draw, path, (5.2, 1.0 + 0.28 * len(rows)), about, title)


def first_of(count: int) -> str:
    """Return how many of so many classes a picture shows; "" when it shows all."""
    return f", the first {MOST} of {count}" if count > MOST else ""


def histogram_chart(name: str, found: dict[str, Any], unit: str, path: Path) -> str:
    """Draw the distribution of values, with their mean marked.

    Args:
        name: What was measured.
        found: As `statistics.histogram` returns it.
        unit: Of the values.
        path: Where the PNG goes.
    """

    def draw(figure: Figure, colours: Colours) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        axes.stairs(found["counts"], found["edges"], fill=True, color=colours["network"], linewidth=0)
        for edge, count in zip(found["edges"][1:-1], found["counts"][1:], strict=True):  # a gap between bars
            axes.plot([edge, edge], [0, max(count, 0)], color=colours["paper"], linewidth=0.8)
        axes.axvline(found["mean"], color=colours["ink"], linewidth=1, linestyle="--")
        axes.annotate("mean", (found["mean"], 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=10)
        axes.set(xlabel=f"{plain(name)} ({unit})", ylabel="clips", xlim=(found["edges"][0], found["edges"][-1]))
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        grid(axes, colours, "y")
        axes.tick_params(axis="x", pad=6)  # else both zeros touch

    ends = f"from {found['min']:.3g} to {found['max']:.3g}, mean {found['mean']:.3g}"
    about = f"{name} in {unit}: {found['n']} values {ends}."
    return picture(draw, path, (3.9, 2.6), about, f"{name}, n = {found['n']}")


def _finish(figure: Figure, colours: Colours, rows: list[tuple[str, int]], legend: bool) -> None:
    """Put names at the left and the count at the end of each bar."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.axes[0]
    axes.set_yticks(np.arange(len(rows)), [plain(kind) for kind, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    most = max(count for _, count in rows) or 1
    axes.set_xlim(0, 1.12 * most)
    for y, (_, count) in enumerate(rows):
        axes.text(count + 0.015 * most, y, f"{count:,}", va="center", fontsize=10, color=colours["ink"])
    axes.set_xlabel("clips")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines["left"].set_visible(False)
    grid(axes, colours, "x")
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=10,
                    labelcolor=colours["ink"], handlelength=1.6, columnspacing=1.4, borderaxespad=0.2)  # fmt: skip
