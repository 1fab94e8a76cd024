"""Batches: whole batches read from the map at once, and an order of clips that any number of workers reproduces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from etude.data.pack import Pack

Pick = tuple[int, float]  # a clip's place in its part, and where in [0, 1) of the room for it a crop begins


@dataclass
class Batch:
    """Clips that are learned from or judged together.

    Attributes:
        x: Frames (B, T, F), float16, as they are on disk; after a clip's length they are zero and mean nothing.
        lengths: Valid frames of each clip (B,), int64.
        y: True values by target, each (B,): class index int64 with -1 for missing, or float32 with NaN for missing.
        row: Row of each clip in the pack's table (B,), int64.
    """

    x: Tensor
    lengths: Tensor
    y: dict[str, Tensor]
    row: Tensor


class Clips(Dataset[Batch]):
    """The clips of one part of a split, a batch at a time.

    Args:
        pack: Where the frames are.
        rows: Rows (n,) of the part in the pack's table.
        columns: Bins of the view.
        y: True values by target for every row of the pack, each (N,).
        crop: Frames of a random crop; none gives whole clips.
    """

    def __init__(self, pack: Pack, rows: np.ndarray, columns: slice, y: dict[str, Tensor], crop: int | None) -> None:
        self.pack, self.rows, self.columns, self.y, self.crop = pack, rows, columns, y, crop
        self.lengths = pack.lengths[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, picks: list[Pick]) -> Batch:
        """Read a whole batch.

        Args:
            picks: Which clips, and where their crops begin.
        """
        crop = self.crop
        lengths = [int(self.lengths[i]) if crop is None else min(int(self.lengths[i]), crop) for i, _ in picks]
        x = torch.zeros(len(picks), max(lengths), self.columns.stop - self.columns.start, dtype=torch.float16)
        for clip, (i, where), length in zip(x, picks, lengths, strict=True):
            start = int(where * (self.lengths[i] - length + 1))
            clip[:length] = torch.from_numpy(self.pack.clip(self.rows[i], start, length)[:, self.columns].copy())
        row = torch.from_numpy(self.rows[[i for i, _ in picks]])
        return Batch(x, torch.tensor(lengths), {name: values[row] for name, values in self.y.items()}, row)


class Order(Sampler[list[Pick]]):
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
    """

    def __init__(
        self, count: int, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Pick]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.count) if self.shuffle else np.arange(self.count)
        where = rng.random(self.count) if self.shuffle else np.zeros(self.count)
        for start, stop in self._bounds():
            mine = order[start:stop][self.rank :: self.world]
            if not len(mine):  # fewer clips than devices: judge one twice, the table of predictions keeps one row of it
                mine = order[start : start + 1]
            yield [(int(i), float(where[i])) for i in mine]

    def __len__(self) -> int:
        return len(self._bounds())

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
