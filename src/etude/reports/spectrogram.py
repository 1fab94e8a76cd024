"""Spectrogram pictures with ticks in Hz, seconds and pitch classes.

Colours run from dark to light in steps that are equal to the eye, in grey as well (van der Walt & Smith, 2015).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.reports.clip_frames import ClipView
from etude.reports.svg import SHADES, Colours, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
APART = 0.06  # least distance between two labels, as a share of the height
PITCHES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
WIDTH, HEIGHT = 3.9, {"mel": 1.55, "chroma": 1.5}
TITLES = {
    ("none", "mel"): "log-mel", ("none", "chroma"): "chroma",
    ("beat", "mel"): "log-mel by the beat", ("beat", "chroma"): "chroma by the beat",
}  # fmt: skip


def hertz(axes: Axes, front: FrontEnd, colours: Colours) -> None:
    """Label mel bands by the frequency at their centre; by number where they are no frequencies."""
    axes.tick_params(axis="x", labelbottom=front.n_chroma == 0)
    if front.mel_centres() is None:
        axes.set_ylabel("bin", fontsize=10)
        return
    shown = bands(front)
    axes.set_yticks([place for place, _ in shown], [words for _, words in shown])
    axes.set_ylabel("frequency (Hz)", fontsize=10)


def bands(front: FrontEnd) -> list[tuple[float, str]]:
    """Return round frequencies: the mel band in which they lie, and label in Hz; not nearer than labels can be."""
    centres = front.mel_centres()
    if centres is None:
        return []
    shown = [hertz for hertz in HZ if centres[0] <= hertz <= centres[-1]]
    places = np.interp(shown, centres, np.arange(front.n_mels))
    spaced = [k for k, place in enumerate(places) if not k or place - places[k - 1] >= APART * front.n_mels]
    return [(float(places[k]), f"{shown[k]:,}") for k in spaced]


def pitches(axes: Axes, front: FrontEnd, colours: Colours) -> None:
    """Label pitch classes as on a keyboard, with the sharps set back."""
    each, rest = divmod(front.n_chroma, len(PITCHES))
    if rest:
        axes.set_ylabel("pitch class", fontsize=10)
        return
    places = [k * each for k in range(len(PITCHES))]
    naturals = [k for k in range(len(PITCHES)) if len(PITCHES[k]) == 1]
    sharps = [k for k in range(len(PITCHES)) if len(PITCHES[k]) > 1]
    axes.set_yticks([places[k] for k in naturals], [PITCHES[k] for k in naturals])
    axes.set_yticks([places[k] for k in sharps], [PITCHES[k] for k in sharps], minor=True)
    axes.tick_params(axis="y", which="minor", pad=13, labelsize=8.5, length=2.5, labelcolor=colours["muted"])
    axes.set_ylabel("pitch class", fontsize=10)


def drawing(view: ClipView, front: FrontEnd, path: Path, decibels: tuple[float, float], most: int, title: str) -> str:
    """Draw a clip.

    Args:
        view: Its frames and beats.
        front: Parameters of the frames.
        path: Where the PNG goes.
        decibels: Both ends of the colour scale, in dB; equal for all clips of a page, so that they compare.
        most: Columns of an image; longer clips are shown as means over neighbouring frames.
        title: What the PNG is called.

    Returns:
        The SVG; "" when there are no frames.
    """
    panels = [key for key in TITLES if key[0] in view.frames and (key[1] == "mel" or front.n_chroma)]
    if not panels:
        return ""

    def draw(figure: Figure, colours: Colours) -> None:
        from matplotlib.ticker import MaxNLocator

        rows = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[HEIGHT[kind] for _, kind in panels])
        for axes, (sync, kind) in zip(rows[:, 0], panels, strict=True):
            frames = view.frames[sync]
            part = frames[:, : front.n_mels] if kind == "mel" else frames[:, front.n_mels :]
            limits = decibels if kind == "mel" else (0.0, 1.0)
            step = 1.0 if sync == "beat" else front.hop_length / front.rate
            unit = "of max" if kind == "chroma" else front.unit
            _image(axes, shrink(part, most), (len(part), step, sync), limits, unit)
            heading = TITLES[sync, kind] if front.reads_sound else "frames"
            axes.set_title(heading, loc="left", fontsize=10, color=colours["ink"], pad=8)
            (hertz if kind == "mel" else pitches)(axes, front, colours)
            if sync == "none" and view.beats is not None:
                high = axes.get_xaxis_transform()
                x, y = view.beats, np.full(len(view.beats), 1.025)
                axes.plot(x, y, "|", transform=high, color=colours["ink"], markersize=4.5, clip_on=False)
            if kind == "chroma" or not front.n_chroma:
                axes.set_xlabel("beat" if sync == "beat" else "time (s)" if front.reads_sound else "frame")
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    known = " and ".join(words for sync, words in (("none", "over seconds"), ("beat", "by the beat"))
                         if sync in view.frames)  # fmt: skip
    what = "log-mel spectrogram by frequency" if front.reads_sound else "frames"
    about = f"{title}: {what}{' and chroma by pitch class' if front.n_chroma else ''}, {known}."
    return picture(draw, path, (WIDTH, 0.5 * len(panels) + sum(HEIGHT[kind] for _, kind in panels)), about, title)


def shrink(frames: np.ndarray, most: int) -> np.ndarray:
    """Return frames (T, F) as at most `most` of them, each the mean of as many neighbours as it takes."""
    step = -(-len(frames) // most)
    starts = np.arange(0, len(frames), step)
    counts = np.diff(np.append(starts, len(frames)))
    return np.add.reduceat(frames.astype(np.float32), starts, axis=0) / counts[:, None]


def range_of(views: list[ClipView], front: FrontEnd) -> tuple[float, float]:
    """Return the lowest and highest mel value of several clips, in dB."""
    mels = [frames[:, : front.n_mels] for view in views for frames in view.frames.values()]
    if not mels:
        return -80.0, 0.0
    return min(float(mel.min()) for mel in mels), max(float(mel.max()) for mel in mels)


def _image(
    axes: Axes, part: np.ndarray, extent: tuple[int, float, str], limits: tuple[float, float], unit: str
) -> None:
    from matplotlib import colormaps

    length, step, sync = extent
    # a frame is centred on its time, an interval between beats begins at its number
    left = 0.0 if sync == "beat" else -step / 2
    shown: Any = axes.imshow(
        part.T,
        origin="lower",
        aspect="auto",
        interpolation="none",
        cmap=colormaps["viridis" if unit == "of max" else "magma"].resampled(SHADES),
        vmin=limits[0],
        vmax=limits[1],
        extent=(left, left + length * step, -0.5, part.shape[1] - 0.5),
    )
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02, aspect=14)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9)
    bar.ax.set_title(unit, fontsize=9, loc="left", pad=5)
    if unit == "of max":
        bar.set_ticks([0, 0.5, 1], labels=["0", "½", "1"])
    axes.tick_params(labelsize=9, length=2.5)
    axes.spines[:].set_visible(False)
