"""Batches of clips, and the sampler of reproducible crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from etude.data.pack import Pack

CropIndex = tuple[int, float]  # a clip's place in its part, and where in [0, 1) of the room for it a crop begins
BUCKET = 32  # batches among which clips are sorted by length: enough to be alike, few enough to stay shuffled


@dataclass
class Batch:
    """Clips that are learned from or judged together.

    Attributes:
        x: Frames (B * C, T, F), float16, as they are on disk; after a crop's length they are zero and mean nothing.
            The C crops of a clip follow one another.
        lengths: Valid frames of each crop (B * C,), int64.
        y: True values by target, each (B,): class index int64 with -1 for missing, or float32 with NaN for missing.
        row: Row of each clip in the pack's table (B,), int64.
        crops: How many crops a clip has here, C.
    """

    x: Tensor
    lengths: Tensor
    y: dict[str, Tensor]
    row: Tensor
    crops: int = 1


class Clips(Dataset[Batch]):
    """The clips of one part of a split, a batch at a time.

    Args:
        pack: Where the frames are.
        rows: Rows (n,) of the part in the pack's table.
        columns: Bins of the view.
        y: True values by target for every row of the pack, each (N,).
        crop: Frames of a crop; none gives whole clips.
        crops: Take this many crops of each clip, evenly from its beginning to its end; none takes one, where the
            sampler says.
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
        self.places = None if crops is None else crop_positions(crops)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, picks: list[CropIndex]) -> Batch:
        """Read a whole batch.

        Args:
            picks: Which clips, and where their crops begin.
        """
        wanted = [(i, where if self.places is None else place) for i, where in picks
                  for place in ([0.0] if self.places is None else self.places)]  # fmt: skip
        lengths = [min(int(self.lengths[i]), self.crop or int(self.lengths[i])) for i, _ in wanted]
        x = torch.empty(len(wanted), max(lengths), self.columns.stop - self.columns.start, dtype=torch.float16)
        for clip, (i, where), length in zip(x.numpy(), wanted, lengths, strict=True):
            start = crop_start(where, int(self.lengths[i]), length)
            clip[:length] = self.pack.clip(int(self.rows[i]), start, length)[:, self.columns]
            clip[length:] = 0
        row = torch.from_numpy(self.rows[[i for i, _ in picks]])
        y = {name: values[row] for name, values in self.y.items()}
        return Batch(x, torch.tensor(lengths), y, row, len(wanted) // len(picks))

    __getitem__ = __getitems__  # the sampler's items are batches


def crop_positions(crops: int) -> np.ndarray:
    """Where in [0, 1] of the room for it each of several crops of a clip begins (C,); a single one is its middle."""
    return np.linspace(0, 1, crops) if crops > 1 else np.array([0.5])


def crop_start(where: float, frames: int, length: int) -> int:
    """The first frame of a crop of `length` frames, of a clip that has `frames`."""
    room = frames - length + 1
    return min(int(where * room), room - 1)


class CropBatchSampler(Sampler[list[CropIndex]]):
    """Which clips make up each batch of an epoch.

    The order and the crops are drawn here, in the main process, from the seed and the epoch alone. So they are the same
    for any number of workers; and with several devices each takes every n-th clip of the same global batch, so that a
    step means the same on one device and on eight.

    Args:
        count: Clips of the part.
        batch_size: Clips of a step, over all devices together.
        shuffle: Draw a new order and new crops each epoch.
        seed: Seed of the draws.
        rank: This process.
        world: All processes.
        lengths: Frames of each clip (n,): clips of like length share a batch. None: lengths do not matter.
        weights: How often each clip is drawn (n,), with replacement and in proportion to one another. None: each once.
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
    ) -> None:
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world, self.lengths, self.weights, self.epoch = rank, world, lengths, weights, 0

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[CropIndex]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order, where = np.arange(self.count), np.zeros(self.count)
        if self.shuffle:
            order, where = rng.permutation(self.count), rng.random(self.count)
            if self.weights is not None:
                order = rng.choice(self.count, self.count, p=self.weights / self.weights.sum())
        if self.lengths is not None:
            order = self._sorted(order)
        bounds = self._bounds()
        if self.shuffle and self.lengths is not None:
            bounds = [bounds[i] for i in rng.permutation(len(bounds))]
        for start, stop in bounds:
            mine = range(start, stop)[self.rank :: self.world]
            # fewer clips than devices: judge one twice, the table of predictions keeps one row of it
            yield [(int(order[i]), float(where[i])) for i in mine or [start]]

    def __len__(self) -> int:
        return len(self._bounds())

    def _sorted(self, order: np.ndarray) -> np.ndarray:
        """Sort by length: everything, or in training within pools of some batches."""
        assert self.lengths is not None
        pool = BUCKET * self.batch_size if self.shuffle else max(1, self.count)
        pools = [order[i : i + pool] for i in range(0, len(order), pool)]
        return np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])

    def _bounds(self) -> list[tuple[int, int]]:
        """First and last place of each batch; in training every device has as many clips of it as the others."""
        bounds = []
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            if self.shuffle:
                stop -= (stop - start) % self.world
            if stop - start >= (self.world if self.shuffle else 1):
                bounds.append((start, stop))
        return bounds
