"""Axes, scales and drawings of values on a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.reports import spectrogram
from etude.reports.spectrogram import average_frames
from etude.reports.svg import SHADES, STAND_IN, draw_svg, escape_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap


CUT = 99.5  # percentile of the sizes at which a scale ends, so that one value does not pale all others
CELLS = 64, 32  # of a picture of attributions, in time and in frequency
WIDTH = 3.9  # inches
MOST = 450  # columns of a large picture
Ends = tuple[str, str, str]  # label of an axis, and labels of its two ends


@dataclass(frozen=True)
class ColourScale:
    """Mapping of values to colours.

    Args:
        low, high: Its ends; `signed` ones lie alike on both sides of 0.
        signed: Whether there is a sign to be seen.
        cut: Whether there are values beyond the ends.
    """

    low: float
    high: float
    signed: bool
    cut: bool = False

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], least: float | None = None) -> ColourScale:
        """Return the scale of values that are seen side by side."""
        values = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if low < 0:
            end = float(np.percentile(np.abs(values), CUT)) or max(-low, high)
            return cls(-end, end, True, max(-low, high) > end)
        low = low if least is None else least
        return cls(low, high if high > low else low + 1.0, False)

    @property
    def colours(self) -> Colormap:
        """Colour map; both are legible without red and green, and in grey."""
        from matplotlib import colormaps
        from matplotlib.colors import LinearSegmentedColormap

        if not self.signed:
            return colormaps["viridis"].resampled(SHADES)
        hues = ["#7a3300", "#d9690b", "#f8f7f3", "#2f86c6", "#003f73"]  # the page's orange and blue
        return LinearSegmentedColormap.from_list("signed", hues, SHADES + 1)

    def bar(self, axes: Axes, shown: Any, unit: str = "") -> None:
        """Draw the scale at the side of a picture."""
        figure = axes.get_figure()
        assert figure is not None
        ends = "both" if self.cut else "neither"
        bar = figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02, aspect=16, extend=ends)
        bar.outline.set_visible(False)
        bar.dividers.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=9)
        formatter: Any = bar.formatter
        formatter.set_powerlimits((-2, 3))
        bar.ax.yaxis.get_offset_text().set(fontsize=8.5, ha="left")
        if unit:
            bar.ax.set_title(unit, fontsize=9, loc="left", pad=14)


@dataclass(frozen=True)
class Scene:
    """Axes of the frames of a clip in a picture.

    Args:
        front: Front end of the frames.
        view: Its bins that are shown.
        frames: Number of frames, T.
        start: Time of the first frame, in seconds or beats.
    """

    front: FrontEnd
    view: slice
    frames: int
    start: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether these are frames of sound, and not of an image."""
        return self.front.reads_sound

    @property
    def bins(self) -> int:
        """Number of bins, F."""
        return self.view.stop - self.view.start

    @property
    def step(self) -> float:
        """Distance of frames, in seconds, beats or rows."""
        if not self.sound or self.front.sync == "beat":
            return 1.0
        return self.front.hop_length / self.front.rate

    @property
    def unit(self) -> str:
        """Unit of time."""
        return "beat" if self.front.sync == "beat" else "s"

    def upright(self, grid: np.ndarray) -> np.ndarray:
        """Return values (T', F') as rows of a picture from its top: for sound the highest bin first."""
        return grid.T[::-1] if self.sound else grid

    def spread(self, grid: np.ndarray, time: tuple[float, float], bins: tuple[float, float]) -> np.ndarray:
        """Return a coarse grid (T', F') at the resolution of the frames (T, F): the cell in which each of them lies.

        Args:
            grid: Its values.
            time: Where its first cell begins and how long a cell is, in frames.
            bins: The same along the bins.
        """
        places = []
        for count, cells, (first, step) in ((self.frames, grid.shape[0], time), (self.bins, grid.shape[1], bins)):
            places.append(np.clip(((np.arange(count) + 0.5 - first) // step).astype(int), 0, cells - 1))
        return grid[np.ix_(*places)]

    def ends(self) -> tuple[Ends, Ends]:
        """Return labels of the ends of small pictures, along x and along y from below."""
        if not self.sound:
            return ("column", "0", f"{self.bins - 1}"), ("row", f"{self.frames - 1}", "0")
        last = self.start + self.frames * self.step
        time = ("beat" if self.unit == "beat" else "time (s)", f"{self.start:.3g}", f"{last:.3g}")
        centres = self.front.mel_centres()
        if centres is None or self.view.start:
            return time, ("pitch class" if self.view.start else "bin", "0", f"{self.bins - 1}")
        if self.view.stop > self.front.n_mels:
            return time, ("mel (Hz), chroma", f"{centres[0]:,.0f}", "B")
        return time, ("frequency (Hz)", f"{centres[0]:,.0f}", f"{centres[-1]:,.0f}")

    def even(self, frames: np.ndarray) -> np.ndarray:
        """Return frames (T, F) for one scale: chroma, in [0, 1], is brought to the range of the mel bands beside it."""
        mels = self.front.n_mels - self.view.start
        if not 0 < mels < frames.shape[1]:
            return frames
        low, high = float(frames[:, :mels].min()), float(frames[:, :mels].max())
        return np.concatenate([frames[:, :mels], low + (high - low) * frames[:, mels:]], axis=1)

    def cells(self, grid: np.ndarray) -> np.ndarray:
        """Return each value (T, F) as the sum over a visible cell about it; an image has few enough."""
        if not self.sound:
            return grid
        high, long = max(1, grid.shape[1] // CELLS[1]), max(1, grid.shape[0] // CELLS[0])
        starts = [np.arange(0, size, step) for size, step in zip(grid.shape, (long, high), strict=True)]
        sums = np.add.reduceat(np.add.reduceat(grid, starts[0], axis=0), starts[1], axis=1)
        return sums[np.ix_(np.arange(grid.shape[0]) // long, np.arange(grid.shape[1]) // high)]

    def shrunk(self, grid: np.ndarray, most: int) -> tuple[Scene, np.ndarray]:
        """Return fewer frames, each a mean of neighbours, and their scene."""
        if not self.sound or len(grid) <= most:
            return self, grid
        small = average_frames(grid, most)
        factor = -(-len(grid) // most)
        return replace(self, frames=len(small), front=_slower(self.front, factor)), small

    def dress(self, axes: Axes) -> tuple[float, float, float, float]:
        """Set ticks and labels of a large picture, and return its extent in units of the axes."""
        axes.tick_params(labelsize=9, length=2.5)
        axes.spines[:].set_visible(False)
        if not self.sound:
            axes.set(xlabel="column", ylabel="row")
            return -0.5, self.bins - 0.5, self.frames - 0.5, -0.5
        mels = self.front.n_mels
        if self.view.start >= mels:
            spectrogram.label_pitch_classes(axes, self.front, STAND_IN)
        else:
            spectrogram.label_frequencies(axes, self.front, STAND_IN)
            axes.tick_params(axis="x", labelbottom=True)
        if self.view.start < mels < self.view.stop:
            axes.axhline(mels - 0.5, color=STAND_IN["paper"], linewidth=1.5)
            axes.set_yticks([*axes.get_yticks(), mels + (self.view.stop - mels - 1) / 2], [
                *(label.get_text() for label in axes.get_yticklabels()), "chroma"])  # fmt: skip
        axes.set_xlabel("beat" if self.unit == "beat" else "time (s)")
        left = self.start - (0 if self.unit == "beat" else self.step / 2)
        return left, left + self.frames * self.step, -0.5, self.bins - 0.5


def large(name: str, about: str, scene: Scene, grid: np.ndarray, unit: str = "", magma: bool = False) -> str:
    """Draw one picture of a clip (T, F), with its axes and its scale; `magma` for the input, as on every page."""
    scene, grid = scene.shrunk(grid, MOST)
    scale = ColourScale.of([grid], None)

    def draw(figure: Any) -> None:
        from matplotlib import colormaps

        axes = figure.add_subplot()
        colours = colormaps["magma"].resampled(SHADES) if magma else scale.colours
        extent = scene.dress(axes)
        ends = (float(grid.min()), float(grid.max())) if magma else (scale.low, scale.high)
        look: dict[str, Any] = {"cmap": colours, "vmin": ends[0], "vmax": ends[1], "interpolation": "none"}
        shown = axes.imshow(scene.upright(grid), extent=extent, aspect="auto" if scene.sound else "equal", **look)
        (ColourScale(*ends, False) if magma else scale).bar(axes, shown, unit)

    return draw_svg(draw, name, (WIDTH, 2.2 if scene.sound else 3.2), about)


def over(name: str, about: str, scene: Scene, base: np.ndarray, layer: np.ndarray, unit: str = "") -> str:
    """Draw values (T, F) over the frames (T, F) that they belong to, which are grey; 0 is transparent."""
    small, ground = scene.shrunk(base, MOST)
    _, layer = scene.shrunk(layer, MOST)
    scale = ColourScale.of([layer], 0.0)

    def draw(figure: Any) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        axes = figure.add_subplot()
        norm = Normalize(scale.low, scale.high, clip=True)
        low, high = np.percentile(ground, 1), np.percentile(ground, 99)
        grey = 0.25 + 0.6 * np.clip((ground - low) / ((high - low) or 1), 0, 1)[..., None]
        colours, strength = scale.colours, np.clip(np.abs(layer) / (scale.high or 1), 0, 1)[..., None] ** 0.6
        hue = colours(norm(layer))[..., :3]
        mixed = (
            np.round(((1 - 0.92 * strength) * grey + 0.92 * strength * hue) * 48) / 48
        )  # fewer colours, less to send
        extent = small.dress(axes)
        picture = np.stack([small.upright(mixed[..., k]) for k in range(3)], -1)
        axes.imshow(picture, extent=extent, aspect="auto" if small.sound else "equal", interpolation="none")
        scale.bar(axes, ScalarMappable(norm, colours), unit)

    return draw_svg(draw, name, (WIDTH, 2.2 if scene.sound else 3.2), about)


def tiles(
    name: str, about: str, grids: Sequence[np.ndarray], across: int, x: Ends, y: Ends,
    labels: Sequence[str] = (), shape: float = 0.7, scale: ColourScale | None = None,
) -> str:  # fmt: skip
    """Draw pictures of one size, side by side on one scale.

    Args:
        name: Of the drawing.
        about: What it shows, for those who do not see it.
        grids: Rows from the top (h, w) each.
        across: How many stand in a row.
        x: What the horizontal axis of each is called, and what stands at its ends.
        y: The same of the vertical one, from below.
        labels: Above each.
        shape: Height of a picture for its width, as drawn.
        scale: None: that of these values.
    """
    scale = scale or ColourScale.of(grids)
    height, width = grids[0].shape
    room = WIDTH - 0.95
    above = 0.16 * 1.06 * across / (room * shape) if labels else 0.08  # room for a label, as a share of a picture
    gap_y, gap_x = max(1, round(above * height)), max(1, round(0.06 * width))
    down = -(-len(grids) // across)
    sheet = np.full((down * (height + gap_y), across * (width + gap_x) - gap_x), np.nan)
    corners = [((k // across) * (height + gap_y) + gap_y, (k % across) * (width + gap_x)) for k in range(len(grids))]
    for (top, left), grid in zip(corners, grids, strict=True):
        sheet[top : top + height, left : left + width] = grid
    tall = room * shape * width / sheet.shape[1] * sheet.shape[0] / height

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        look: dict[str, Any] = {"cmap": scale.colours, "vmin": scale.low, "vmax": scale.high, "interpolation": "none"}
        shown = axes.imshow(np.ma.masked_invalid(sheet), aspect="auto", **look)
        for (top, left), label in zip(corners, labels, strict=False):
            axes.text(left - 0.5, top - 0.8, escape_label(label, 14), fontsize=8, va="bottom", color=STAND_IN["muted"])
        lefts, tops = sorted({left for _, left in corners}), sorted({top for top, _ in corners})
        ends = (lefts[0] - 0.5, lefts[0] + width - 0.5) if any(x[1:]) else ()  # of the first column, for all
        axes.set_xticks(ends, x[1:] if ends else (), fontsize=8.5)
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=False):
            label.set_ha(side)
        marks = [(top + height - 0.5, y[1]) for top in tops] + [(top - 0.5, y[2]) for top in tops] if any(y[1:]) else []
        axes.set_yticks([at for at, _ in marks], [text for _, text in marks], fontsize=8.5)
        for label, side in zip(axes.get_yticklabels(), ["bottom"] * len(tops) + ["top"] * len(tops), strict=False):
            label.set_va(side)
        axes.set(xlabel=x[0], ylabel=y[0])
        axes.tick_params(length=2)
        axes.spines[:].set_visible(False)
        scale.bar(axes, shown)

    return draw_svg(draw, name, (WIDTH, min(9.0, max(1.2, tall)) + 0.55), about)


def _slower(front: FrontEnd, factor: int) -> FrontEnd:
    """Return a front end with fewer frames, for drawing only."""
    return replace(front, hop_length=front.hop_length * factor) if front.sync == "none" else front
