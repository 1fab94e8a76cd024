"""Where values lie on a clip: seconds and Hz for sound, rows and columns for an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from etude.audio.front import Front
from etude.results.exploration import ticks
from etude.results.exploration.spectra import shrink
from etude.results.exploration.views import hears
from etude.results.svg import STAND_IN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 64, 32  # of a picture of attributions, in time and in frequency
Ends = tuple[str, str, str]  # what an axis is called, and what stands at its two ends


@dataclass(frozen=True)
class Scene:
    """The frames of a clip as a picture has them.

    Args:
        front: What made the frames.
        view: Which of its bins are seen.
        frames: How many frames, T.
        start: Where the first of them is, in seconds or beats.
    """

    front: Front
    view: slice
    frames: int
    start: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether these are frames of sound; an image is drawn as one."""
        return hears(self.front)

    @property
    def bins(self) -> int:
        """How many bins are seen, F."""
        return self.view.stop - self.view.start

    @property
    def step(self) -> float:
        """From one frame to the next, in seconds, beats or rows."""
        if not self.sound or self.front.sync == "beat":
            return 1.0
        return self.front.hop_length / self.front.rate

    @property
    def unit(self) -> str:
        """What time is counted in."""
        return "beat" if self.front.sync == "beat" else "s"

    def upright(self, grid: np.ndarray) -> np.ndarray:
        """Values (T', F') as rows of a picture from its top: for sound the highest bin first, time to the right."""
        return grid.T[::-1] if self.sound else grid

    def spread(self, grid: np.ndarray, time: tuple[float, float], bins: tuple[float, float]) -> np.ndarray:
        """A coarse grid (T', F') at the resolution of the frames (T, F): the cell in which each of them lies.

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
        """What stands at the ends of small pictures, along x and along y from below."""
        if not self.sound:
            return ("column", "0", f"{self.bins - 1}"), ("row", f"{self.frames - 1}", "0")
        last = self.start + self.frames * self.step
        time = ("beat" if self.unit == "beat" else "time (s)", f"{self.start:.3g}", f"{last:.3g}")
        centres = ticks.mel_centres(self.front)
        if centres is None or self.view.start:
            return time, ("pitch class" if self.view.start else "bin", "0", f"{self.bins - 1}")
        if self.view.stop > self.front.n_mels:
            return time, ("mel (Hz), chroma", f"{centres[0]:,.0f}", "B")
        return time, ("frequency (Hz)", f"{centres[0]:,.0f}", f"{centres[-1]:,.0f}")

    def even(self, frames: np.ndarray) -> np.ndarray:
        """Frames (T, F) for one scale: chroma, in [0, 1], is brought to the range of the mel bands beside it."""
        mels = self.front.n_mels - self.view.start
        if not 0 < mels < frames.shape[1]:
            return frames
        low, high = float(frames[:, :mels].min()), float(frames[:, :mels].max())
        return np.concatenate([frames[:, :mels], low + (high - low) * frames[:, mels:]], axis=1)

    def cells(self, grid: np.ndarray) -> np.ndarray:
        """Each value (T, F) as the sum over a cell about it, of a size that is seen; an image has few enough."""
        if not self.sound:
            return grid
        high, long = max(1, grid.shape[1] // CELLS[1]), max(1, grid.shape[0] // CELLS[0])
        starts = [np.arange(0, size, step) for size, step in zip(grid.shape, (long, high), strict=True)]
        sums = np.add.reduceat(np.add.reduceat(grid, starts[0], axis=0), starts[1], axis=1)
        return sums[np.ix_(np.arange(grid.shape[0]) // long, np.arange(grid.shape[1]) // high)]

    def shrunk(self, grid: np.ndarray, most: int) -> tuple[Scene, np.ndarray]:
        """Fewer frames, each a mean of neighbours, and the scene that these make."""
        if not self.sound or len(grid) <= most:
            return self, grid
        small = shrink(grid, most)
        factor = -(-len(grid) // most)
        return replace(self, frames=len(small), front=_slower(self.front, factor)), small

    def dress(self, axes: Axes) -> tuple[float, float, float, float]:
        """Ticks and labels of a large picture; returns its extent, in units of the axes."""
        axes.tick_params(labelsize=9, length=2.5)
        axes.spines[:].set_visible(False)
        if not self.sound:
            axes.set(xlabel="column", ylabel="row")
            return -0.5, self.bins - 0.5, self.frames - 0.5, -0.5
        mels = self.front.n_mels
        if self.view.start >= mels:
            ticks.pitches(axes, self.front, STAND_IN)
        else:
            ticks.hertz(axes, self.front, STAND_IN)
            axes.tick_params(axis="x", labelbottom=True)
        if self.view.start < mels < self.view.stop:
            axes.axhline(mels - 0.5, color=STAND_IN["paper"], linewidth=1.5)
            axes.set_yticks([*axes.get_yticks(), mels + (self.view.stop - mels - 1) / 2], [
                *(label.get_text() for label in axes.get_yticklabels()), "chroma"])  # fmt: skip
        axes.set_xlabel("beat" if self.unit == "beat" else "time (s)")
        left = self.start - (0 if self.unit == "beat" else self.step / 2)
        return left, left + self.frames * self.step, -0.5, self.bins - 0.5


def _slower(front: Front, factor: int) -> Front:
    """A front end with fewer frames, for drawing only."""
    return replace(front, hop_length=front.hop_length * factor) if front.sync == "none" else front
