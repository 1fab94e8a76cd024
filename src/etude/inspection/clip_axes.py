"""Axes, colour scales and figures of values over the frames of a clip."""

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


PERCENTILE = 99.5  # of absolute values; ends a signed scale, so that an outlier does not make other values pale
CELLS = 64, 32  # maximum resolution of attributions in time and in frequency
WIDTH = 3.9  # inches
MAX_COLUMNS = 450  # of a large image
AxisLabels = tuple[str, str, str]  # label of an axis, and labels of its two ends


@dataclass(frozen=True)
class ColourScale:
    """Mapping of values to colours.

    Args:
        low, high: Ends of the scale. The ends of a signed scale are symmetric about 0.
        signed: Whether negative and positive values have different hues.
        clipped: Whether some values are beyond the ends.
    """

    low: float
    high: float
    signed: bool
    clipped: bool = False

    @classmethod
    def from_arrays(cls, arrays: Sequence[np.ndarray], low: float | None = None) -> ColourScale:
        """Return a common scale of several arrays.

        Args:
            arrays: The values. Values that are not finite are ignored.
            low: Lower end of a scale without negative values; None for the smallest value.
        """
        values = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
        values = values[np.isfinite(values)]
        smallest, largest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if smallest < 0:
            end = float(np.percentile(np.abs(values), PERCENTILE)) or max(-smallest, largest)
            return cls(-end, end, True, max(-smallest, largest) > end)
        low = smallest if low is None else low
        return cls(low, largest if largest > low else low + 1.0, False)

    @property
    def colour_map(self) -> Colormap:
        """Colour map, legible with red-green colour blindness and in greyscale."""
        from matplotlib import colormaps
        from matplotlib.colors import LinearSegmentedColormap

        if not self.signed:
            return colormaps["viridis"].resampled(SHADES)
        hues = ["#7a3300", "#d9690b", "#f8f7f3", "#2f86c6", "#003f73"]  # the page's orange and blue
        return LinearSegmentedColormap.from_list("signed", hues, SHADES + 1)

    def draw_colour_bar(self, axes: Axes, mappable: Any, unit: str = "") -> None:
        """Draw a colour bar beside an image."""
        figure = axes.get_figure()
        assert figure is not None
        extend = "both" if self.clipped else "neither"
        bar = figure.colorbar(mappable, ax=axes, fraction=0.05, pad=0.02, aspect=16, extend=extend)
        bar.outline.set_visible(False)
        bar.dividers.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=9)
        formatter: Any = bar.formatter
        formatter.set_powerlimits((-2, 3))
        bar.ax.yaxis.get_offset_text().set(fontsize=8.5, ha="left")
        if unit:
            bar.ax.set_title(unit, fontsize=9, loc="left", pad=14)


