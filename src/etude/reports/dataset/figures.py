"""Figures of the dataset page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.data.partition import SPLITS, UNUSED
from etude.files.atomic import remove
from etude.files.progress import track
from etude.reports import spectrogram
from etude.reports.clip_frames import ClipView
from etude.reports.svg import Colours, draw_grid, escape_label, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_CLASSES = 40  # classes in a figure; the table contains all
MAX_COLUMNS = 3600  # total of image columns over all clips, to limit the size of the page
BAR_STYLES = {"train": ("network", ""), "val": ("constant", "...."), "test": ("linear", "////"), UNUSED: ("rule", "")}
SPLIT_LABELS = {UNUSED: "unused"}


@dataclass(frozen=True)
class ShownClip:
    """Clip with its frames on the dataset page.

    Args:
        id: Id of the clip.
        fields: Names and values of the targets, group and split of the clip.
        view: Frames of the clip.
    """

    id: str
    fields: list[tuple[str, Any]]
    view: ClipView


def clear_figures(folder: Path) -> None:
    """Remove the figures of an earlier call for the same collection."""
    for path in (*folder.glob("clip-*.png"), *folder.glob("figure-*.png")):
        remove(path)


def clip_figures(folder: Path, clips: Sequence[ShownClip], front: FrontEnd) -> list[dict[str, Any]]:
    """Return the figure of each clip with its beats, and the reasons for missing frames."""
    limits = spectrogram.decibel_range([clip.view for clip in clips], front)
    max_columns = max(150, MAX_COLUMNS // max(1, len(clips)))
    result = []
    for number, clip in enumerate(track(clips, len(clips), "Figures of clips", "clips"), 1):
        view, beats = clip.view, clip.view.beats
        svg = spectrogram.draw_clip(view, front, folder / f"clip-{number}.png", limits, max_columns, clip.id)
        entry = {"id": clip.id, "fields": clip.fields, "svg": svg, "seconds": view.seconds, "reasons": view.reasons}
        count = None if beats is None else len(beats)
        tempo = 60 * (len(beats) - 1) / float(beats[-1] - beats[0]) if beats is not None and len(beats) > 1 else None
        result.append(entry | {"beats": count, "tempo": tempo, "by_beat": "beat" in view.frames})
    return result


def class_figures(folder: Path, facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return captions and figures of the classes of each label, before and after merging."""
    figures: dict[str, list[tuple[str, str]]] = {}
    for number, (name, label) in enumerate(facts["labels"].items(), 1):
        figures[name] = []
        if label["before_merging"]:
            path = folder / f"figure-label-{number}-before.png"
            svg = unmerged_class_chart(name, label["before_merging"], path)
            figures[name].append(("Before merging" + first_classes(len(label["before_merging"])), svg))
        svg = class_chart(name, label, folder / f"figure-label-{number}.png")
        selection = first_classes(len(label["classes"]))
        title = "After merging" if label["before_merging"] else "Classes" if selection else ""
        figures[name].append((title + selection, svg))
    return figures


