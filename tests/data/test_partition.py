"""Tests of partitions: units stay together, shares are balanced, and seeds select different partitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from etude.data.partition import FEW_UNITS, TOLERANCE, Partition, partition
from etude.data.splits import Split

FRACTIONS = (0.6, 0.15, 0.25)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.2,) * 5, (0.7, 0.1, 0.1, 0.1)])
def test_partition_keeps_units_and_shares(fractions: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(0, 60, 300)
    units = np.unique(units, return_inverse=True)[1]
    strata = rng.integers(0, 3, 300)
    subsets = partition(units, strata, fractions, seed=3).subsets
    for unit in range(units.max() + 1):
        assert len(set(subsets[units == unit])) == 1
    for subset, fraction in enumerate(fractions):
        assert (subsets == subset).mean() == pytest.approx(fraction, abs=0.03)
        for stratum in range(3):
            assert (subsets[strata == stratum] == subset).mean() == pytest.approx(fraction, abs=0.06)
    np.testing.assert_array_equal(subsets, partition(units, strata, fractions, seed=3).subsets)


@pytest.mark.usefixtures("few_restarts")
def test_unused_strata_do_not_change_partition() -> None:
    rng = np.random.default_rng(1)
    units, strata = np.arange(50), rng.integers(0, 3, 50)
    np.testing.assert_array_equal(
        partition(units, strata, (0.5, 0.5), 0).subsets, partition(units, 10 * strata + 5, (0.5, 0.5), 0).subsets
    )


def deviations(subsets: np.ndarray, strata: np.ndarray) -> list[float]:
    """Return the largest deviation of each class and of all clips."""
    classes = [strata == stratum for stratum in np.unique(strata)] + [np.ones(len(strata), bool)]
    return [max(abs((subsets[mask] == i).mean() - FRACTIONS[i]) for i in range(3)) for mask in classes]


def test_few_groups_have_all_balanced_partitions() -> None:
    """Compare with an enumeration of all 3^8 assignments of eight groups."""
    sizes = [8, 8, 5, 5, 3, 3, 2, 4]
    units, strata = np.repeat(np.arange(8), sizes), np.repeat([0, 1, 0, 1, 0, 1, 0, 1], sizes)
    candidates = [np.array(assignment)[units] for assignment in product(range(3), repeat=8)]
    complete = [c for c in candidates if all(len(set(c[strata == stratum])) == 3 for stratum in (0, 1))]

    def cost(subsets: np.ndarray) -> float:
        return sum(((subsets[strata == k] == i).mean() - FRACTIONS[i]) ** 2 for k in (0, 1) for i in range(3))

    best = np.array(deviations(min(complete, key=cost), strata))
    balanced = {tuple(c) for c in complete if (deviations(c, strata) <= best + TOLERANCE + 1e-6).all()}
    found = [partition(units, strata, FRACTIONS, seed) for seed in range(2 * len(balanced))]
    assert len(balanced) > 3
    assert {result.count for result in found} == {len(balanced)}
    first, again = found[: len(balanced)], found[len(balanced) :]
    assert {tuple(result.subsets) for result in first} == balanced  # no seed before the number repeats another
    assert [tuple(result.subsets) for result in again] == [tuple(result.subsets) for result in first]


def test_seeds_of_demo_give_different_training_clips(demo_table: pd.DataFrame) -> None:
    plans = [Split(seed=seed).plan(demo_table, ["genre"]) for seed in range(8)]
    assert len({tuple(plan.splits) for plan in plans}) == 8
    assert len({tuple(plan.splits == "train") for plan in plans}) > 4
    assert {plan.partitions for plan in plans} == {80}
    for plan in plans[:3]:
        assert len({*zip(plan.splits, demo_table["genre"], strict=True)}) == 9  # each split has each class


@pytest.mark.usefixtures("few_restarts")
@pytest.mark.parametrize(("units", "fractions"), [(14, 5), (FEW_UNITS, 4), (FEW_UNITS + 2, 5)])
def test_seeds_give_different_folds(units: int, fractions: int) -> None:
    """Compare folds as sets of sets, because their order does not make another partition."""
    rng = np.random.default_rng(units)
    clips = np.repeat(np.arange(units), rng.integers(1, 6, units))
    strata = rng.integers(0, 3, len(clips))
    found: list[Partition] = [
        partition(clips, strata, (1 / fractions,) * fractions, seed, interchangeable=True) for seed in range(6)
    ]
    sets = {frozenset(frozenset(clips[r.subsets == fold]) for fold in range(fractions)) for r in found}
    assert len(sets) == 6
    for result in found:
        sizes = np.bincount(result.subsets, minlength=fractions) / len(clips)
        assert np.abs(sizes - 1 / fractions).max() < 0.1


def test_repeated_seed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Split three groups, of which the largest must be in training, in two ways."""
    table = pd.DataFrame({"id": range(10), "group": list("aaaaaabbcc"), "genre": ["x", "y"] * 5})
    with caplog.at_level("INFO"):
        first, second, third = (Split(seed=seed).assign(table) for seed in range(3))
    assert (first != second).any()
    np.testing.assert_array_equal(first, third)
    assert "only 2 splits are balanced, so values of data.split.seed repeat after 2" in caplog.text
    assert "data.split.seed=2 gives the same split as data.split.seed=0: only 2 splits are balanced" in caplog.text
