"""Bins of the frames that a network receives, data set of clips, batches, and the sampler of reproducible crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.data.pack import Pack
from etude.errors import UserError

VIEWS = ("mel", "chroma", "fused")
CropIndex = tuple[int, float]  # index of a clip in its split; relative position in [0, 1) of the crop's start
BUCKET = 32  # batches in a pool that is sorted by length; larger pools have less padding, smaller ones more randomness


@dataclass(frozen=True)
class Feature:
    """Selection of bins from the frames of a front end.

    Args:
        view: `mel`, `chroma`, or `fused` (mel bands, then pitch classes).
        sync: `none`, or `beat` for one frame a beat; the value is passed to the front end.
        front: Front end that computes the frames. All views of a front end share one pack on disk.
    """

    view: str = "mel"
    sync: str = "none"
    front: FrontEnd = field(default_factory=LogMelChroma)

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise UserError(f"feature.view must be one of {', '.join(VIEWS)}, got {self.view!r}")
        if not isinstance(self.front, FrontEnd):  # the config accepts any value of a group that is set as a key
            raise UserError(f"feature.front={self.front}: is not a front end; select one with feature/front=<name>")
        if self.view != "mel" and not self.front.n_chroma:
            raise UserError(f"feature.view={self.view}: this front end computes no chroma; use feature.view=mel")
        object.__setattr__(self, "front", replace(self.front, sync=self.sync))

    @property
    def columns(self) -> slice:
        """Bins of a frame (140,) that belong to the view."""
        mels = self.front.n_mels
        return {"mel": slice(0, mels), "chroma": slice(mels, self.front.bins), "fused": slice(0, self.front.bins)}[
            self.view
        ]

    @property
    def bins(self) -> int:
        """Width of the view, F."""
        return self.columns.stop - self.columns.start


@dataclass
class Batch:
    """Batch of clips for training or evaluation.

    Attributes:
        x: Frames (B * C, T, F), float16, as stored on disk. Frames after a crop's length are zero padding. The C crops
            of a clip are consecutive.
        lengths: Valid frames of each crop (B * C,), int64.
        y: True values by target, each (B,): class indices int64 with -1 for missing, or float32 with NaN for missing.
        row: Row of each clip in the pack's table (B,), int64.
        crops: Number of crops of each clip, C.
    """

    x: Tensor
    lengths: Tensor
    y: dict[str, Tensor]
    row: Tensor
    crops: int = 1


class Clips(Dataset[Batch]):
    """Data set of the clips of one split, read a batch at a time.

    Args:
        pack: Pack with the frames.
        rows: Rows (n,) of the split in the pack's table.
        columns: Bins of the view.
        y: True values by target for every row of the pack, each (N,).
        crop: Length of a crop in frames. None returns complete clips.
        crops: Number of evenly spaced crops of each clip, from its beginning to its end. None takes one crop, at the
            position that the sampler draws.
    """

    def __init__(
        self,
        pack: Pack,
        rows: np.ndarray,
        columns: slice,
        y: dict[str, Tensor],
        crop: int | None,
        crops: int | None = None,
    ) -> None:
        self.pack, self.rows, self.columns, self.y, self.crop = pack, rows, columns, y, crop
        self.lengths = pack.lengths[rows]
        self.positions = None if crops is None else crop_positions(crops)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def crop_lengths(self) -> np.ndarray:
        """Number of frames that are read of each clip (n,)."""
        return self.lengths if self.crop is None else np.minimum(self.lengths, self.crop)

    def __getitems__(self, indices: list[CropIndex]) -> Batch:
        """Read a batch.

        Args:
            indices: Index of each clip, and the relative position of its crop.
        """
        requested = [(i, drawn if self.positions is None else position) for i, drawn in indices
                  for position in ([0.0] if self.positions is None else self.positions)]  # fmt: skip
        lengths = [min(int(self.lengths[i]), self.crop or int(self.lengths[i])) for i, _ in requested]
        x = torch.empty(len(requested), max(lengths), self.columns.stop - self.columns.start, dtype=torch.float16)
        for clip, (i, position), length in zip(x.numpy(), requested, lengths, strict=True):
            start = crop_start(position, int(self.lengths[i]), length)
            clip[:length] = self.pack.clip(int(self.rows[i]), start, length)[:, self.columns]
            clip[length:] = 0
        row = torch.from_numpy(self.rows[[i for i, _ in indices]])
        y = {name: values[row] for name, values in self.y.items()}
        return Batch(x, torch.tensor(lengths), y, row, len(requested) // len(indices))

    __getitem__ = __getitems__  # the sampler's items are batches


def crop_positions(crops: int) -> np.ndarray:
    """Return the relative positions in [0, 1] of evenly spaced crops (C,). A single crop is centred."""
    return np.linspace(0, 1, crops) if crops > 1 else np.array([0.5])


def crop_start(position: float, frames: int, length: int) -> int:
    """Return the crop start in frames, for a relative position in [0, 1].

    Args:
        position: Relative position of the crop in the clip.
        frames: Length of the clip in frames.
        length: Length of the crop in frames.
    """
    starts = frames - length + 1
    return min(int(position * starts), starts - 1)


class CropBatchSampler(Sampler[list[CropIndex]]):
    """Sampler that yields whole batches of crops.

    The order and the crops are drawn in the main process, from the seed and the epoch alone. They are the same for any
    number of workers. With several devices, each takes every n-th clip of the same global batch, so that a step does
    not depend on the number of devices.

    Args:
        count: Number of clips in the split.
        batch_size: Clips in a step, over all devices together.
        shuffle: Draw a new order and new crops each epoch.
        seed: Seed of the order and the crops.
        rank: Rank of this process.
        world: Number of processes.
        lengths: Number of frames of each clip (n,), used to put clips of similar length in one batch. None ignores
            lengths.
        weights: Relative sampling frequency of each clip (n,), with replacement. None draws each clip once for each
            crop.
        crops: Crops of each clip in an epoch, of equal parts of the clip in a random order.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        lengths: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        crops: int = 1,
    ) -> None:
        self.count, self.batch_size, self.shuffle, self.seed, self.crops = count, batch_size, shuffle, seed, crops
        self.rank, self.world, self.lengths, self.weights, self.epoch = rank, world, lengths, weights, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[CropIndex]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order, positions = np.arange(self.count), np.zeros(self.count)
        if self.shuffle:
            order = np.concatenate([rng.permutation(self.count) for _ in range(self.crops)])
            positions = rng.random(len(order))
            if self.weights is not None:
                order = rng.choice(self.count, len(order), p=self.weights / self.weights.sum())
        if self.lengths is not None:
            order = self._sort_by_length(order)
        if self.shuffle and self.crops > 1 and self.weights is None:
            positions = (self._draw_parts(rng, order) + positions) / self.crops
        bounds = self._batch_bounds()
        if self.shuffle and self.lengths is not None:
            bounds = [bounds[i] for i in rng.permutation(len(bounds))]
        for start, stop in bounds:
            indices = range(start, stop)[self.rank :: self.world]
            # with fewer clips than devices a clip is evaluated twice; the table of predictions drops the duplicate
            yield [(int(order[i]), float(positions[i])) for i in indices or [start]]

    def __len__(self) -> int:
        return len(self._batch_bounds())

    def _draw_parts(self, rng: np.random.Generator, order: np.ndarray) -> np.ndarray:
        """Return the part of its clip from which each crop is drawn, so that each part of a clip is drawn once."""
        parts = np.empty(len(order), int)
        equal_clips = np.argsort(order, kind="stable")
        parts[equal_clips] = rng.permuted(np.tile(np.arange(self.crops), (self.count, 1)), axis=1).ravel()
        return parts

    def _sort_by_length(self, order: np.ndarray) -> np.ndarray:
        """Sort clips by length. In training they are sorted only within pools of several batches."""
        assert self.lengths is not None
        size = BUCKET * self.batch_size if self.shuffle else max(1, self.count)
        pools = [order[i : i + size] for i in range(0, len(order), size)]
        return np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])

    def _batch_bounds(self) -> list[tuple[int, int]]:
        """Return the start and stop index of each batch. In training, sizes are multiples of the number of devices."""
        bounds, total = [], self.count * (self.crops if self.shuffle else 1)
        for start in range(0, total, self.batch_size):
            stop = min(start + self.batch_size, total)
            if self.shuffle:
                stop -= (stop - start) % self.world
            if stop - start >= (self.world if self.shuffle else 1):
                bounds.append((start, stop))
        return bounds


def target_tensor(column: np.ndarray, spec: dict[str, Any]) -> Tensor:
    """Return a target column as a tensor, a label as class indices, a scalar as float32.

    Missing values are -1 in labels and NaN in scalars.
    """
    if spec["kind"] == "scalar":
        return torch.tensor(column.astype(np.float32))
    indices = {name: i for i, name in enumerate(spec["classes"])}
    return torch.tensor([indices.get(value, -1) for value in column])
