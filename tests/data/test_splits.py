"""Tests of disjoint groups, shares and class proportions of splits."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.data.split_tables import FRACTIONS, GENRE, make_table, shares, splits_per_group

from etude.data.partition import SPLITS
from etude.data.splits import Split, group_codes, split_hash
from etude.errors import DataError


@pytest.mark.usefixtures("few_restarts")
@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_splits(seed: int) -> None:
    table = make_table(seed, groups=4 + 3 * seed, largest=1 + seed % 9)
    assigned = Split(seed=seed, stratify="genre" if seed % 2 else None).assign(table)
    assert splits_per_group(assigned, table) == 1
    assert set(assigned) == set(SPLITS)


@pytest.mark.parametrize("seed", range(2))
def test_shares_match_fractions_for_small_groups(seed: int) -> None:
    table = make_table(seed, groups=150, largest=3)
    assigned = Split(seed=seed).assign(table, GENRE)
    assert shares(assigned) == pytest.approx(FRACTIONS, abs=0.02)
    for genre in "abc":
        assert shares(assigned[table["genre"] == genre]) == pytest.approx(FRACTIONS, abs=0.04)


@pytest.mark.parametrize("seed", range(3))
def test_each_split_of_demo_has_each_class(demo_table: pd.DataFrame, seed: int) -> None:
    assigned = Split(seed=seed).assign(demo_table, GENRE)
    assert {*zip(assigned, demo_table["genre"], strict=True)} == {
        (name, genre) for name in SPLITS for genre in set(demo_table["genre"])
    }
    assert splits_per_group(assigned, demo_table) == 1


@pytest.mark.usefixtures("few_restarts")
def test_seed_determines_split() -> None:
    table = make_table(0, groups=30, largest=4)
    splits = [Split(seed=seed).assign(table, GENRE) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert all((first != second).any() for first, second in pairwise(splits[1:]))


@pytest.mark.usefixtures("few_restarts")
def test_index_of_table_does_not_change_split() -> None:
    """Compare with the index of a table that was sorted before."""
    table = make_table(0, groups=30, largest=4)
    np.testing.assert_array_equal(Split().assign(table, GENRE), Split().assign(table.reset_index(drop=True), GENRE))


@pytest.mark.parametrize("seed", range(2))
def test_stratified_split_keeps_class_shares(seed: int) -> None:
    table = make_table(seed, groups=100, largest=3).assign(group=None)
    assigned = Split("stratified", seed=seed).assign(table, GENRE)
    for genre in "abc":
        selected = table["genre"] == genre
        expected = np.array(FRACTIONS) * selected.sum()
        assert np.abs([(assigned[selected] == name).sum() for name in SPLITS] - expected).max() < 1
    assert np.abs([(assigned == name).sum() for name in SPLITS] - np.array(FRACTIONS) * len(table)).max() < 3


@pytest.mark.parametrize("kind", ["grouped", "stratified"])
def test_scalar_is_stratified_by_quantiles(kind: str) -> None:
    """Compare the mean of each split with the total mean, and with splits without stratification."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": range(200), "group": None, "valence": rng.gamma(1.0, size=200)})
    table.loc[::17, "valence"] = np.nan
    assigned = Split(kind).assign(table, ["valence"])
    means = [table["valence"][assigned == name].mean() for name in SPLITS]
    assert means == pytest.approx([table["valence"].mean()] * 3, abs=0.12)
    fifths = pd.qcut(table["valence"], 5, labels=False)
    for fifth in range(5):
        assert shares(assigned[fifths == fifth]) == pytest.approx(FRACTIONS, abs=0.03)
    unstratified = Split(kind, stratify=None).assign(table, ["valence"])
    largest_deviation = max(max(abs(np.array(shares(unstratified[fifths == fifth])) - FRACTIONS)) for fifth in range(5))
    assert largest_deviation > 0.06


