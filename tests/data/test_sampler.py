"""Tests of the sampler of crops."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from etude.data.batches import BUCKET, CropBatchSampler


def epoch_batches(number: int, **options: Any) -> list[list[tuple[int, float]]]:
    order = CropBatchSampler(
        options.pop("count", 23), options.pop("batch_size", 8), options.pop("shuffle", True), **options
    )
    order.set_epoch(number)
    batches = list(order)
    assert len(batches) == len(order)
    return batches


def test_epoch_depends_only_on_seed_and_number() -> None:
    assert epoch_batches(3) == epoch_batches(3)
    assert epoch_batches(3) != epoch_batches(4)
    assert epoch_batches(3) != epoch_batches(3, seed=1)
    positions = [{i: position for batch in epoch_batches(number) for i, position in batch} for number in (0, 1)]
    assert all(positions[0][i] != positions[1][i] for i in range(23))  # the crops differ


@pytest.mark.parametrize("shuffle", [True, False])
def test_epoch_contains_each_clip_once(shuffle: bool) -> None:
    batches = epoch_batches(0, shuffle=shuffle)
    assert [len(batch) for batch in batches] == [8, 8, 7]
    indices = [i for batch in batches for i, _ in batch]
    assert sorted(indices) == list(range(23))
    assert (indices == list(range(23))) is not shuffle
    assert all(0 <= position < 1 for batch in batches for _, position in batch)


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("count", [23, 24, 25])
def test_training_ranks_share_batches_of_one_device(world: int, count: int) -> None:
    complete = epoch_batches(1, count=count, seed=7)
    ranks = [epoch_batches(1, count=count, seed=7, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1  # otherwise other ranks would wait
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert len({len(share) for share in shares}) == 1  # required for the mean gradient of the batch
        shared = [pick for share in shares for pick in share]
        assert len(set(shared)) == len(shared)
        assert set(shared) <= set(complete[step])
        assert len(complete[step]) - len(shared) < world
    assert len(complete) - len(ranks[0]) <= (count % 8 < world)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", range(1, 18))
def test_evaluation_covers_each_clip_once_on_all_ranks(world: int, count: int) -> None:
    ranks = [epoch_batches(0, count=count, shuffle=False, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    for step, shares in enumerate(zip(*ranks, strict=True)):
        evaluated = Counter(i for share in shares for i, _ in share)
        assert set(evaluated) == set(range(8 * step, min(8 * step + 8, count)))
        assert all(shares)
        assert sum(evaluated.values()) == max(len(evaluated), world)  # duplicates only on ranks without clips


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("shuffle", [True, False])
def test_epoch_draws_each_part_of_each_clip_once(shuffle: bool, buckets: bool) -> None:
    lengths = random_lengths(23) if buckets else None
    batches = epoch_batches(2, shuffle=shuffle, crops=3, lengths=lengths)
    drawn = [(i, int(3 * position)) for batch in batches for i, position in batch]
    assert sorted(drawn) == (
        [(i, part) for i in range(23) for part in range(3)] if shuffle else [(i, 0) for i in range(23)]
    )
    if shuffle:
        assert [len(batch) for batch in batches].count(8) == 8  # of 69 crops
        first = dict(reversed(drawn))
        assert set(first.values()) == {0, 1, 2}  # in a random order
        assert batches != epoch_batches(3, crops=3, lengths=lengths)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_batches_of_several_crops(world: int) -> None:
    complete = epoch_batches(1, crops=4)
    ranks = [epoch_batches(1, crops=4, rank=rank, world=world) for rank in range(world)]
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert len({len(share) for share in shares}) == 1
        assert {pick for share in shares for pick in share} <= set(complete[step])


def test_balanced_classes_draw_several_crops_of_clips() -> None:
    drawn = Counter(i for batch in epoch_batches(0, crops=40, weights=np.r_[9.0, np.ones(22)]) for i, _ in batch)
    assert sum(drawn.values()) == 40 * 23
    assert drawn[0] > 3 * max(count for i, count in drawn.items() if i)


def random_lengths(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(20, 400, count)


def padding(batches: list[list[tuple[int, float]]], lengths: np.ndarray) -> float:
    """Return the share of padding in the frames of batches."""
    each = [lengths[[i for i, _ in batch]] for batch in batches]
    return 1 - sum(share.sum() for share in each) / sum(share.max() * len(share) for share in each)


@pytest.mark.parametrize("count", [23, 600])
@pytest.mark.parametrize("shuffle", [True, False])
def test_buckets_contain_each_clip_once_with_less_padding(count: int, shuffle: bool) -> None:
    lengths = random_lengths(count)
    batches = epoch_batches(3, count=count, shuffle=shuffle, lengths=lengths)
    assert sorted(i for batch in batches for i, _ in batch) == list(range(count))
    assert sorted(len(batch) for batch in batches) == sorted(
        len(b) for b in epoch_batches(3, count=count, shuffle=shuffle)
    )
    unsorted_padding = padding(epoch_batches(3, count=count, shuffle=shuffle), lengths)
    assert unsorted_padding > 0.3
    assert padding(batches, lengths) < (unsorted_padding - 0.1 if count == 23 else 0.05)


def test_buckets_change_in_each_epoch() -> None:
    """Check that the order of batches changes, and with more clips than in a pool, also their clips."""
    count = 2 * BUCKET * 8
    lengths = random_lengths(count)
    first, second, repeated = (epoch_batches(number, count=count, lengths=lengths) for number in (0, 1, 0))
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
    options: dict[str, Any] = {"count": count, "lengths": random_lengths(count), "seed": 3}
    if weighted:
        options["weights"] = np.linspace(0.1, 1, count)
    complete = epoch_batches(2, **options)
    ranks = [epoch_batches(2, **options, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert len({len(share) for share in shares}) == 1
        shared = Counter(pick for share in shares for pick in share)
        assert shared <= Counter(complete[step])
        assert len(complete[step]) - shared.total() < world


def test_weights_sample_with_replacement_in_proportion() -> None:
    weights = np.array([1.0, 0, 3, 6] * 5)
    drawn: Counter[int] = Counter()
    for number in range(300):
        batches = epoch_batches(number, count=20, weights=weights)
        assert sum(map(len, batches)) == 20  # the length of an epoch does not change
        drawn.update(i % 4 for batch in batches for i, _ in batch)
        assert all(0 <= position < 1 for batch in batches for _, position in batch)
    assert [drawn[i] / 6000 for i in range(4)] == pytest.approx([0.1, 0, 0.3, 0.6], abs=0.025)
    batches_of_epochs = [picks for number in range(20) for picks in epoch_batches(number, count=20, weights=weights)]
    repeated = [(i, j) for picks in batches_of_epochs for i, a in picks for j, b in picks if i == j and a != b]
    assert repeated  # a clip that is drawn twice has another crop
