"""Splits, statistics and batches of all collections.

`etude.training.build.LightningData` passes them to Lightning, which this module does not import.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from etude.config.instantiate import make
from etude.data.batches import Batch, Clips, CropBatchSampler, Feature, target_tensor
from etude.data.collection import Collection, check_kinds
from etude.data.pack import LONGEST, Pack, PackOptions
from etude.data.packing import open_pack
from etude.data.partition import SPLITS, UNUSED
from etude.data.splits import Assignment, Split, class_counts, unlearnable_classes
from etude.data.training_record import ClipKeys
from etude.errors import DataError
from etude.system.machine import why_one_process

MAX_CROPS = 8  # of each clip in an epoch by default; crops of one clip are similar
log = logging.getLogger(__name__)


class MusicData:
    """Data module that yields batches of frames and their true values.

    Args:
        source: The collection, or a source that makes its own pack.
        feature: Bins and time unit of the frames.
        split: Splitter of the clips.
        batch_size: Clips in a training step, over all devices together.
        eval_batch_size: Clips in an evaluation step on each device. Complete clips are longer than crops.
        crop: Length of the random crops in training, in seconds, or in beats for beat-synchronous frames. It is one
            number, or a mapping with `seconds` and `beats`. None trains on complete clips.
        crops_per_clip: Number of random crops of each clip in a training epoch. `auto` draws about half of the music,
            at least one crop and at most 8.
        eval_crops: Number of evenly spaced crops of each clip in evaluation. Their outputs are averaged. None evaluates
            complete clips.
        buckets: Put clips of similar length into a batch, which reduces padding.
        balanced_sampling: Label whose classes are drawn equally often in training. None draws every clip once an epoch.
        workers: Number of loading processes. 0 is fastest on small machines, because a batch is one read of the
            memory-mapped file.
        overfit: Train and evaluate on this many clips of the training split, with the same crops in each step, to test
            whether the network can fit them. None disables it.
        packs: Folder in which packs are stored between runs.
        min_seconds: Shorter clips are skipped.
        max_seconds: Longer audio files are skipped, and decoding stops there. None sets no limit.
        max_skipped: Largest accepted share of skipped clips. A collection with a larger share is refused.
        max_clips: Number of clips of a sample for trying settings (`Collection.sample`). None uses all clips.
        leave_out: A run or a checkpoint. The clips on which its weights were ever trained are left out of validation
            and test, as in a run that starts from these weights with transfer.overlap=drop, so that both are
            comparable.
        packs_read_only: Whether packs are only read, never written, because a stored config names the folder.
        targets: Kinds of targets by name, as `label`, `scalar` or a range. A table uses them for its columns. For other
            data they are only compared with the kinds that the data have.
        seed: Seed of order and crops.

    Attributes:
        rank: Number of this process.
        world: Number of processes that share the batches.
        pack: The opened pack, after `setup`.
        assignment: The assignment of its clips to splits, after `setup`.
        splits: The split of each of its clips (N,), after `setup`.
        class_counts: Number of clips of each label, class and split, after `setup`.
        fitted_splits: Splits to whose clips the network and the baselines are fitted.
        mean: Mean of each bin over all frames of the training split, (F,) float32, after `setup`.
        std: Standard deviation of each bin over these frames, (F,) float32, after `setup`.
    """

    pack: Pack
    assignment: Assignment
    splits: np.ndarray
    class_counts: dict[str, dict[str, dict[str, int]]]
    fitted_splits: Sequence[str] = ("train",)
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
        crops_per_clip: int | str = 1,
        eval_crops: int | None = None,
        buckets: bool = False,
        balanced_sampling: str | None = None,
        workers: int = 0,
        overfit: int | None = None,
        packs: str = "outputs/packs",
        min_seconds: float = 1.0,
        max_skipped: float = 0.1,
        leave_out: str | None = None,
        packs_read_only: bool = False,
        max_seconds: float | None = LONGEST,
        max_clips: int | None = None,
        targets: Mapping[str, Any] | str | None = None,
        seed: int = 0,
    ) -> None:
        if source is None or split is None:
            raise ValueError(f"data.{'source' if source is None else 'split'} needs a value")
        check_kinds(source, targets)
        beats = feature.front.sync == "beat"
        if isinstance(crop, dict):
            if set(crop) != {"seconds", "beats"}:
                raise ValueError(f"data.crop takes seconds and beats, or one number for both, got {', '.join(crop)}")
            crop = crop["beats" if beats else "seconds"]
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "crop": crop, "eval_crops": eval_crops,
                 "max_clips": max_clips}  # fmt: skip
        for name, value in sizes.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"data.{name} must be a number, got {value!r}")
            if value is not None and value <= 0:
                raise ValueError(f"data.{name} must be greater than 0, got {value}")
        if crops_per_clip != "auto" and (type(crops_per_clip) is not int or crops_per_clip < 1):
            raise ValueError(f"data.crops_per_clip must be auto or a whole number from 1, got {crops_per_clip!r}")
        if crop is None and (eval_crops or crops_per_clip not in ("auto", 1)):
            key = "eval_crops" if eval_crops else "crops_per_clip"
            raise ValueError(f"data.{key} needs data.crop, the length of each crop")
        if balanced_sampling is not None and source.targets.get(balanced_sampling, {}).get("kind") != "label":
            raise ValueError(f"data.balanced_sampling must name a label of this data, got {balanced_sampling!r}")
        source = source.sample(max_clips) if max_clips and isinstance(source, Collection) else source
        self.source, self.feature, self.split, self.overfit = source, feature, split, overfit
        self.batch_size, self.eval_batch_size, self.workers, self.seed = batch_size, eval_batch_size, workers, seed
        self.crop = None if crop is None else max(1, round(crop * (1 if beats else feature.front.frames_per_second)))
        self.crops_per_clip, self.eval_crops = crops_per_clip, eval_crops
        self.buckets, self.balanced_sampling = buckets, balanced_sampling
        self.leave_out = leave_out
        self.rank, self.world = 0, 1
        longest = None if max_seconds is None else float(max_seconds)
        self.pack_options = PackOptions(
            Path(packs), min_seconds, max_skipped, read_only=packs_read_only, longest=longest
        )

    @property
    def targets(self) -> dict[str, dict[str, Any]]:
        """Specifications of the targets of the collection, by name."""
        return self.source.targets

    def open_pack(self) -> Pack:
        """Return the pack of all clips, and prepare it first if it is missing or outdated."""
        return open_pack(self.source, self.feature.front, self.pack_options)

    def prepare_data(self) -> None:
        """Prepare the pack if it is missing or outdated."""
        self.open_pack()

    def setup(self) -> None:
        """Open the pack, assign the splits and compute the statistics of the training split."""
        if hasattr(self, "pack"):
            return
        self.pack = self.open_pack()
        self._assign(self.split.plan(self.pack.index, list(self.targets)))
        self._log_unlearnable_classes()
        self.y = {name: target_tensor(self.pack.index[name].to_numpy(), spec) for name, spec in self.targets.items()}
        if (name := self.balanced_sampling) and not (self.y[name][self.rows("train")] >= 0).any():
            raise DataError(f"data.balanced_sampling={name}: no training clip has a {name}; set it to null")
        self.mean, self.std = self._statistics()

    def _assign(self, assignment: Assignment) -> None:
        """Use an assignment of the clips to splits."""
        self.assignment, self.splits = assignment, assignment.splits
        self.class_counts = class_counts(self.pack.index, self.splits, self.targets)

    def _log_unlearnable_classes(self) -> None:
        """Log the classes that are evaluated without fitted clips, and the classes in training alone."""
        for name, rows in self.class_counts.items():
            fitted = {value: sum(row[split] for split in self.fitted_splits) for value, row in rows.items()}
            by_class = {value: row | {"train": fitted[value]} for value, row in rows.items()}
            untrained, only_trained = unlearnable_classes(by_class)
            if untrained:
                sizes = [f"{value} ({rows[value]['val']} val, {rows[value]['test']} test)" for value in untrained]
                log.warning(
                    "%s: no training clips of %s, so these clips cannot be classified; data.split.few_groups=train or "
                    "drop decides otherwise", name, ", ".join(sizes)
                )  # fmt: skip
            if only_trained:
                log.warning("%s: only training clips of %s, so this split does not test them; data.split.stratify "
                            "names the column by which the clips are split", name, ", ".join(only_trained))  # fmt: skip

    def counts(self) -> dict[str, dict[str, list[int]]]:
        """Return, for each label, the number of training clips in each class under the key `counts`.

        Call `setup` first.
        """
        counts = {}
        for name, spec in self.targets.items():
            if spec["kind"] == "label":
                y = self.y[name][self.rows("train")]
                counts[name] = {"counts": y[y >= 0].bincount(minlength=len(spec["classes"])).tolist()}
        return counts

    def evaluation(self) -> dict[str, Any]:
        """Return the lengths and crops of evaluated clips, for inference on files of other lengths.

        Call `setup` first.

        Returns:
            Mapping with these values.

            - `frames`: median length over all splits, in frames
            - `longest`: largest length, in frames
            - `shortest`: minimum length, in seconds
            - `crops`: number of crops of a clip whose outputs are averaged, or None for complete clips
            - `crop`: length of these crops in frames, or None
        """
        lengths = self.pack.lengths
        return {
            "frames": int(np.median(lengths)),
            "longest": int(np.max(lengths)),
            "shortest": float(self.pack_options.shortest),
            "crop": self.crop if self.eval_crops else None,
            "crops": self.eval_crops,
        }

    def drop_clips(self, rows: np.ndarray, reason: str) -> None:
        """Leave clips out of all splits. Call `setup` first.

        Args:
            rows: Mask of the clips (N,), bool.
            reason: Reason, which is listed for each clip in the run's split.csv.

        Raises:
            DataError: A split becomes empty.
        """
        remaining = np.where(rows, UNUSED, self.splits)
        if empty := [split for split in SPLITS if not (remaining == split).any()]:
            raise DataError(
                f"no clips are left for {' and '.join(empty)}: {int(rows.sum())} clips are left out ({reason})"
            )
        left_out = self.assignment.left_out | dict.fromkeys(self.pack.index["id"][rows], reason)
        self._assign(replace(self.assignment, splits=remaining, left_out=left_out))

    @property
    def clip_keys(self) -> ClipKeys:
        """Keys by which the clips are recognised in other collections. Call `setup` first."""
        return ClipKeys.of_clips(self.pack.index, getattr(self.source, "id_space", None))

    def rows(self, split: str | Sequence[str]) -> np.ndarray:
        """Return the rows of one or more splits in the pack's table."""
        return np.flatnonzero(np.isin(self.splits, split))

    def clips(self, split: str | Sequence[str], evaluation: bool) -> Clips:
        """Return the data set of a split, with random crops, or with complete clips or several crops for evaluation."""
        crop = None if evaluation and not self.eval_crops else self.crop
        crops = self.eval_crops if evaluation else None
        return Clips(self.pack, self.rows(split), self.feature.columns, self.y, crop, crops)

    def crops_in_epoch(self) -> int:
        """Return the number of crops of each clip in a training epoch. Call `setup` first."""
        if self.crop is None:
            return 1
        if self.crops_per_clip != "auto":
            return int(self.crops_per_clip)
        n_frames = float(self.pack.lengths[self.rows("train")].mean())
        return min(MAX_CROPS, max(1, round(n_frames / (2 * self.crop))))

    def loader(self, split: str | Sequence[str], train: bool = False) -> DataLoader[Batch]:
        """Return the batches of a split, shuffled random crops for training, or evaluation clips in order.

        Evaluation clips can be of several splits.
        """
        if not ({split} if isinstance(split, str) else set(split)) <= set(SPLITS):
            raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if self.overfit:
            train_rows = self.rows("train")
            rows = train_rows[:: max(1, len(train_rows) // self.overfit)][: self.overfit]
            clips = Clips(self.pack, rows, self.feature.columns, self.y, self.crop)
            return DataLoader(clips, batch_size=None, sampler=CropBatchSampler(len(rows), len(rows), shuffle=False))
        rank, world = self.rank, self.world
        size = self.batch_size if train else self.eval_batch_size * world
        clips = self.clips(split, evaluation=not train)
        lengths = clips.crop_lengths if self.buckets else None
        weights = self._sampling_weights() if train and self.balanced_sampling else None
        crops = self.crops_in_epoch() if train else 1
        sampler = CropBatchSampler(len(clips), size, train, self.seed, rank, world, lengths, weights, crops)
        workers = self._usable_workers()
        return DataLoader(
            clips,
            batch_size=None,  # the sampler yields whole batches
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # a loader draws a seed for its workers; a draw from the global generator would change resumed runs
            generator=torch.Generator().manual_seed(self.seed),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled random crops of the training split."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return complete clips of the validation split."""
        return self.loader("val")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return complete clips of the validation and test splits, both of which are predicted."""
        return [self.loader("val"), self.loader("test")]

    def _usable_workers(self) -> int:
        """Return the number of worker processes, or 0 if the machine cannot start any."""
        if self.workers and (reason := why_one_process()):
            log.warning("data.workers=%d: batches are read in the training process: %s", self.workers, reason)
            self.workers = 0
        return self.workers

    def _sampling_weights(self) -> np.ndarray:
        """Return the sampling weight of each training clip (n,), inverse to its class size.

        A clip without a label has the average weight.
        """
        assert self.balanced_sampling is not None
        y = self.y[self.balanced_sampling][self.rows("train")].numpy()
        counts = np.bincount(y[y >= 0], minlength=1)
        return np.where(y >= 0, 1 / np.maximum(counts, 1)[y], np.count_nonzero(counts) / max(1, counts.sum()))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of each bin over all frames of the training split."""
        total, square, count = 0.0, 0.0, 0
        for row in self.rows("train"):
            clip = self.pack.clip(row)[:, self.feature.columns].astype(np.float64)
            total, square, count = total + clip.sum(0), square + (clip**2).sum(0), count + len(clip)
        mean = np.asarray(total) / count
        std = np.sqrt(np.maximum(np.asarray(square) / count - mean**2, 1e-8))
        return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def build_datamodule(config: Mapping[str, Any]) -> MusicData:
    """Return the data module of a complete config."""
    return make(config["data"], feature=make(config["feature"]), seed=config["seed"])