def test_scalar_with_few_values_is_stratified_by_values() -> None:
    table = pd.DataFrame({"id": range(120), "group": None, "mood": np.repeat([0.0, 0.5, 1.0], 40)})
    assigned = Split("stratified", (0.5, 0.25, 0.25)).assign(table, ["mood"])
    assert Counter(zip(table["mood"], assigned, strict=True)) == {
        (mood, name): 20 if name == "train" else 10 for mood in (0.0, 0.5, 1.0) for name in SPLITS
    }


@pytest.mark.usefixtures("few_restarts")
def test_auto_stratifies_by_first_target(demo_table: pd.DataFrame) -> None:
    auto = [Split().assign(demo_table, targets) for targets in (["genre", "valence"], ["valence", "genre"])]
    named = [Split(stratify=name).assign(demo_table, ["energy"]) for name in ("genre", "valence")]
    np.testing.assert_array_equal(auto, named)
    assert (auto[0] != auto[1]).any()


@pytest.mark.usefixtures("few_restarts")
@pytest.mark.parametrize("stratify", ["auto", "no such column"])
def test_missing_column_disables_stratification(demo_table: pd.DataFrame, stratify: str | None) -> None:
    assigned = Split(stratify=stratify).assign(demo_table)
    np.testing.assert_array_equal(assigned, Split(stratify=None).assign(demo_table, GENRE))
    assert splits_per_group(assigned, demo_table) == 1


@pytest.mark.usefixtures("few_restarts")
def test_random_split_has_shares_without_strata() -> None:
    table = make_table(2, groups=100, largest=3).assign(group=None)
    split = Split("random", (0.5, 0.2, 0.3))
    assigned = split.assign(table, GENRE)
    assert shares(assigned) == pytest.approx((0.5, 0.2, 0.3), abs=0.01)
    np.testing.assert_array_equal(assigned, split.assign(table.assign(genre="a"), GENRE))


@pytest.mark.parametrize(("kind", "folds"), [("grouped", 5), ("stratified", 3), ("random", 3)])
def test_each_clip_is_test_and_val_in_one_fold(kind: str, folds: int) -> None:
    table = make_table(5, groups=40, largest=4)
    splits = [Split(kind, folds=folds, fold=fold, allow_shared_groups=kind != "grouped") for fold in range(folds)]
    assigned = np.stack([split.assign(table, GENRE) for split in splits])
    assert set(assigned.ravel()) == set(SPLITS)
    np.testing.assert_array_equal((assigned == "test").sum(0), 1)
    np.testing.assert_array_equal((assigned == "val").sum(0), 1)
    for fold in range(folds):
        assert (assigned[fold] == "test").mean() == pytest.approx(1 / folds, abs=0.03)
        if kind == "grouped":
            assert splits_per_group(assigned[fold], table) == 1
        # all folds use one partition: the validation clips are the test clips of the next fold
        np.testing.assert_array_equal(assigned[fold] == "val", assigned[(fold + 1) % folds] == "test")
    if kind != "random":
        for genre in "abc":
            selected = (table["genre"] == genre).to_numpy()
            for fold in range(folds):
                assert (assigned[fold, selected] == "test").mean() == pytest.approx(1 / folds, abs=0.07)


@pytest.mark.usefixtures("few_restarts")
def test_folds_of_demo_keep_groups_together(demo_table: pd.DataFrame) -> None:
    """Split few artists with unequal numbers of clips, so that each fold has each class in training."""
    assigned = np.stack([Split(fold=fold).assign(demo_table, GENRE) for fold in range(5)])
    np.testing.assert_array_equal((assigned == "test").sum(0), 1)
    for fold in range(5):
        assert splits_per_group(assigned[fold], demo_table) == 1
        assert set(demo_table["genre"][assigned[fold] == "train"]) == set(demo_table["genre"])


@pytest.mark.usefixtures("few_restarts")
def test_other_seed_gives_other_folds() -> None:
    table = make_table(5, groups=40, largest=4)
    first, second = (Split(fold=0, seed=seed).assign(table, GENRE) for seed in (0, 1))
    assert (first != second).any()


def test_clip_without_group_is_separate_group() -> None:
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "group": [None, "a", np.nan, "a"]})
    assert group_codes(table).tolist() == [0, 1, 2, 1]
    separate = make_table(4, groups=200, largest=1).assign(group=None)
    assert shares(Split().assign(separate, GENRE)) == pytest.approx(FRACTIONS, abs=0.02)