@dataclass(frozen=True)
class ClipAxes:
    """Time and frequency axes of the frames of a clip.

    Args:
        front: Front end of the frames.
        columns: Bins of the front end that the frames contain.
        n_frames: Number of frames, T.
        start: Time of the first frame, in seconds or beats.
    """

    front: FrontEnd
    columns: slice
    n_frames: int
    start: float = 0.0

    @property
    def is_audio(self) -> bool:
        """Whether the frames were computed from audio, and not from an image."""
        return self.front.reads_sound

    @property
    def n_bins(self) -> int:
        """Number of bins, F."""
        return self.columns.stop - self.columns.start

    @property
    def frame_period(self) -> float:
        """Distance between frames, in seconds, beats or rows."""
        if not self.is_audio or self.front.sync == "beat":
            return 1.0
        return self.front.hop_length / self.front.rate

    @property
    def time_unit(self) -> str:
        """Unit of time, `s` or `beat`."""
        return "beat" if self.front.sync == "beat" else "s"

    @property
    def magnitude_unit(self) -> str:
        """Unit of the frames of the front end, empty if the frames are chroma only."""
        return self.front.unit if self.columns.start == 0 else ""

    def to_image(self, grid: np.ndarray) -> np.ndarray:
        """Return values (T', F') as the rows of an image. For audio, the first row is the highest bin."""
        return grid.T[::-1] if self.is_audio else grid

    def upsample(self, grid: np.ndarray, time: tuple[float, float], bins: tuple[float, float]) -> np.ndarray:
        """Upsample a coarse grid (T', F') to the resolution of the frames (T, F) by nearest neighbour.

        Args:
            grid: Values of the cells.
            time: Start of the first cell and length of a cell, in frames.
            bins: Start of the first cell and length of a cell, in bins.
        """
        indices = []
        for count, cells, (first, step) in ((self.n_frames, grid.shape[0], time), (self.n_bins, grid.shape[1], bins)):
            indices.append(np.clip(((np.arange(count) + 0.5 - first) // step).astype(int), 0, cells - 1))
        return grid[np.ix_(*indices)]

    def axis_labels(self) -> tuple[AxisLabels, AxisLabels]:
        """Return the labels of the horizontal axis and of the vertical axis of a small image."""
        if not self.is_audio:
            return ("column", "0", f"{self.n_bins - 1}"), ("row", f"{self.n_frames - 1}", "0")
        end = self.start + self.n_frames * self.frame_period
        time = ("beat" if self.time_unit == "beat" else "time (s)", f"{self.start:.3g}", f"{end:.3g}")
        centres = self.front.mel_centres()
        if centres is None or self.columns.start:
            return time, ("pitch class" if self.columns.start else "bin", "0", f"{self.n_bins - 1}")
        if self.columns.stop > self.front.n_mels:
            return time, ("mel (Hz), chroma", f"{centres[0]:,.0f}", "B")
        return time, ("frequency (Hz)", f"{centres[0]:,.0f}", f"{centres[-1]:,.0f}")

    def rescale_chroma(self, frames: np.ndarray) -> np.ndarray:
        """Return frames (T, F) in which chroma, from 0 to 1, is mapped to the value range of the mel bands."""
        mels = self.front.n_mels - self.columns.start
        if not 0 < mels < frames.shape[1]:
            return frames
        low, high = float(frames[:, :mels].min()), float(frames[:, :mels].max())
        return np.concatenate([frames[:, :mels], low + (high - low) * frames[:, mels:]], axis=1)

    def sum_over_cells(self, grid: np.ndarray) -> np.ndarray:
        """Replace each value (T, F) by the sum over its cell (see `CELLS`). Values of an image are unchanged."""
        if not self.is_audio:
            return grid
        bins, frames = max(1, grid.shape[1] // CELLS[1]), max(1, grid.shape[0] // CELLS[0])
        starts = [np.arange(0, size, step) for size, step in zip(grid.shape, (frames, bins), strict=True)]
        sums = np.add.reduceat(np.add.reduceat(grid, starts[0], axis=0), starts[1], axis=1)
        return sums[np.ix_(np.arange(grid.shape[0]) // frames, np.arange(grid.shape[1]) // bins)]

    def downsample(self, grid: np.ndarray, max_frames: int) -> tuple[ClipAxes, np.ndarray]:
        """Average neighbouring frames (T, F), and return the new axes and at most `max_frames` frames."""
        if not self.is_audio or len(grid) <= max_frames:
            return self, grid
        averaged = average_frames(grid, max_frames)
        factor = -(-len(grid) // max_frames)
        return replace(self, n_frames=len(averaged), front=_multiply_hop(self.front, factor)), averaged

    def format_axes(self, axes: Axes) -> tuple[float, float, float, float]:
        """Set the ticks and labels of a large image, and return its extent in data coordinates."""
        axes.tick_params(labelsize=9, length=2.5)
        axes.spines[:].set_visible(False)
        if not self.is_audio:
            axes.set(xlabel="column", ylabel="row")
            return -0.5, self.n_bins - 0.5, self.n_frames - 0.5, -0.5
        mels = self.front.n_mels
        if self.columns.start >= mels:
            spectrogram.label_pitch_classes(axes, self.front, STAND_IN)
        else:
            spectrogram.label_frequencies(axes, self.front, STAND_IN)
            axes.tick_params(axis="x", labelbottom=True)
        if self.columns.start < mels < self.columns.stop:
            axes.axhline(mels - 0.5, color=STAND_IN["paper"], linewidth=1.5)
            axes.set_yticks([*axes.get_yticks(), mels + (self.columns.stop - mels - 1) / 2], [
                *(label.get_text() for label in axes.get_yticklabels()), "chroma"])  # fmt: skip
        axes.set_xlabel("beat" if self.time_unit == "beat" else "time (s)")
        left = self.start - (0 if self.time_unit == "beat" else self.frame_period / 2)
        return left, left + self.n_frames * self.frame_period, -0.5, self.n_bins - 0.5


def draw_image(
    name: str, description: str, clip_axes: ClipAxes, grid: np.ndarray, unit: str = "", magma: bool = False
) -> str:
    """Draw values of a clip as one large image with axes and a colour bar.

    Args:
        name: Name of the figure.
        description: Text alternative of the figure.
        clip_axes: Axes of the values.
        grid: Values (T, F).
        unit: Unit of the colour bar.
        magma: Whether to use the colours of the spectrograms on other pages.
    """
    clip_axes, grid = clip_axes.downsample(grid, MAX_COLUMNS)
    scale = ColourScale.from_arrays([grid])

    def draw(figure: Any) -> None:
        from matplotlib import colormaps

        axes = figure.add_subplot()
        colour_map = colormaps["magma"].resampled(SHADES) if magma else scale.colour_map
        extent = clip_axes.format_axes(axes)
        low, high = (float(grid.min()), float(grid.max())) if magma else (scale.low, scale.high)
        style: dict[str, Any] = {"cmap": colour_map, "vmin": low, "vmax": high, "interpolation": "none"}
        aspect = "auto" if clip_axes.is_audio else "equal"
        image = axes.imshow(clip_axes.to_image(grid), extent=extent, aspect=aspect, **style)
        (ColourScale(low, high, False) if magma else scale).draw_colour_bar(axes, image, unit)

    return draw_svg(draw, name, (WIDTH, 2.2 if clip_axes.is_audio else 3.2), description)


def draw_overlay(
    name: str, description: str, clip_axes: ClipAxes, frames: np.ndarray, values: np.ndarray, unit: str = ""
) -> str:
    """Draw values in colour over grey frames. The value 0 is transparent.

    Args:
        name: Name of the figure.
        description: Text alternative of the figure.
        clip_axes: Axes of the frames.
        frames: Frames of the clip (T, F).
        values: Values of the frames (T, F).
        unit: Unit of the colour bar.
    """
    small_axes, background = clip_axes.downsample(frames, MAX_COLUMNS)
    _, values = clip_axes.downsample(values, MAX_COLUMNS)
    scale = ColourScale.from_arrays([values], 0.0)

    def draw(figure: Any) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        axes = figure.add_subplot()
        norm = Normalize(scale.low, scale.high, clip=True)
        low, high = np.percentile(background, 1), np.percentile(background, 99)
        grey = 0.25 + 0.6 * np.clip((background - low) / ((high - low) or 1), 0, 1)[..., None]
        colour_map, opacity = scale.colour_map, np.clip(np.abs(values) / (scale.high or 1), 0, 1)[..., None] ** 0.6
        hue = colour_map(norm(values))[..., :3]
        mixed = (1 - 0.92 * opacity) * grey + 0.92 * opacity * hue
        mixed = np.round(mixed * 48) / 48  # fewer colours make the file smaller
        extent = small_axes.format_axes(axes)
        image = np.stack([small_axes.to_image(mixed[..., k]) for k in range(3)], -1)
        axes.imshow(image, extent=extent, aspect="auto" if small_axes.is_audio else "equal", interpolation="none")
        scale.draw_colour_bar(axes, ScalarMappable(norm, colour_map), unit)

    return draw_svg(draw, name, (WIDTH, 2.2 if clip_axes.is_audio else 3.2), description)


def draw_tiles(
    name: str, description: str, images: Sequence[np.ndarray], columns: int, x: AxisLabels, y: AxisLabels,
    titles: Sequence[str] = (), aspect: float = 0.7, scale: ColourScale | None = None,
) -> str:  # fmt: skip
    """Draw images of one size side by side on a common scale.

    Args:
        name: Name of the figure.
        description: Text alternative of the figure.
        images: Values (h, w) of each image, the top row first.
        columns: Number of images per row.
        x: Labels of the horizontal axis of each image, and of its left and right end.
        y: Labels of the vertical axis of each image, and of its lower and upper end.
        titles: Title above each image.
        aspect: Height of a drawn image divided by its width.
        scale: Colour scale; None computes it from the images.
    """
    scale = scale or ColourScale.from_arrays(images)
    height, width = images[0].shape
    drawn_width = WIDTH - 0.95
    # space above an image, as a share of its height
    above = 0.16 * 1.06 * columns / (drawn_width * aspect) if titles else 0.08
    gap_y, gap_x = max(1, round(above * height)), max(1, round(0.06 * width))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap_y), columns * (width + gap_x) - gap_x), np.nan)
    corners = [((k // columns) * (height + gap_y) + gap_y, (k % columns) * (width + gap_x)) for k in range(len(images))]
    for (top, left), image in zip(corners, images, strict=True):
        sheet[top : top + height, left : left + width] = image
    drawn_height = drawn_width * aspect * width / sheet.shape[1] * sheet.shape[0] / height

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        style: dict[str, Any] = {
            "cmap": scale.colour_map, "vmin": scale.low, "vmax": scale.high, "interpolation": "none",
        }  # fmt: skip
        drawn = axes.imshow(np.ma.masked_invalid(sheet), aspect="auto", **style)
        for (top, left), title in zip(corners, titles, strict=False):
            axes.text(left - 0.5, top - 0.8, escape_label(title, 14), fontsize=8, va="bottom", color=STAND_IN["muted"])
        lefts, tops = sorted({left for _, left in corners}), sorted({top for top, _ in corners})
        # only the first column has labels at its ends
        ends = (lefts[0] - 0.5, lefts[0] + width - 0.5) if any(x[1:]) else ()
        axes.set_xticks(ends, x[1:] if ends else (), fontsize=8.5)
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=False):
            label.set_ha(side)
        ticks = [(top + height - 0.5, y[1]) for top in tops] + [(top - 0.5, y[2]) for top in tops] if any(y[1:]) else []
        axes.set_yticks([position for position, _ in ticks], [text for _, text in ticks], fontsize=8.5)
        for label, side in zip(axes.get_yticklabels(), ["bottom"] * len(tops) + ["top"] * len(tops), strict=False):
            label.set_va(side)
        axes.set(xlabel=x[0], ylabel=y[0])
        axes.tick_params(length=2)
        axes.spines[:].set_visible(False)
        scale.draw_colour_bar(axes, drawn)

    return draw_svg(draw, name, (WIDTH, min(9.0, max(1.2, drawn_height)) + 0.55), description)


def _multiply_hop(front: FrontEnd, factor: int) -> FrontEnd:
    """Return a front end with a longer hop, for the axes of averaged frames. Frames by beat have no hop."""
    return replace(front, hop_length=front.hop_length * factor) if front.sync == "none" else front


def upsample_maps(grid: np.ndarray, clip_axes: ClipAxes) -> np.ndarray:
    """Return feature maps (T', F') at the resolution of the frames (T, F) from which they were pooled."""
    shape = clip_axes.n_frames, clip_axes.n_bins
    time, bins = (_cell_length(count, cells) for count, cells in zip(shape, grid.shape, strict=True))
    return clip_axes.upsample(grid, (0.0, time), (0.0, bins))


def _cell_length(count: int, cells: int) -> float:
    """Return the length of a cell, a power of two if pooling by it gives `cells` cells, else `count / cells`."""
    for power in range(9):
        if cells in (count // 2**power, -(-count // 2**power)):
            return float(2**power)
    return count / cells
