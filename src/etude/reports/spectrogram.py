"""Spectrogram figures with axes in Hz, seconds and pitch classes.

The colour maps are perceptually uniform from dark to light, also in greyscale (van der Walt & Smith 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.reports.clip_frames import ClipView
from etude.reports.svg import SHADES, STAND_IN, Colours, draw_svg, escape_label, save_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TICK_FREQUENCIES = (100, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
MIN_DISTANCE = 0.06  # between two tick labels, as a share of the height
PITCHES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
WIDTH, HEIGHT = 3.9, {"mel": 1.55, "chroma": 1.5}
TITLES = {
    ("none", "mel"): "log-mel", ("none", "chroma"): "chroma",
    ("beat", "mel"): "log-mel by beat", ("beat", "chroma"): "chroma by beat",
}  # fmt: skip


def label_frequencies(axes: Axes, front: FrontEnd, colours: Colours) -> None:
    """Label mel bands by their centre frequency, or bins by their index if they have no frequency."""
    axes.tick_params(axis="x", labelbottom=front.n_chroma == 0)
    if front.mel_centres() is None:
        axes.set_ylabel("bin", fontsize=10)
        return
    ticks = frequency_ticks(front)
    axes.set_yticks([position for position, _ in ticks], [label for _, label in ticks])
    axes.set_ylabel("frequency (Hz)", fontsize=10)


def frequency_ticks(front: FrontEnd) -> list[tuple[float, str]]:
    """Return positions (in mel bands) and labels (in Hz) of round frequencies. Overlapping labels are left out."""
    centres = front.mel_centres()
    if centres is None:
        return []
    frequencies = [frequency for frequency in TICK_FREQUENCIES if centres[0] <= frequency <= centres[-1]]
    positions = np.interp(frequencies, centres, np.arange(front.n_mels))
    min_bands = MIN_DISTANCE * front.n_mels
    selected = [k for k, position in enumerate(positions) if not k or position - positions[k - 1] >= min_bands]
    return [(float(positions[k]), f"{frequencies[k]:,}") for k in selected]


def label_pitch_classes(axes: Axes, front: FrontEnd, colours: Colours) -> None:
    """Label pitch classes, with sharps farther from the axis than naturals."""
    bins_per_pitch, remainder = divmod(front.n_chroma, len(PITCHES))
    if remainder:
        axes.set_ylabel("pitch class", fontsize=10)
        return
    positions = [k * bins_per_pitch for k in range(len(PITCHES))]
    naturals = [k for k in range(len(PITCHES)) if len(PITCHES[k]) == 1]
    sharps = [k for k in range(len(PITCHES)) if len(PITCHES[k]) > 1]
    axes.set_yticks([positions[k] for k in naturals], [PITCHES[k] for k in naturals])
    axes.set_yticks([positions[k] for k in sharps], [PITCHES[k] for k in sharps], minor=True)
    axes.tick_params(axis="y", which="minor", pad=13, labelsize=8.5, length=2.5, labelcolor=colours["muted"])
    axes.set_ylabel("pitch class", fontsize=10)


def draw_clip(
    view: ClipView, front: FrontEnd, path: Path, decibels: tuple[float, float], max_columns: int, title: str
) -> str:
    """Draw the frames of a clip and write the figure as PNG.

    Args:
        view: Frames and beats of the clip.
        front: Front end of the frames.
        path: Path of the PNG.
        decibels: Both ends of the colour scale in dB, equal for all clips of a page so that they can be compared.
        max_columns: Maximum number of columns of an image. Adjacent frames of longer clips are averaged.
        title: Title of the PNG.

    Returns:
        SVG, or "" if there are no frames.
    """
    panels = [key for key in TITLES if key[0] in view.frames and (key[1] == "mel" or front.n_chroma)]
    if not panels:
        return ""

    def draw(figure: Figure, colours: Colours) -> None:
        rows = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[HEIGHT[kind] for _, kind in panels])
        for axes, (sync, kind) in zip(rows[:, 0], panels, strict=True):
            _draw_frames(axes, view, front, (sync, kind), decibels, max_columns, colours)
            heading = TITLES[sync, kind] if front.reads_sound else "frames"
            axes.set_title(heading, loc="left", fontsize=10, color=colours["ink"], pad=8)
            if kind == "chroma" or not front.n_chroma:
                _label_time(axes, front, sync)

    syncs = " and ".join(text for sync, text in (("none", "over time"), ("beat", "by beat")) if sync in view.frames)
    content = "log-mel spectrogram by frequency" if front.reads_sound else "frames"
    description = f"{title}: {content}{' and chroma by pitch class' if front.n_chroma else ''}, {syncs}."
    size = (WIDTH, 0.5 * len(panels) + sum(HEIGHT[kind] for _, kind in panels))
    return save_figure(draw, path, size, description, title)


def draw_examples(
    views: Sequence[tuple[str, ClipView]],
    front: FrontEnd,
    key: tuple[str, str],
    path: Path,
    decibels: tuple[float, float],
    max_columns: int,
) -> list[str]:
    """Draw one kind of frames of some clips, each clip as SVG, and all of them side by side as PNG.

    Args:
        views: Title and frames of each clip, which must have these frames.
        front: Front end of the frames.
        key: Synchronisation (none or beat) and kind (mel or chroma) of the frames, a key of TITLES.
        path: Path of the PNG.
        decibels: Both ends of the colour scale in dB.
        max_columns: Maximum number of columns of an image.
    """
    sync, kind = key
    size = (WIDTH + 0.7, HEIGHT[kind] + 0.75)

    def draw(figure: Figure, colours: Colours, shown: Sequence[tuple[str, ClipView]]) -> None:
        for axes, (title, view) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            _draw_frames(axes, view, front, key, decibels, max_columns, colours)
            axes.set_title(escape_label(title, 46), loc="left", fontsize=10, color=colours["ink"], pad=9)
            axes.tick_params(axis="x", labelbottom=True)
            _label_time(axes, front, sync)

    heading = TITLES[key] if front.reads_sound else "frames"
    titles = " and ".join(title for title, _ in views)
    all_sizes = (size[0] * len(views), size[1] + 0.1)
    save_png(lambda figure, colours: draw(figure, colours, views), path, all_sizes, f"{heading} of {titles}.")
    return [
        draw_svg(lambda figure, one=view: draw(figure, STAND_IN, [one]), f"{path.stem}-{i}", size,  # type: ignore[misc]
                 f"{heading} of {view[0]}.")
        for i, view in enumerate(views)
    ]  # fmt: skip


def _draw_frames(
    axes: Axes,
    view: ClipView,
    front: FrontEnd,
    key: tuple[str, str],
    decibels: tuple[float, float],
    max_columns: int,
    colours: Colours,
) -> None:
    """Draw the mel bands or the pitch classes of a clip as an image, with its beats above frames over time."""
    sync, kind = key
    frames = view.frames[sync]
    frames = frames[:, : front.n_mels] if kind == "mel" else frames[:, front.n_mels :]
    limits = decibels if kind == "mel" else (0.0, 1.0)
    step = 1.0 if sync == "beat" else front.hop_length / front.rate
    unit = "of max" if kind == "chroma" else front.unit
    _draw_image(axes, average_frames(frames, max_columns), (len(frames), step, sync), limits, unit)
    (label_frequencies if kind == "mel" else label_pitch_classes)(axes, front, colours)
    if sync == "none" and view.beats is not None:
        transform = axes.get_xaxis_transform()
        x, y = view.beats, np.full(len(view.beats), 1.025)
        axes.plot(x, y, "|", transform=transform, color=colours["ink"], markersize=4.5, clip_on=False)


def _label_time(axes: Axes, front: FrontEnd, sync: str) -> None:
    """Label the time axis in beats, seconds or frames, with integer ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("beat" if sync == "beat" else "time (s)" if front.reads_sound else "frame")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def average_frames(frames: np.ndarray, n_max: int) -> np.ndarray:
    """Return at most `n_max` means of adjacent frames (T, F)."""
    step = -(-len(frames) // n_max)
    starts = np.arange(0, len(frames), step)
    counts = np.diff(np.append(starts, len(frames)))
    return np.add.reduceat(frames.astype(np.float32), starts, axis=0) / counts[:, None]


def decibel_range(views: list[ClipView], front: FrontEnd) -> tuple[float, float]:
    """Return the lowest and the highest mel value of several clips, in dB."""
    mels = [frames[:, : front.n_mels] for view in views for frames in view.frames.values()]
    if not mels:
        return -80.0, 0.0
    return min(float(mel.min()) for mel in mels), max(float(mel.max()) for mel in mels)


def _draw_image(
    axes: Axes, frames: np.ndarray, extent: tuple[int, float, str], limits: tuple[float, float], unit: str
) -> None:
    """Draw frames (T, F) as an image with a colour bar.

    Args:
        axes: Axes of the image.
        frames: Averaged frames.
        extent: Number of frames before averaging, their step in seconds or beats, and their synchronisation.
        limits: Both ends of the colour scale.
        unit: Unit of the colour scale.
    """
    from matplotlib import colormaps

    length, step, sync = extent
    # a frame is centred at its time; an interval between beats begins at its index
    left = 0.0 if sync == "beat" else -step / 2
    image: Any = axes.imshow(
        frames.T,
        origin="lower",
        aspect="auto",
        interpolation="none",
        cmap=colormaps["viridis" if unit == "of max" else "magma"].resampled(SHADES),
        vmin=limits[0],
        vmax=limits[1],
        extent=(left, left + length * step, -0.5, frames.shape[1] - 0.5),
    )
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=14)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9)
    bar.ax.set_title(unit, fontsize=9, loc="left", pad=5)
    if unit == "of max":
        bar.set_ticks([0, 0.5, 1], labels=["0", "½", "1"])
    axes.tick_params(labelsize=9, length=2.5)
    axes.spines[:].set_visible(False)
