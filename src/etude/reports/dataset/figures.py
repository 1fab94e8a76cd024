"""Figures of the dataset page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.data.partition import SPLITS, UNUSED
from etude.files.atomic import remove
from etude.reports import spectrogram
from etude.reports.clip_frames import ClipView
from etude.reports.svg import Colours, draw_grid, escape_label, save_figure
from etude.system.streams import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_CLASSES = 40  # classes in a figure; the table contains all
MAX_COLUMNS = 3600  # total of image columns over all clips, to limit the size of the page
BAR_STYLES = {"train": ("network", ""), "val": ("constant", "...."), "test": ("linear", "////"), UNUSED: ("rule", "")}
EXAMPLE_COLUMNS = 420  # of each example image
EXAMPLE_ORDER = (("none", "mel"), ("beat", "mel"), ("none", "chroma"), ("beat", "chroma"))
EXAMPLE_CAPTIONS = {
    ("none", "mel"): "Log-mel spectrograms, one frame per hop",
    ("beat", "mel"): "Log-mel spectrograms, one frame per beat",
    ("none", "chroma"): "Chromagrams, one frame per hop",
    ("beat", "chroma"): "Chromagrams, one frame per beat",
}
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


def example_clips(clips: Sequence[ShownClip], label: str) -> list[ShownClip]:
    """Return the first clip and the first clip of another class. If all clips have one class, return the first two.

    Args:
        clips: Clips of the page.
        label: Name of the label that defines the classes, or "".
    """
    drawn = [clip for clip in clips if clip.view.frames]
    classes = [dict(clip.fields).get(label) for clip in drawn]
    others = [clip for clip, name in zip(drawn, classes, strict=True) if name != classes[0]]
    return [*drawn[:1], *(others or drawn[1:])[:1]]


def example_figures(folder: Path, clips: Sequence[ShownClip], front: FrontEnd, label: str) -> list[dict[str, Any]]:
    """Return the figures of the example clips: mel and chroma, each with a frame per hop and per beat.

    Args:
        folder: Folder of the page, to which each figure is also written as PNG.
        clips: Example clips.
        front: Front end of their frames.
        label: Name of the label that is shown in the titles, or "".

    Returns:
        `caption`, `svgs` of the clips, `file` name of the PNG, and `reason` for missing frames of each figure.
    """
    limits = spectrogram.decibel_range([clip.view for clip in clips], front)
    result = []
    for number, key in enumerate(EXAMPLE_ORDER, 1):
        sync, kind = key
        if kind == "chroma" and not front.n_chroma:
            continue
        views = [
            (f"{clip.id} ({value})" if (value := dict(clip.fields).get(label)) else clip.id, clip.view)
            for clip in clips
            if sync in clip.view.frames
        ]
        reason = next((clip.view.reasons[sync] for clip in clips if sync in clip.view.reasons), "")
        path = folder / f"figure-{number}-{'beat-' if sync == 'beat' else ''}{kind}.png"
        svgs = spectrogram.draw_examples(views, front, key, path, limits, EXAMPLE_COLUMNS) if views else []
        caption = EXAMPLE_CAPTIONS[key] if front.reads_sound or front.n_chroma else "Frames"
        hop = f" ({1000 * front.hop_length / front.rate:.0f} ms)" if sync == "none" and front.reads_sound else ""
        entry = {"caption": caption + hop, "has_beats": any(view.beats is not None for _, view in views)}
        result.append(entry | {"number": number, "svgs": svgs, "file": path.name, "reason": reason})
    return result


def class_figures(folder: Path, facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return captions and figures of the classes of each label, before and after merging."""
    figures: dict[str, list[tuple[str, str]]] = {}
    for number, (name, label) in enumerate(facts["labels"].items(), 1):
        figures[name] = []
        if label["before_merging"]:
            path = folder / f"figure-label-{number}-before.png"
            counts, merged = label["before_merging"], label["merged_into"]
            n_dropped = sum(merged.get(old, old) is None for old in counts)
            dropped = f": {len(counts)} classes, {n_dropped} of them dropped" if n_dropped else ""
            svg = unmerged_class_chart(name, counts, path, merged)
            figures[name].append((f"Before merging{dropped}{first_classes(len(counts))}", svg))
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


def unmerged_class_chart(
    name: str, counts: dict[str, int], path: Path, merged: Mapping[str, str | None] | None = None
) -> str:
    """Draw the number of clips of each class before classes were merged, from the largest new class.

    Each old class shows its new class, and dropped classes are last and hatched.

    Args:
        name: Name of the label.
        counts: Number of clips by class.
        path: Path of the PNG.
        merged: New class of each old class, None for a dropped class. Missing classes keep their name.

    Returns:
        SVG.
    """
    new = {old: (merged or {}).get(old, old) for old in counts}
    totals = Counter[str | None]()
    for old, count in counts.items():
        totals[new[old]] += count
    keys = {old: (name is None, -totals[name], str(name)) for old, name in new.items()}
    rows = sorted(counts.items(), key=lambda row: (keys[row[0]], -row[1]))[:MAX_CLASSES]
    notes = ["dropped" if new[old] is None else f"→ {new[old]}" if new[old] != old else "" for old, _ in rows]

    def draw(figure: Figure, colours: Colours) -> None:
        axes = figure.add_subplot()
        for kept, role, hatch, title in ((True, "group-7", "", "kept"), (False, "rule", "////", "dropped")):
            shown = [(y, count) for y, (old, count) in enumerate(rows) if (new[old] is not None) == kept]
            if shown:
                axes.barh([y for y, _ in shown], [count for _, count in shown], 0.72, color=colours[role],
                          edgecolor=colours["muted" if hatch else "paper"], linewidth=0.6, hatch=hatch,
                          label=title)  # fmt: skip
        _label_bars(figure, colours, rows, legend=None in new.values(), notes=notes)

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


def _label_bars(
    figure: Figure, colours: Colours, rows: list[tuple[str, int]], legend: bool, notes: Sequence[str] = ()
) -> None:
    """Write the name of each class beside its bar, and the count with a note at the end of the bar."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.axes[0]
    axes.set_yticks(np.arange(len(rows)), [escape_label(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    largest = max(count for _, count in rows) or 1
    axes.set_xlim(0, (1.5 if any(notes) else 1.12) * largest)
    for y, (_, count) in enumerate(rows):
        text = f"{count:,} {escape_label(notes[y], 20)}".rstrip() if notes else f"{count:,}"
        axes.text(count + 0.015 * largest, y, text, va="center", fontsize=10, color=colours["ink"])
    axes.set_xlabel("clips")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines["left"].set_visible(False)
    draw_grid(axes, colours, "x")
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=10,
                    labelcolor=colours["ink"], handlelength=1.6, columnspacing=1.4, borderaxespad=0.2)  # fmt: skip
