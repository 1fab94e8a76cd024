"""The LightningDataModule of all collections."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from etude.config.instantiate import make
from etude.data.batches import Batch, Clips, CropBatchSampler
from etude.data.collection import Collection
from etude.data.feature import Feature
from etude.data.pack import LONGEST, Pack, PackOptions
from etude.data.packing import open_pack
from etude.data.splits import PARTS, Split
from etude.errors import DataError
from etude.system.machine import why_one_process

log = logging.getLogger(__name__)


class MusicData(LightningDataModule):
    """Batches of frames with their true values.

    Args:
        source: The collection, or a source that makes its own pack.
        feature: What the network sees of a frame.
        split: How clips are parted.
        batch_size: Clips of a training step, over all devices together.
        eval_batch_size: Clips of an evaluation step; whole clips are longer than crops.
        crop: Length of the random crops in training: in seconds, or for beat-synchronous frames in beats; as one number
            or by name, `seconds` and `beats`. None trains on whole clips.
        eval_crops: Judge this many crops of each clip, evenly spaced, by the mean of their outputs; none judges whole
            clips.
        buckets: Put clips of like length into a batch, which saves padding where lengths differ.
        balanced_sampling: Draw the classes of this label equally often in training; none draws every clip once an
            epoch.
        workers: Processes that load. None at all (0) is fastest on small machines: a batch is one read of the map.
        overfit: Train on this many clips of the training part, the same crops each step, and judge on them too. A test
            of the network, never of its score; none for real work.
        packs: Folder where packs are kept between runs.
        min_seconds: Shorter clips are skipped.
        max_seconds: Longer sound files are skipped, and decoded no further; none accepts any.
        max_skipped: Share of clips that may be skipped before the collection is refused.
        packs_read_only: Whether packs are only read, because the folder was named by a stored config.
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
        crop: float | dict[str, float] | None = 5.0,
        eval_crops: int | None = None,
        buckets: bool = False,
        balanced_sampling: str | None = None,
        workers: int = 0,
        overfit: int | None = None,
        packs: str = "outputs/packs",
        min_seconds: float = 1.0,
        max_skipped: float = 0.1,
        packs_read_only: bool = False,
        max_seconds: float | None = LONGEST,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if source is None or split is None:
            raise ValueError(f"data.{'source' if source is None else 'split'} needs a value")
        beats = feature.front.sync == "beat"
        if isinstance(crop, dict):
            if set(crop) != {"seconds", "beats"}:
                raise ValueError(f"data.crop takes seconds and beats, or one number for both, got {', '.join(crop)}")
            crop = crop["beats" if beats else "seconds"]
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "crop": crop, "eval_crops": eval_crops}
        for name, value in sizes.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"data.{name} must be a number, got {value!r}")
            if value is not None and value <= 0:
                raise ValueError(f"data.{name} must be greater than 0, got {value}")
        if eval_crops and crop is None:
            raise ValueError("data.eval_crops needs data.crop, the length of each crop")
        if balanced_sampling is not None and source.targets.get(balanced_sampling, {}).get("kind") != "label":
            raise ValueError(f"data.balanced_sampling must name a label of this data, got {balanced_sampling!r}")
        self.source, self.feature, self.split, self.overfit = source, feature, split, overfit
        self.batch_size, self.eval_batch_size, self.workers, self.seed = batch_size, eval_batch_size, workers, seed
        self.crop = None if crop is None else max(1, round(crop * (1 if beats else feature.front.frames_per_second)))
        self.eval_crops, self.buckets, self.balanced_sampling = eval_crops, buckets, balanced_sampling
        longest = None if max_seconds is None else float(max_seconds)
        self.rules = PackOptions(Path(packs), min_seconds, max_skipped, read_only=packs_read_only, longest=longest)

    @property
    def targets(self) -> dict[str, dict[str, Any]]:
        """What can be learned from this collection, by name."""
        return self.source.targets

    def open_pack(self) -> Pack:
        """Return the pack of all clips, prepared first where it is missing or out of date."""
        return open_pack(self.source, self.feature.front, self.rules)

    def prepare_data(self) -> None:
        """Make the pack if it is not there yet."""
        self.open_pack()

    def setup(self, stage: str | None = None) -> None:
        """Open the pack, part it, and measure the training part."""
        if hasattr(self, "pack"):
            return
        self.pack = self.open_pack()
        self.parts = self.split.assign(self.pack.index, list(self.targets))
        self.y = {name: _values(self.pack.index[name].to_numpy(), spec) for name, spec in self.targets.items()}
        self.mean, self.std = self._statistics()

    def counts(self) -> dict[str, dict[str, list[int]]]:
        """Clips of the training part in each class, as `counts`, by the name of the label; after `setup`."""
        counts = {}
        for name, spec in self.targets.items():
            if spec["kind"] == "label":
                y = self.y[name][self.rows("train")]
                counts[name] = {"counts": y[y >= 0].bincount(minlength=len(spec["classes"])).tolist()}
        return counts

    def evaluation(self) -> dict[str, Any]:
        """What evaluation hears of a clip, for whoever has sounds of other lengths; after `setup`.

        Returns:
            `frames` of the median clip and of the `longest`, over all parts; `shortest`, seconds below which a clip is
            of no use; `crops` of a clip whose outputs are averaged, and their length `crop` in frames, or none.
        """
        lengths = self.pack.lengths
        return {
            "frames": int(np.median(lengths)),
            "longest": int(np.max(lengths)),
            "shortest": float(self.rules.shortest),
            "crop": self.crop if self.eval_crops else None,
            "crops": self.eval_crops,
        }

    def rows(self, part: str) -> np.ndarray:
        """Rows of the pack's table that belong to a part."""
        return np.flatnonzero(self.parts == part)

    def clips(self, part: str, whole: bool) -> Clips:
        """The data set of a part: random crops, or for evaluation whole clips or several crops of each."""
        crop = None if whole and not self.eval_crops else self.crop
        return Clips(self.pack, self.rows(part), self.feature.columns, self.y, crop, self.eval_crops if whole else None)

    def loader(self, part: str, train: bool = False) -> DataLoader[Batch]:
        """Batches of a part: shuffled random crops to train on, or what is judged, in order."""
        if part not in PARTS:
            raise DataError(f"a part is one of {', '.join(PARTS)}, got {part!r}")
        if self.overfit:
            few = self.rows("train")[:: max(1, len(self.rows("train")) // self.overfit)][: self.overfit]
            clips = Clips(self.pack, few, self.feature.columns, self.y, self.crop)
            return DataLoader(clips, batch_size=None, sampler=CropBatchSampler(len(few), len(few), shuffle=False))
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        size = self.batch_size if train else self.eval_batch_size * world
        lengths = self.pack.lengths[self.rows(part)] if self.buckets else None
        weights = self._weights() if train and self.balanced_sampling else None
        order = CropBatchSampler(len(self.rows(part)), size, train, self.seed, rank, world, lengths, weights)
        workers = self._usable_workers()
        return DataLoader(
            self.clips(part, whole=not train),
            batch_size=None,  # the sampler gives whole batches
            sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # a loader draws a number for its workers: of its own, or a resumed run would be one draw off
            generator=torch.Generator().manual_seed(self.seed),
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

    def _usable_workers(self) -> int:
        """Return the number of worker processes, 0 where the machine cannot start any."""
        if self.workers and (reason := why_one_process()):
            log.warning("data.workers=%d: batches are read in the training process: %s", self.workers, reason)
            self.workers = 0
        return self.workers

    def _weights(self) -> np.ndarray:
        """How often each clip of the training part is drawn (n,): inversely to its class's size, or as on average."""
        assert self.balanced_sampling is not None
        y = self.y[self.balanced_sampling][self.rows("train")].numpy()
        counts = np.bincount(y[y >= 0], minlength=1)
        return np.where(y >= 0, 1 / np.maximum(counts, 1)[y], np.count_nonzero(counts) / max(1, counts.sum()))

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


def build_datamodule(config: Mapping[str, Any]) -> MusicData:
    """Return the data module of a whole config."""
    return make(config["data"], feature=make(config["feature"]), seed=config["seed"])