def histogram_figures(folder: Path, facts: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return names, statistics and histograms of lengths, loudness and scalars. Constant values have no histogram."""
    figures = []
    rows = [("length", facts["lengths"], "length"), ("RMS level", facts["loudness"], "loudness")]
    rows += [(name, scalar, f"scalar-{k}") for k, (name, scalar) in enumerate(facts["scalars"].items(), 1)]
    for name, statistics, stem in rows:
        unit = statistics.get("unit", "range {:g} to {:g}".format(*statistics.get("range", (0, 0))))
        # clips that are cut to the same length can differ by a frame
        tolerance = 0.01 * statistics["max"] if stem == "length" and statistics["n"] else 0.0
        varies = statistics.get("n") and statistics["max"] - statistics["min"] > tolerance
        path = folder / f"figure-{stem}.png"
        figures.append((name, statistics, histogram_chart(name, statistics, unit, path) if varies else ""))
    return figures


def class_chart(name: str, label: dict[str, Any], path: Path) -> str:
    """Draw the number of clips of each class as bars, with one colour for each split.

    Args:
        name: Name of the label.
        label: Counts of the label, as returned by `statistics.label_counts`.
        path: Path of the PNG.

    Returns:
        SVG.
    """
    rows = label["classes"][:MAX_CLASSES]
    splits = [split for split in (*SPLITS, UNUSED) if split in rows[0]["splits"]]

    def draw(figure: Figure, colours: Colours) -> None:
        axes = figure.add_subplot()
        y, left = np.arange(len(rows)), np.zeros(len(rows))
        for split in splits or ["all"]:
            role, hatch = BAR_STYLES.get(split, ("network", ""))
            width = np.array([row["splits"][split] if splits else row["clips"] for row in rows], dtype=float)
            axes.barh(y, width, 0.72, left, color=colours[role], edgecolor=colours["paper"], linewidth=0.8,
                      hatch=hatch, label=SPLIT_LABELS.get(split, split))  # fmt: skip
            left += width
        _label_bars(figure, colours, [(row["class"], row["clips"]) for row in rows], legend=bool(splits))

    by_split = ", by split" if splits else ""
    selection = first_classes(len(label["classes"]))
    description = f"Clips of each class of {name}{by_split}{selection}; the table contains the numbers."
    size = (5.2, 1.0 + 0.28 * len(rows) + 0.3 * bool(splits))
    return save_figure(draw, path, size, description, f"{name}: clips of each class{selection or by_split}")


def unmerged_class_chart(name: str, counts: dict[str, int], path: Path) -> str:
    """Draw the number of clips of each class before classes were merged, from the largest.

    Args:
        name: Name of the label.
        counts: Number of clips by class.
        path: Path of the PNG.

    Returns:
        SVG.
    """
    rows = sorted(counts.items(), key=lambda row: -row[1])[:MAX_CLASSES]

    def draw(figure: Figure, colours: Colours) -> None:
        figure.add_subplot().barh(np.arange(len(rows)), [count for _, count in rows], 0.72, color=colours["group-7"])
        _label_bars(figure, colours, rows, legend=False)

    selection = first_classes(len(counts))
    description = f"Clips of each class of {name} before merging{selection}; the table contains the numbers."
    title = f"{name}: clips of each class before merging{selection}"
    return save_figure(draw, path, (5.2, 1.0 + 0.28 * len(rows)), description, title)


def first_classes(count: int) -> str:
    """Return a clause on how many of `count` classes a figure shows, or "" if it shows all."""
    return f", the first {MAX_CLASSES} of {count}" if count > MAX_CLASSES else ""


def histogram_chart(name: str, statistics: dict[str, Any], unit: str, path: Path) -> str:
    """Draw a histogram of values with their mean.

    Args:
        name: Name of the values.
        statistics: Histogram of the values, as returned by `statistics.histogram`.
        unit: Unit of the values.
        path: Path of the PNG.

    Returns:
        SVG.
    """

    def draw(figure: Figure, colours: Colours) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        counts, edges = statistics["counts"], statistics["edges"]
        axes.stairs(counts, edges, fill=True, color=colours["network"], linewidth=0)
        for edge, count in zip(edges[1:-1], counts[1:], strict=True):  # a gap between bars
            axes.plot([edge, edge], [0, max(count, 0)], color=colours["paper"], linewidth=0.8)
        axes.axvline(statistics["mean"], color=colours["ink"], linewidth=1, linestyle="--")
        axes.annotate("mean", (statistics["mean"], 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=10)
        axes.set(xlabel=f"{escape_label(name)} ({unit})", ylabel="clips", xlim=(edges[0], edges[-1]))
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        draw_grid(axes, colours, "y")
        axes.tick_params(axis="x", pad=6)  # otherwise the zeros of both axes overlap

    values = f"from {statistics['min']:.3g} to {statistics['max']:.3g}, mean {statistics['mean']:.3g}"
    description = f"{name} in {unit}: {statistics['n']} values {values}."
    return save_figure(draw, path, (3.9, 2.6), description, f"{name}, n = {statistics['n']}")


def _label_bars(figure: Figure, colours: Colours, rows: list[tuple[str, int]], legend: bool) -> None:
    """Write the name of each class beside its bar and the count at the end of the bar."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.axes[0]
    axes.set_yticks(np.arange(len(rows)), [escape_label(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    largest = max(count for _, count in rows) or 1
    axes.set_xlim(0, 1.12 * largest)
    for y, (_, count) in enumerate(rows):
        axes.text(count + 0.015 * largest, y, f"{count:,}", va="center", fontsize=10, color=colours["ink"])
    axes.set_xlabel("clips")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines["left"].set_visible(False)
    draw_grid(axes, colours, "x")
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=10,
                    labelcolor=colours["ink"], handlelength=1.6, columnspacing=1.4, borderaxespad=0.2)  # fmt: skip
