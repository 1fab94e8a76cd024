"""Cutting of a sound into windows.

It is the sound that is cut, and not its frames: a front end may measure a clip against its own loudest bin, or tune and
count beats by it, so that frames of a whole song are no frames of clips. A window goes through the front end alone, as
the same seconds would in a file of their own. A file that is no longer than the clips of training were is one window,
and gets the numbers that the run's table of predictions has for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.data.batches import crop_positions, crop_start
from etude.data.readers import SILENT
from etude.errors import UserError

TEMPO = 180.0  # seconds in which beats are counted for the length of a window; all of a sound that is no longer
SLOWEST = 1.5  # seconds of a beat, 40 a minute: by which a clip of training may have been longer than that
UNKNOWN = 30.0  # seconds; what is taken for the length of a clip where a checkpoint does not say it


@dataclass(frozen=True)
class WindowPlan:
    """How sounds are cut into windows; plain enough for other processes.

    Args:
        front: The front end that makes frames.
        columns: First and last column of the network's view.
        length: Frames of a window (beats where a frame is one), as the median clip of training had.
        longest: Frames of the longest clip of training; what is no longer is one window.
        shortest: Seconds below which a sound is of no use.
        crop: Frames of each crop where evaluation averages several.
        crops: How many it averages; None takes a window as one crop.
        window: Seconds of a window, in the place of `length` and `longest`.
        overlap: Share of a window that the next one has again.
    """

    front: FrontEnd
    columns: tuple[int, int]
    length: int
    longest: int
    shortest: float = 0.0
    crop: int | None = None
    crops: int | None = None
    window: float | None = None
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if self.window is not None and not 0 < self.window < float("inf"):
            raise UserError(f"window={self.window:g}: must be a number of seconds greater than 0")
        if not 0 <= self.overlap <= 0.95:
            raise UserError(f"overlap={self.overlap:g}: must be a share of a window from 0 to 0.95")

    @classmethod
    def of(
        cls, recipe: Mapping[str, Any], front: FrontEnd, window: float | None = None, overlap: float = 0.5
    ) -> WindowPlan:
        """Return the plan of a network.

        Args:
            recipe: Recipe in its checkpoint.
            front: Its front end.
            window: Seconds of a window; None: of the clips of training.
            overlap: Share of a window that the next one has again.
        """
        clips = recipe.get("evaluation")
        if not clips:  # a checkpoint of before it was kept
            frames = round(UNKNOWN * (2 if front.sync == "beat" else front.frames_per_second))  # two beats a second
            clips = {"frames": frames, "longest": frames}
        return cls(
            front, tuple(recipe["columns"]), clips["frames"], clips["longest"], clips.get("shortest", 0.0),
            clips.get("crop"), clips.get("crops"), window, overlap,
        )  # fmt: skip

    @property
    def samples(self) -> int:
        """Samples of a window of `length` frames, where a frame is no beat.

        A frame more than there are hops, as of a centred transform; where it is not, a window is that much longer.
        """
        return (self.length - 1) * self.front.hop_length + 1

    @property
    def hop(self) -> float:
        """From one window to the next, as a share of a window."""
        return 1.0 - self.overlap


@dataclass
class Window:
    """Part of a sound.

    Args:
        start, end: Its begin and end, in seconds.
        crops: Frames (T, F) float16 of each crop; empty where it is silent.
    """

    start: float
    end: float
    crops: list[np.ndarray] = field(default_factory=list)


class Tape:
    """Sliding part of a sound that comes in blocks.

    Args:
        blocks: Samples (N,) each, of which only the part in use is kept in memory.

    Attributes:
        first: Number of the first sample that is kept.
        end: Number of the one after the last that was read.
    """

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks, self._kept = iter(blocks), deque[np.ndarray]()
        self.first = self.end = 0

    def reach(self, end: int) -> bool:
        """Read until there are `end` samples and return whether there are."""
        while self.end < end and (block := next(self._blocks, None)) is not None:
            self._kept.append(block)
            self.end += len(block)
        return self.end >= end

    def part(self, first: int, last: int) -> np.ndarray:
        """Return samples (last - first,) that were read and not yet dropped."""
        if len(self._kept) > 1:
            whole = np.concatenate(self._kept)
            self._kept.clear()
            self._kept.append(whole)
        return self._kept[0][first - self.first : last - self.first] if self._kept else np.empty(0, np.float32)

    def drop(self, before: int) -> None:
        """Drop all samples before one."""
        while self._kept and self.first < before:
            block = self._kept.popleft()
            if self.first + len(block) > before:
                self._kept.appendleft(block[before - self.first :])
                self.first = before
            else:
                self.first += len(block)


def windows(blocks: Iterable[np.ndarray], plan: WindowPlan) -> Iterator[Window]:
    """Yield the windows of a sound with their frames, from its first sample to its last.

    Args:
        blocks: Samples (N,) each, float32, at the front end's rate, in order.
        plan: How it is cut.
    """
    tape, rate = Tape(blocks), plan.front.rate
    for first, last in spans(tape, *_sizes(tape, plan), plan.hop):
        part = tape.part(first, last)
        crops = crops_of(plan.front.view(part, plan.columns), plan) if np.abs(part).max() >= SILENT else []
        yield Window(first / rate, last / rate, crops)


def spans(tape: Tape, size: int, whole: int, hop: float) -> Iterator[tuple[int, int]]:
    """Yield where windows begin and end; the tape holds the samples of the last one that was yielded.

    Args:
        tape: The sound, which is read as far as it is needed.
        size: Length of a window, in samples.
        whole: A sound that is no longer than this is one window.
        hop: From one window to the next, as a share of a window.

    Yields:
        First sample and the one after the last of each; the last window ends with the sound.
    """
    if not tape.reach(max(size, whole) + 1):
        yield 0, tape.end
        return
    step = max(1, round(size * hop))
    start = 0
    while tape.reach(start + size + 1):
        yield start, start + size
        tape.drop(start)  # the last window begins behind it
        start += step
    yield tape.end - size, tape.end


def crops_of(view: np.ndarray, plan: WindowPlan) -> list[np.ndarray]:
    """Return the crops of a clip that evaluation takes: all of it, or several crops; float16, as packs have them.

    Args:
        view: Its frames, of the network's columns (T, F).
        plan: How it is cropped.

    Raises:
        ValueError: They are not finite.
    """
    with np.errstate(over="ignore"):
        view = view.astype(np.float16)
    if not np.isfinite(view).all():
        raise ValueError("gives frames that are not finite")
    if not plan.crops or not plan.crop:
        return [view]
    length = min(plan.crop, len(view))
    starts = [crop_start(float(where), len(view), length) for where in crop_positions(plan.crops)]
    return [view[start : start + length] for start in starts]


def _sizes(tape: Tape, plan: WindowPlan) -> tuple[int, int]:
    """Return the samples of a window, and of the longest sound that is one."""
    front = plan.front
    if plan.window is not None:
        size = max(1, round(plan.window * front.rate))
        return size, size + front.n_fft  # a few frames more are no window of their own
    if front.sync == "beat":  # as long as so many beats take in this very sound
        known = round(max(TEMPO, plan.longest * SLOWEST) * front.rate)
        longer = tape.reach(known + 1)
        count = min(known, tape.end)
        beats = len(front.view(tape.part(0, count), plan.columns)) if count else 0
        size = max(1, round(count * plan.length / max(beats, 1)))
        return size, count if beats <= plan.longest and not longer else 0
    return plan.samples, plan.longest * front.hop_length + front.n_fft
