"""Division of audio into windows.

The samples are divided, not the frames. A front end may normalise a clip by its loudest bin, or estimate tuning and
beats from it, so frames that are cut from a complete song differ from the frames of clips. The front end processes each
window separately, like a file that contains only this window. A file that is not longer than the training clips is one
window. Its predictions equal the predictions in the run's table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.data.audio_files import SILENT
from etude.data.batches import crop_positions, crop_start
from etude.data.pack import combined_hash, frames_hash
from etude.errors import UserError

BEAT_SECONDS = 180.0  # seconds of a long file in which beats are counted to determine the length of a window
SLOWEST_BEAT = 1.5  # seconds, 40 beats per minute; a training clip with many beats may exceed BEAT_SECONDS
DEFAULT_SECONDS = 30.0  # length of a clip if the checkpoint does not contain it


@dataclass(frozen=True)
class WindowPlan:
    """Rules for the division of audio into windows. It can be sent to other processes.

    Args:
        front: Front end that computes the frames.
        columns: First column of the network's input, and the column after the last.
        length: Number of frames of a window (beats if frames are beat-synchronous), the median of the training clips.
        longest: Number of frames of the longest training clip. Audio that is not longer is one window.
        shortest: Minimum length of an audio file in seconds.
        crop: Number of frames of each crop, if evaluation averages several crops.
        crops: Number of crops that evaluation averages. None uses a window as one crop.
        window: Length of a window in seconds, instead of `length` and `longest`.
        overlap: Overlap of successive windows as a fraction of a window.
        hashed: Whether the frames of each window are hashed, as keys of the embedding store.
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
    hashed: bool = False

    def __post_init__(self) -> None:
        if self.window is not None and not 0 < self.window < float("inf"):
            raise UserError(f"--window {self.window:g}: must be a number of seconds greater than 0")
        if self.window is not None and self.window < (frame := self.front.hop_length / self.front.rate):
            raise UserError(f"--window {self.window:g}: is shorter than a frame, which has {frame:.2g} seconds")
        if not 0 <= self.overlap <= 0.95:
            raise UserError(f"--overlap {self.overlap:g}: must be a fraction of a window from 0 to 0.95")

    @classmethod
    def from_recipe(
        cls, recipe: Mapping[str, Any], front: FrontEnd, window: float | None = None, overlap: float = 0.5
    ) -> WindowPlan:
        """Return the plan for a network.

        Args:
            recipe: Recipe in the network's checkpoint.
            front: Front end of the network.
            window: Length of a window in seconds. None uses the length of the training clips.
            overlap: Overlap of successive windows as a fraction of a window.
        """
        clips = recipe.get("evaluation")
        if not clips:  # checkpoints of older versions do not contain it
            frames = round(DEFAULT_SECONDS * (2 if front.sync == "beat" else front.frames_per_second))  # 2 beats/s
            clips = {"frames": frames, "longest": frames}
        return cls(
            front, tuple(recipe["columns"]), clips["frames"], clips["longest"], clips.get("shortest", 0.0),
            clips.get("crop"), clips.get("crops"), window, overlap,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return all settings except the front end as plain values."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("front", "hashed")}
        return values | {"columns": [*self.columns]}

    @property
    def samples(self) -> int:
        """Number of samples of a window of `length` frames, if frames are not beat-synchronous.

        A centred transform has one frame more than hops. With another transform a window is longer by one hop.
        """
        return (self.length - 1) * self.front.hop_length + 1

    @property
    def seconds(self) -> float:
        """Length of a window of `length` frames in seconds, if frames are not beat-synchronous."""
        return self.samples / self.front.rate

    @property
    def single_samples(self) -> int:
        """Maximum number of samples of audio that is a single window, if frames are not beat-synchronous."""
        return max(self.samples, self.longest * self.front.hop_length + self.front.n_fft)

    @property
    def hop(self) -> float:
        """Distance between the starts of successive windows, as a fraction of a window."""
        return 1.0 - self.overlap

    def max_seconds(self, max_bytes: int) -> float:
        """Return the longest audio in seconds whose windows fit into `max_bytes`, at least the length of a window."""
        fps = 2.0 if self.front.sync == "beat" else self.front.frames_per_second
        rate = fps * (self.columns[1] - self.columns[0]) * np.dtype(np.float16).itemsize / self.hop
        return max(max_bytes / rate, self.window or 0.0, (self.longest + 2) / fps)


@dataclass
class Window:
    """Part of an audio file.

    Args:
        start, end: Start and end in seconds.
        crops: Frames (T, F) of each crop, float16. Empty if the window is silent.
        key: Hash of the frames, or of the hashes of several crops. Empty if the window is silent or hashes are not
            requested.
    """

    start: float
    end: float
    crops: list[np.ndarray] = field(default_factory=list)
    key: str = ""


class SampleBuffer:
    """Sliding buffer of the samples of an audio file that is read in blocks.

    Args:
        blocks: Blocks of samples (N,). Only those in use are kept in memory.

    Attributes:
        first: Index of the first sample in the buffer.
        end: Number of samples that were read.
    """

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks, self._kept = iter(blocks), deque[np.ndarray]()
        self.first = self.end = 0

    def read_until(self, end: int) -> bool:
        """Read until `end` samples were read, and return whether the file has so many."""
        while self.end < end and (block := next(self._blocks, None)) is not None:
            self._kept.append(block)
            self.end += len(block)
        return self.end >= end

    def samples(self, first: int, last: int) -> np.ndarray:
        """Return samples (last - first,) that are in the buffer."""
        if len(self._kept) > 1:
            joined = np.concatenate(self._kept)
            self._kept.clear()
            self._kept.append(joined)
        return self._kept[0][first - self.first : last - self.first] if self._kept else np.empty(0, np.float32)

    def drop_before(self, index: int) -> None:
        """Remove all samples before an index."""
        while self._kept and self.first < index:
            block = self._kept.popleft()
            if self.first + len(block) > index:
                self._kept.appendleft(block[index - self.first :])
                self.first = index
            else:
                self.first += len(block)


def cut_windows(blocks: Iterable[np.ndarray], plan: WindowPlan) -> Iterator[Window]:
    """Yield the windows of an audio file with their frames. They cover all samples.

    Args:
        blocks: Blocks of samples (N,), float32, at the rate of the front end, in order.
        plan: Window plan.
    """
    buffer, rate = SampleBuffer(blocks), plan.front.rate
    for first, last in window_spans(buffer, *_window_sizes(buffer, plan), plan.hop):
        samples = buffer.samples(first, last)
        crops: list[np.ndarray] = []
        if np.abs(samples).max() >= SILENT:
            crops = evaluation_crops(plan.front.view(samples, plan.columns), plan)
        yield Window(first / rate, last / rate, crops, window_key(crops, plan))


def window_key(crops: list[np.ndarray], plan: WindowPlan) -> str:
    """Return the key of a window's frames in the embedding store, or "" without frames or `plan.hashed`."""
    hashes = [frames_hash(crop) for crop in crops] if plan.hashed else [""]
    return hashes[0] if len(hashes) == 1 else combined_hash(hashes) if hashes else ""


def window_spans(buffer: SampleBuffer, size: int, single: int, hop: float) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each window. The buffer contains the samples of the last yielded window.

    Args:
        buffer: Samples of the audio file, which are read as far as needed.
        size: Length of a window in samples.
        single: Maximum length in samples of an audio file that is a single window.
        hop: Distance between the starts of successive windows, as a fraction of a window.

    Yields:
        Index of the first sample, and of the sample after the last. The last window ends with the audio file.
    """
    if not buffer.read_until(max(size, single) + 1):
        yield 0, buffer.end
        return
    step, start = window_step(size, hop), 0
    while buffer.read_until(start + size + 1):
        yield start, start + size
        buffer.drop_before(start)  # the last window starts after it
        start += step
    yield buffer.end - size, buffer.end


def window_step(size: int, hop: float) -> int:
    """Return the number of samples between the starts of successive windows of `size` samples."""
    return max(1, round(size * hop))


def evaluation_crops(view: np.ndarray, plan: WindowPlan) -> list[np.ndarray]:
    """Return the crops of a clip that evaluation uses, as float16, the type of packs.

    Args:
        view: Frames of the clip in the columns of the network (T, F).
        plan: Window plan.

    Raises:
        ValueError: Frames are not finite.
    """
    with np.errstate(over="ignore"):
        view = view.astype(np.float16)
    if not np.isfinite(view).all():
        raise ValueError("gives frames that are not finite")
    if not plan.crops or not plan.crop:
        return [view]
    length = min(plan.crop, len(view))
    starts = [crop_start(float(position), len(view), length) for position in crop_positions(plan.crops)]
    return [view[start : start + length] for start in starts]


def _window_sizes(buffer: SampleBuffer, plan: WindowPlan) -> tuple[int, int]:
    """Return the number of samples of a window, and of the longest audio file that is a single window."""
    front = plan.front
    if plan.window is not None:
        size = max(1, round(plan.window * front.rate))
        return size, size + front.n_fft  # a few more frames do not make another window
    if front.sync == "beat":  # the mean length of `plan.length` beats in this audio file
        limit = round(max(BEAT_SECONDS, plan.longest * SLOWEST_BEAT) * front.rate)
        longer = buffer.read_until(limit + 1)
        count = min(limit, buffer.end)
        beats = len(front.view(buffer.samples(0, count), plan.columns)) if count else 0
        size = max(1, round(count * plan.length / max(beats, 1)))
        return size, count if beats <= plan.longest and not longer else 0
    return plan.samples, plan.single_samples
