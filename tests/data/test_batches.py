"""Tests of batches and of the sampler of crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from etude.audio.log_mel import LogMelChroma
from etude.data.batches import BUCKET, Batch, Clips, CropBatchSampler
from etude.data.datamodule import MusicData, build_datamodule
from etude.data.feature import Feature
from etude.data.pack import Pack
from etude.data.pack_writer import write_pack
from etude.data.packing import open_pack
from etude.data.splits import Split

LENGTHS = (9, 3, 14, 10, 1, 11)
CROP = 10


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Return a pack whose frames contain the index of the clip in the first bin and of the frame in the second."""
    clips = [np.stack([np.full(count, clip), np.arange(count)], 1) for clip, count in enumerate(LENGTHS)]
    return write_pack(
        tmp_path_factory.mktemp("pack") / "positions", pd.DataFrame({"id": range(len(LENGTHS))}), clips, {}
    )


def clips(pack: Pack, crop: int | None, rows: Iterable[int] = range(len(LENGTHS)), crops: int | None = None) -> Clips:
    y = {"genre": torch.arange(len(LENGTHS)) * 10, "energy": torch.arange(len(LENGTHS)) / 10}
    return Clips(pack, np.array(list(rows)), slice(0, 2), y, crop, crops)


@pytest.mark.parametrize("position", [0.0, 0.25, 0.5, 0.75, 1 - 2**-53])
def test_crop_is_contiguous_excerpt_of_clip(pack: Pack, position: float) -> None:
    batch = clips(pack, CROP)[[(i, position) for i in range(len(LENGTHS))]]
    assert batch.lengths.tolist() == [min(CROP, length) for length in LENGTHS]
    for i, (x, length) in enumerate(zip(batch.x, batch.lengths.tolist(), strict=True)):
        assert (x[:length, 0] == i).all()
        first = int(x[0, 1])
        assert 0 <= first <= LENGTHS[i] - length
        assert x[:length, 1].tolist() == list(range(first, first + length))
        assert (x[length:] == 0).all()


def test_crop_starts_cover_all_positions(pack: Pack) -> None:
    wheres = np.linspace(0, 1, 1000, endpoint=False)
    starts = Counter(int(clips(pack, CROP)[[(2, float(position))]].x[0, 0, 1]) for position in wheres)
    assert starts == dict.fromkeys(range(5), 200)


def test_complete_clips_have_lengths_and_zero_padding(pack: Pack) -> None:
    batch = clips(pack, None)[[(i, 0.0) for i in (4, 2, 1)]]
    assert batch.x.shape == (3, 14, 2)
    assert batch.x.dtype == torch.float16
    assert batch.lengths.tolist() == [1, 14, 3]
    assert batch.lengths.dtype == torch.int64
    for x, row, length in zip(batch.x, (4, 2, 1), batch.lengths.tolist(), strict=True):
        np.testing.assert_array_equal(x[:length], pack.clip(row))
        assert (x[length:] == 0).all()


def test_index_in_split_maps_to_row_of_table(pack: Pack) -> None:
    batch = clips(pack, None, rows=[5, 0, 3])[[(2, 0.0), (0, 0.0)]]
    assert batch.row.tolist() == [3, 5]
    assert batch.x[:, 0, 0].tolist() == [3, 5]
    assert batch.y["genre"].tolist() == [30, 50]
    assert batch.y["energy"].tolist() == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize("crop", [1, 4, 10, 13])
@pytest.mark.parametrize("crops", [2, 3, 4, 7])
def test_several_crops_are_evenly_spaced(pack: Pack, crop: int, crops: int) -> None:
    rows = [2, 4, 0]
    batch = clips(pack, crop, crops=crops)[[(row, 0.0) for row in rows]]
    assert batch.crops == crops
    assert batch.row.tolist() == rows
    assert batch.y["genre"].tolist() == [10 * row for row in rows]
    assert len(batch.x) == len(batch.lengths) == crops * len(rows)
    for index, row in enumerate(rows):
        selection = slice(index * crops, (index + 1) * crops)  # the crops of a clip are consecutive
        assert (batch.x[selection, 0, 0] == row).all()
        room = max(0, LENGTHS[row] - crop)
        starts = batch.x[selection, 0, 1].int().tolist()
        assert starts[0] == 0
        assert starts[-1] == room
        gaps = [after - before for before, after in pairwise(starts)]
        assert max(gaps) - min(gaps) <= 1
        assert batch.lengths[selection].tolist() == [min(crop, LENGTHS[row])] * crops
        for x, start, length in zip(batch.x[selection], starts, batch.lengths[selection].tolist(), strict=True):
            assert x[:length, 1].tolist() == list(range(start, start + length))
            assert (x[length:] == 0).all()


