"""The LightningDataModule: any collection, seen through any feature, parted by any split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from etude.data.batch import Batch, Clips, Order
from etude.data.collection import Collection, DataError
from etude.data.feature import Feature
from etude.data.pack import Pack
from etude.data.prepare import prepare
from etude.data.splits import PARTS, Split


class MusicData(LightningDataModule):
    """Batches of frames with their true values.

    Args:
        source: The collection.
        feature: What the network sees of a frame.
        split: How clips are parted.
        batch_size: Clips of a training step, over all devices together.
        eval_batch_size: Clips of an evaluation step; whole clips are longer than crops.
        crop: Length of the random crops in training, in seconds; none trains on whole clips.
        workers: Processes that load. None at all (0) is fastest on small machines: a batch is one read of the map.
        overfit: Train on this many clips of the training part, the same crops each step, and judge on them too. A test
            of the network, never of its score; none for real work.
        packs: Folder where packs are kept between runs.
        seed: Seed of order and crops.

    Attributes:
        pack: The opened pack, after `setup`.
        parts: The part of each of its clips (N,), after `setup`.
        mean, std: Each bin over all frames of the training part, (F,) float32, after `setup`.
    """

    pack: Pack
    parts: np.ndarray
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        source: Collection,
        feature: Feature,
        split: Split,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        crop: float | None = 5.0,
        workers: int = 0,
        overfit: int | None = None,
        packs: str = "outputs/packs",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size), ("crop", crop or 1)):
            if value <= 0:
                raise ValueError(f"data.{name} must be greater than 0, got {value}")
        self.source, self.feature, self.split, self.overfit = source, feature, split, overfit
        self.batch_size, self.eval_batch_size, self.workers, self.seed = batch_size, eval_batch_size, workers, seed
        self.crop = None if crop is None else max(1, round(crop * feature.front.frames_per_second))
        self.packs = Path(packs)

    @property
    def targets(self) -> dict[str, dict[str, Any]]:
        """What can be learned from this collection, by name."""
        return self.source.targets

    def prepare_data(self) -> None:
        """Make the pack if it is not there yet."""
        prepare(self.source, self.feature.front, self.packs)

    def setup(self, stage: str | None = None) -> None:
        """Open the pack, part it, and measure the training part."""
        if hasattr(self, "pack"):
            return
        self.pack = prepare(self.source, self.feature.front, self.packs)
        self.parts = self.split.assign(self.pack.index)
        self.y = {name: _values(self.pack.index[name].to_numpy(), spec) for name, spec in self.targets.items()}
        self.mean, self.std = self._statistics()

    def rows(self, part: str) -> np.ndarray:
        """Rows of the pack's table that belong to a part."""
        return np.flatnonzero(self.parts == part)

    def clips(self, part: str, whole: bool) -> Clips:
        """The data set of a part: whole clips, or random crops."""
        return Clips(self.pack, self.rows(part), self.feature.columns, self.y, None if whole else self.crop)

    def loader(self, part: str, train: bool = False) -> DataLoader[Batch]:
        """Batches of a part: shuffled random crops to train on, or whole clips in order."""
        if part not in PARTS:
            raise DataError(f"a part is one of {', '.join(PARTS)}, got {part!r}")
        if self.overfit:
            few = self.rows("train")[:: max(1, len(self.rows("train")) // self.overfit)][: self.overfit]
            clips = Clips(self.pack, few, self.feature.columns, self.y, self.crop)
            return DataLoader(clips, batch_size=None, sampler=Order(len(few), len(few), shuffle=False))
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        size = self.batch_size if train else self.eval_batch_size * world
        order = Order(len(self.rows(part)), size, train, self.seed, rank, world)
        return DataLoader(
            self.clips(part, whole=not train),
            batch_size=None,  # the sampler gives whole batches
            sampler=order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled random crops of the training part."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Whole clips of the validation part."""
        return self.loader("val")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Whole clips of the validation and the test part: both go into the table of predictions."""
        return [self.loader("val"), self.loader("test")]

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each bin of the view over every frame of the training part, clip by clip."""
        total, square, count = 0.0, 0.0, 0
        for row in self.rows("train"):
            clip = self.pack.clip(row)[:, self.feature.columns].astype(np.float64)
            total, square, count = total + clip.sum(0), square + (clip**2).sum(0), count + len(clip)
        mean = np.asarray(total) / count
        std = np.sqrt(np.maximum(np.asarray(square) / count - mean**2, 1e-8))
        return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _values(column: np.ndarray, spec: dict[str, Any]) -> Tensor:
    """A label column as class indices with -1 for missing, or a scalar column as float32 with NaN for missing."""
    if spec["kind"] == "scalar":
        return torch.tensor(column.astype(np.float32))
    place = {name: i for i, name in enumerate(spec["classes"])}
    return torch.tensor([place.get(value, -1) for value in column])