@pytest.mark.usefixtures("few_restarts")
@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_leakage_is_refused_unless_allowed(demo_table: pd.DataFrame, kind: str) -> None:
    with pytest.raises(
        DataError,
        match=r"^1[0-2] of \d+ groups are in more than one split .*, \.\.\.\): use data.split.kind=grouped, or",
    ):
        Split(kind).assign(demo_table, GENRE)
    if kind == "random":
        assert shares(Split(kind, allow_shared_groups=True).assign(demo_table)) == pytest.approx(FRACTIONS, abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_three_groups_fill_three_splits(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 5, 3)
    group = np.repeat(["x", "y", "z"], sizes)
    table = pd.DataFrame({"id": np.arange(len(group)), "group": group})
    assigned = Split(seed=seed, stratify=None).assign(table)
    assert set(assigned) == set(SPLITS)


@pytest.mark.parametrize("seed", range(3))
def test_each_split_has_each_class_if_possible(seed: int) -> None:
    """Split three artists of each genre, which suffice for one in each split."""
    sizes = np.random.default_rng(seed).integers(1, 20, 9)
    group, genre = np.repeat(np.arange(9), sizes), np.repeat(list("aaabbbccc"), sizes)
    table = pd.DataFrame({"id": np.arange(len(group)), "group": group, "genre": genre})
    assert len({*zip(Split(seed=seed).assign(table, GENRE), genre, strict=True)}) == 9


def test_too_few_groups_are_refused() -> None:
    table = pd.DataFrame({"id": list("abcdef"), "group": list("xxxyyy"), "genre": list("ababab")})
    with pytest.raises(DataError, match=r"no clips are left for .*: 6 clips in 2 groups are too few"):
        Split().assign(table, GENRE)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.3, -0.1), (0.5, 0.3, 0.3), (0.7, 0.3, 0.0)])
def test_invalid_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match=r"data\.split\.fractions must be three positive shares that add up to 1, got"):
        Split(fractions=fractions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "leaky"}, r"^data\.split\.kind must be one of auto, grouped, .*, got 'leaky'"),
        ({"duplicates": "ignore"}, r"^data\.split\.duplicates must be one of refuse, drop, allow, got 'ignore'"),
        ({"folds": 2, "fold": 0}, r"^data\.split\.folds must be at least 3 \(training, validation, test\), got 2"),
        ({"kind": "grouped", "fold": 5}, r"^data\.split\.fold must be in 0 \.\.\. 4, got 5"),
        ({"kind": "random", "fold": -1}, r"^data\.split\.fold must be in 0 \.\.\. 4, got -1"),
        ({"kind": "grouped", "fold": "a"}, r"^data\.split\.fold must be in 0 \.\.\. 4, got a"),
        ({"few_groups": "merge"}, r"^data\.split\.few_groups must be one of keep, train, drop, got 'merge'"),
        ({"kind": "grouped", "column": "cv"}, r"^data\.split\.column=cv contradicts data\.split\.kind=grouped; use"),
        ({"kind": "official", "column": None}, r"^data\.split\.kind=official needs a column; name it with"),
    ],
)
def test_invalid_option_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(**options)


def test_split_hash_depends_only_on_split() -> None:
    ids, assigned = np.array(["a", "b", "c"]), np.array(["train", "val", "test"])
    order = [2, 0, 1]
    assert split_hash(ids, assigned) == split_hash(ids[order], assigned[order])
    assert split_hash(ids, assigned) != split_hash(ids, assigned[order])
    assert split_hash(ids, assigned) != split_hash(np.array(["a", "b", "d"]), assigned)


def test_split_hash_is_sha256_of_sorted_pairs() -> None:
    """Compare with the SHA-256 of `a,train`, a line break, and `b,val`."""
    assert split_hash(np.array(["b", "a"]), np.array(["val", "train"])) == (
        "78c5272424cf7c98b9b2b5534fb6c850b7c13f0031a233d7ddf4b0721117e36b"
    )