def test_single_crop_is_centred(pack: Pack) -> None:
    batch = clips(pack, 4, crops=1)[[(2, 0.9), (1, 0.9)]]
    assert batch.crops == 1
    assert batch.x[:, 0, 1].tolist() == [5, 0]
    assert batch.lengths.tolist() == [4, 3]


def epoch(number: int, **options: Any) -> list[list[tuple[int, float]]]:
    order = CropBatchSampler(
        options.pop("count", 23), options.pop("batch_size", 8), options.pop("shuffle", True), **options
    )
    order.set_epoch(number)
    batches = list(order)
    assert len(batches) == len(order)
    return batches


def test_epoch_depends_only_on_seed_and_number() -> None:
    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4)
    assert epoch(3) != epoch(3, seed=1)
    positions = [{i: position for batch in epoch(number) for i, position in batch} for number in (0, 1)]
    assert all(positions[0][i] != positions[1][i] for i in range(23))  # the crops differ


@pytest.mark.parametrize("shuffle", [True, False])
def test_epoch_contains_each_clip_once(shuffle: bool) -> None:
    batches = epoch(0, shuffle=shuffle)
    assert [len(batch) for batch in batches] == [8, 8, 7]
    picked = [i for batch in batches for i, _ in batch]
    assert sorted(picked) == list(range(23))
    assert (picked == list(range(23))) is not shuffle
    assert all(0 <= position < 1 for batch in batches for _, position in batch)


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("count", [23, 24, 25])
def test_training_ranks_share_batches_of_one_device(world: int, count: int) -> None:
    complete = epoch(1, count=count, seed=7)
    ranks = [epoch(1, count=count, seed=7, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1  # otherwise other ranks would wait
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert len({len(share) for share in shares}) == 1  # required for the mean gradient of the batch
        together = [pick for share in shares for pick in share]
        assert len(set(together)) == len(together)
        assert set(together) <= set(complete[step])
        assert len(complete[step]) - len(together) < world
    assert len(complete) - len(ranks[0]) <= (count % 8 < world)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", range(1, 18))
def test_evaluation_covers_each_clip_once_on_all_ranks(world: int, count: int) -> None:
    ranks = [epoch(0, count=count, shuffle=False, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    for step, shares in enumerate(zip(*ranks, strict=True)):
        evaluated = Counter(i for share in shares for i, _ in share)
        assert set(evaluated) == set(range(8 * step, min(8 * step + 8, count)))
        assert all(shares)
        assert sum(evaluated.values()) == max(len(evaluated), world)  # duplicates only on ranks without clips


def lengths_of(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(20, 400, count)


def padding(batches: list[list[tuple[int, float]]], lengths: np.ndarray) -> float:
    """Return the share of padding in the frames of batches."""
    each = [lengths[[i for i, _ in batch]] for batch in batches]
    return 1 - sum(share.sum() for share in each) / sum(share.max() * len(share) for share in each)


@pytest.mark.parametrize("count", [23, 600])
@pytest.mark.parametrize("shuffle", [True, False])
def test_buckets_contain_each_clip_once_with_less_padding(count: int, shuffle: bool) -> None:
    lengths = lengths_of(count)
    batches = epoch(3, count=count, shuffle=shuffle, lengths=lengths)
    assert sorted(i for batch in batches for i, _ in batch) == list(range(count))
    assert sorted(len(batch) for batch in batches) == sorted(len(b) for b in epoch(3, count=count, shuffle=shuffle))
    plain = padding(epoch(3, count=count, shuffle=shuffle), lengths)
    assert plain > 0.3
    assert padding(batches, lengths) < (plain - 0.1 if count == 23 else 0.05)


def test_buckets_change_in_each_epoch() -> None:
    """The order of batches changes, and with more clips than a pool holds, also their clips."""
    count = 2 * BUCKET * 8
    lengths = lengths_of(count)
    first, second, repeated = (epoch(number, count=count, lengths=lengths) for number in (0, 1, 0))
    assert first == repeated
    assert first != second
    sets = [{frozenset(i for i, _ in batch) for batch in batches} for batches in (first, second)]
    assert len(sets[0] & sets[1]) < len(sets[0]) / 4
    means = [np.mean([lengths[i] for i, _ in batch]) for batch in first]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3  # batches are not ordered by length
    assert {i: position for batch in first for i, position in batch} != {
        i: position for batch in second for i, position in batch
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("world", [2, 3])
def test_devices_share_batches_with_buckets_and_weights(world: int, weighted: bool) -> None:
    count = 100
    options: dict[str, Any] = {"count": count, "lengths": lengths_of(count), "seed": 3}
    if weighted:
        options["weights"] = np.linspace(0.1, 1, count)
    complete = epoch(2, **options)
    ranks = [epoch(2, **options, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert len({len(share) for share in shares}) == 1
        together = Counter(pick for share in shares for pick in share)
        assert together <= Counter(complete[step])
        assert len(complete[step]) - together.total() < world


def test_weights_sample_with_replacement_in_proportion() -> None:
    weights = np.array([1.0, 0, 3, 6] * 5)
    drawn: Counter[int] = Counter()
    for number in range(300):
        batches = epoch(number, count=20, weights=weights)
        assert sum(map(len, batches)) == 20  # the length of an epoch does not change
        drawn.update(i % 4 for batch in batches for i, _ in batch)
        assert all(0 <= position < 1 for batch in batches for _, position in batch)
    assert [drawn[i] / 6000 for i in range(4)] == pytest.approx([0.1, 0, 0.3, 0.6], abs=0.025)
    twice = [picks for number in range(20) for picks in epoch(number, count=20, weights=weights)]
    repeated = [(i, j) for picks in twice for i, a in picks for j, b in picks if i == j and a != b]
    assert repeated  # a clip that is drawn twice has another crop


@dataclass
class PackedSource:
    """Source with an existing pack."""

    opened: Pack
    targets: dict[str, dict[str, Any]]

    def pack(self, front: LogMelChroma, options: Any) -> Pack:
        return self.opened


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., MusicData]:
    """Return a factory of data modules with unequal clip lengths and class sizes, and some missing labels."""
    rng = np.random.default_rng(0)
    genre = np.array(["a"] * 60 + ["b"] * 15 + ["c"] * 5 + [None] * 20, object)[rng.permutation(100)]
    frames = [rng.random((length, 3)) for length in rng.integers(20, 200, 100)]
    split = np.where(np.arange(100) % 5 == 4, "test", np.where(np.arange(100) % 5 == 3, "val", "train"))
    table = pd.DataFrame({"id": [f"c{i}" for i in range(100)], "group": None, "genre": genre, "split": split})
    written = write_pack(tmp_path_factory.mktemp("uneven") / "p", table, frames, {})
    source = PackedSource(written, {"genre": {"kind": "label", "classes": ["a", "b", "c", "d"], "note": ""}})

    def make(**options: Any) -> MusicData:
        feature = Feature("fused", front=LogMelChroma(n_mels=2, n_chroma=1, rate=1000, n_fft=64, hop_length=10))
        data = MusicData(source, feature, Split("official"), **options)  # type: ignore[arg-type]
        data.setup()
        return data

    return make


def test_balanced_sampling_draws_classes_equally_often(uneven: Callable[..., MusicData]) -> None:
    """Clips without a label are drawn as often as the average clip."""
    data = uneven(balanced_sampling="genre", crop=0.5, batch_size=16)
    y = data.y["genre"][data.rows("train")].numpy()
    sampler, drawn = data.train_dataloader().sampler, Counter[int]()
    for number in range(400):
        sampler.set_epoch(number)  # type: ignore[attr-defined]
        drawn.update(int(y[i]) for picks in sampler for i, _ in picks)  # type: ignore[misc]
    missing = (y < 0).mean()
    split = {label: count / drawn.total() for label, count in drawn.items()}
    assert split[-1] == pytest.approx(missing, abs=0.02)
    for label in range(3):
        assert split[label] == pytest.approx((1 - missing) / 3, abs=0.02)
    assert len(split) == 4  # a class without clips is not drawn


def test_balanced_sampling_applies_only_to_training(uneven: Callable[..., MusicData]) -> None:
    data = uneven(balanced_sampling="genre", crop=0.5)
    for split in ("val", "test"):
        evaluated = [row for batch in data.loader(split) for row in batch.row.tolist()]
        assert evaluated == data.rows(split).tolist()


def test_buckets_of_datamodule_reduce_padding_and_keep_each_clip(uneven: Callable[..., MusicData]) -> None:
    padded = {}
    for buckets in (False, True):
        data = uneven(crop=None, batch_size=6, eval_batch_size=6, buckets=buckets)
        for split, train in (("train", True), ("val", False), ("test", False)):
            batches = list(data.loader(split, train))
            assert sorted(row for batch in batches for row in batch.row.tolist()) == data.rows(split).tolist()
            padded[buckets, split] = sum(
                batch.x.shape[0] * batch.x.shape[1] - int(batch.lengths.sum()) for batch in batches
            )
            for batch in batches:
                for x, row, length in zip(batch.x, batch.row.tolist(), batch.lengths.tolist(), strict=True):
                    np.testing.assert_array_equal(x[:length], data.pack.clip(row))
    for split in ("train", "val", "test"):
        assert padded[True, split] < padded[False, split] / 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"buckets": True},
        {"balanced_sampling": "genre"},
        {"buckets": True, "balanced_sampling": "genre", "crop": None},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_number_of_workers_does_not_change_batches(uneven: Callable[..., MusicData], options: dict[str, Any]) -> None:
    """Compare batches of worker processes with those of this process."""
    modules = [uneven(**{"crop": 0.5, "batch_size": 8, **options}, workers=workers) for workers in (0, 1, 2)]
    alone, *helped = (list(data.train_dataloader()) for data in modules)
    assert len(alone) == 8
    for batches in helped:
        assert all(equal_batches(first, second) for first, second in zip(alone, batches, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_several_crops_are_evaluated_in_order(uneven: Callable[..., MusicData], workers: int) -> None:
    data = uneven(crop=0.5, eval_crops=3, eval_batch_size=7, workers=workers)
    rows = []
    for batch in data.test_dataloader()[1]:
        assert batch.crops == 3
        assert len(batch.x) == len(batch.lengths) == 3 * len(batch.row)
        for index, row in enumerate(batch.row.tolist()):
            complete = data.pack.clip(row)
            crop = min(50, len(complete))  # half a second at 100 frames
            first, last = batch.x[3 * index], batch.x[3 * index + 2]
            np.testing.assert_array_equal(first[:crop], complete[:crop])
            np.testing.assert_array_equal(last[:crop], complete[-crop:])
        rows += batch.row.tolist()
    assert rows == data.rows("test").tolist()
    assert next(iter(data.train_dataloader())).crops == 1


@pytest.fixture(scope="module")
def music(config: Callable[..., dict[str, Any]]) -> Callable[..., MusicData]:
    """Return a factory of data modules of the demo after setup."""

    def make(*overrides: str) -> MusicData:
        data = build_datamodule(config("feature=chroma", *overrides))
        open_pack(data.source, data.feature.front, replace(data.pack_options, workers=1))
        data.setup()
        return data

    return make


def equal_batches(first: Batch, second: Batch) -> bool:
    pairs = [(first.x, second.x), (first.lengths, second.lengths), (first.row, second.row)]
    return all(torch.equal(a, b) for a, b in [*pairs, *((first.y[name], second.y[name]) for name in first.y)])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_change_batches_of_demo(music: Callable[..., MusicData]) -> None:
    loaders = [music(f"data.workers={workers}").train_dataloader() for workers in (0, 2)]
    epochs = []
    for number in (0, 1):
        for loader in loaders:
            loader.sampler.set_epoch(number)
        alone, helped = (list(loader) for loader in loaders)
        assert len(alone) == len(helped) > 5
        assert all(equal_batches(first, second) for first, second in zip(alone, helped, strict=True))
        epochs.append(alone)
    assert not any(equal_batches(first, second) for first, second in zip(*epochs, strict=True))


@pytest.mark.parametrize("world", [1, 2])
def test_devices_evaluate_each_clip_of_demo_once(music: Callable[..., MusicData], world: int) -> None:
    data = music("data.eval_batch_size=5")
    for split, loader in (("val", 0), ("test", 1)):
        evaluated: Counter[int] = Counter()
        sizes = []
        for rank in range(world):
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
            for batch in data.test_dataloader()[loader]:
                sizes.append(len(batch.row))
                evaluated.update(batch.row.tolist())
        assert evaluated == Counter(np.flatnonzero(data.splits == split).tolist())
        assert max(sizes) == 5  # clips of a device are limited, and so is its memory


def test_two_devices_train_on_batches_of_one_device(music: Callable[..., MusicData]) -> None:
    data = music()
    loaders = [data.train_dataloader()]
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        loaders.append(data.train_dataloader())
    for complete, first, second in zip(*loaders, strict=True):
        rows = [*first.row.tolist(), *second.row.tolist()]
        assert sorted(rows) == sorted(complete.row.tolist())
        positions = [complete.row.tolist().index(row) for row in rows]
        assert torch.equal(torch.cat([first.x, second.x]), complete.x[positions])  # the crops are equal


def test_pack_is_read_from_configured_folder(music: Callable[..., MusicData], packs: Path) -> None:
    assert music().pack.folder.parent == packs
