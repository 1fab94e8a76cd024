"""Tests of splits: disjoint groups, shares and class proportions."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from etude.data.sources.demo import collection
from etude.data.splits import SPLITS, UNUSED, Split, group_codes, partition, split_hash
from etude.errors import DataError

FRACTIONS = (0.6, 0.15, 0.25)
GENRE = ("genre",)


@pytest.fixture(scope="module")
def demo() -> pd.DataFrame:
    return collection().table


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the number of restarts for tests that do not depend on the quality of a split."""
    monkeypatch.setattr("etude.data.splits.MAX_PLACEMENTS", 1000)


def clips(seed: int, groups: int, largest: int) -> pd.DataFrame:
    """Return a table of clips in groups of 1 to `largest`, with missing labels and groups."""
    rng = np.random.default_rng(seed)
    group = np.repeat([f"g{i}" for i in range(groups)], rng.integers(1, largest + 1, groups)).astype(object)
    genre = rng.choice(["a", "b", "c"], len(group)).astype(object)
    genre[rng.random(len(group)) < 0.1] = None
    group[rng.random(len(group)) < 0.1] = None
    table = pd.DataFrame({"id": [f"clip{i}" for i in range(len(group))], "group": group, "genre": genre})
    return table.sample(frac=1, random_state=seed)


def shares(assigned: np.ndarray) -> list[float]:
    return [(assigned == name).mean() for name in SPLITS]


def splits_per_group(assigned: np.ndarray, table: pd.DataFrame) -> int:
    """Return the largest number of splits of a group."""
    return int(pd.Series(assigned, index=table.index).groupby(table["group"]).nunique().max())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_splits(seed: int) -> None:
    table = clips(seed, groups=4 + 3 * seed, largest=1 + seed % 9)
    assigned = Split(seed=seed, stratify="genre" if seed % 2 else None).assign(table)
    assert splits_per_group(assigned, table) == 1
    assert set(assigned) == set(SPLITS)


@pytest.mark.parametrize("seed", range(2))
def test_shares_match_fractions_for_small_groups(seed: int) -> None:
    table = clips(seed, groups=150, largest=3)
    assigned = Split(seed=seed).assign(table, GENRE)
    assert shares(assigned) == pytest.approx(FRACTIONS, abs=0.02)
    for genre in "abc":
        assert shares(assigned[table["genre"] == genre]) == pytest.approx(FRACTIONS, abs=0.04)


@pytest.mark.parametrize("seed", range(3))
def test_each_split_of_demo_has_each_class(demo: pd.DataFrame, seed: int) -> None:
    assigned = Split(seed=seed).assign(demo, GENRE)
    assert {*zip(assigned, demo["genre"], strict=True)} == {
        (name, genre) for name in SPLITS for genre in set(demo["genre"])
    }
    assert splits_per_group(assigned, demo) == 1


@pytest.mark.usefixtures("quick")
def test_seed_determines_split() -> None:
    table = clips(0, groups=30, largest=4)
    splits = [Split(seed=seed).assign(table, GENRE) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert all((first != second).any() for first, second in pairwise(splits[1:]))


@pytest.mark.usefixtures("quick")
def test_index_of_table_does_not_change_split() -> None:
    """The table may have been sorted or filtered before."""
    table = clips(0, groups=30, largest=4)
    np.testing.assert_array_equal(Split().assign(table, GENRE), Split().assign(table.reset_index(drop=True), GENRE))


@pytest.mark.parametrize("seed", range(2))
def test_stratified_split_keeps_class_shares(seed: int) -> None:
    table = clips(seed, groups=100, largest=3).assign(group=None)
    assigned = Split("stratified", seed=seed).assign(table, GENRE)
    for genre in "abc":
        selected = table["genre"] == genre
        wanted = np.array(FRACTIONS) * selected.sum()
        assert np.abs([(assigned[selected] == name).sum() for name in SPLITS] - wanted).max() < 1
    assert np.abs([(assigned == name).sum() for name in SPLITS] - np.array(FRACTIONS) * len(table)).max() < 3


@pytest.mark.parametrize("kind", ["grouped", "stratified"])
def test_scalar_is_stratified_by_quantiles(kind: str) -> None:
    """The mean of each split is near the total mean, much nearer than by chance."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": range(200), "group": None, "valence": rng.gamma(1.0, size=200)})
    table.loc[::17, "valence"] = np.nan
    assigned = Split(kind).assign(table, ["valence"])
    means = [table["valence"][assigned == name].mean() for name in SPLITS]
    assert means == pytest.approx([table["valence"].mean()] * 3, abs=0.12)
    fifths = pd.qcut(table["valence"], 5, labels=False)
    for fifth in range(5):
        assert shares(assigned[fifths == fifth]) == pytest.approx(FRACTIONS, abs=0.03)
    chance = Split(kind, stratify=None).assign(table, ["valence"])
    worst = max(max(abs(np.array(shares(chance[fifths == fifth])) - FRACTIONS)) for fifth in range(5))
    assert worst > 0.06


def test_scalar_with_few_values_is_stratified_by_values() -> None:
    table = pd.DataFrame({"id": range(120), "group": None, "mood": np.repeat([0.0, 0.5, 1.0], 40)})
    assigned = Split("stratified", (0.5, 0.25, 0.25)).assign(table, ["mood"])
    assert Counter(zip(table["mood"], assigned, strict=True)) == {
        (mood, name): 20 if name == "train" else 10 for mood in (0.0, 0.5, 1.0) for name in SPLITS
    }


@pytest.mark.usefixtures("quick")
def test_auto_stratifies_by_first_target(demo: pd.DataFrame) -> None:
    auto = [Split().assign(demo, targets) for targets in (["genre", "valence"], ["valence", "genre"])]
    named = [Split(stratify=name).assign(demo, ["energy"]) for name in ("genre", "valence")]
    np.testing.assert_array_equal(auto, named)
    assert (auto[0] != auto[1]).any()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stratify", ["auto", "no such column"])
def test_missing_column_disables_stratification(demo: pd.DataFrame, stratify: str | None) -> None:
    assigned = Split(stratify=stratify).assign(demo)
    np.testing.assert_array_equal(assigned, Split(stratify=None).assign(demo, GENRE))
    assert splits_per_group(assigned, demo) == 1


@pytest.mark.usefixtures("quick")
def test_random_split_has_shares_without_strata() -> None:
    table = clips(2, groups=100, largest=3).assign(group=None)
    split = Split("random", (0.5, 0.2, 0.3))
    assigned = split.assign(table, GENRE)
    assert shares(assigned) == pytest.approx((0.5, 0.2, 0.3), abs=0.01)
    np.testing.assert_array_equal(assigned, split.assign(table.assign(genre="a"), GENRE))


@pytest.mark.parametrize(("kind", "folds"), [("grouped", 5), ("stratified", 3), ("random", 3)])
def test_each_clip_is_test_and_val_in_one_fold(kind: str, folds: int) -> None:
    table = clips(5, groups=40, largest=4)
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


@pytest.mark.usefixtures("quick")
def test_folds_of_demo_keep_groups_together(demo: pd.DataFrame) -> None:
    """There are few artists with unequal numbers of clips; each fold has each class in training."""
    assigned = np.stack([Split(fold=fold).assign(demo, GENRE) for fold in range(5)])
    np.testing.assert_array_equal((assigned == "test").sum(0), 1)
    for fold in range(5):
        assert splits_per_group(assigned[fold], demo) == 1
        assert set(demo["genre"][assigned[fold] == "train"]) == set(demo["genre"])


@pytest.mark.usefixtures("quick")
def test_other_seed_gives_other_folds() -> None:
    table = clips(5, groups=40, largest=4)
    first, second = (Split(fold=0, seed=seed).assign(table, GENRE) for seed in (0, 1))
    assert (first != second).any()


def test_official_split_is_column_of_table() -> None:
    table = clips(3, groups=9, largest=1).assign(split=list(SPLITS) * 3)
    for seed in range(3):
        assert Split("official", seed=seed).assign(table, GENRE).tolist() == list(SPLITS) * 3
    for wrong in (table.drop(columns="split"), table.assign(split="dev"), table.assign(split=[None, *SPLITS[1:]] * 3)):
        with pytest.raises(DataError, match="needs a column `split` with train, val or test for every clip"):
            Split("official").assign(wrong)


def official(seed: int) -> pd.DataFrame:
    """Return a table with official training and test splits by groups, without validation."""
    table = clips(seed, groups=60, largest=4)
    codes = group_codes(table)
    return table.assign(split=np.where(codes % 4 == 0, "test", "train"))


@pytest.mark.parametrize("seed", range(2))
def test_validation_is_taken_from_official_training_split(seed: int) -> None:
    """Validation is 0.15 of 0.75, grouped and in proportion; the test split does not change."""
    table = official(seed)
    assigned = Split("official", seed=seed).assign(table, GENRE)
    np.testing.assert_array_equal(assigned == "test", table["split"] == "test")
    assert splits_per_group(assigned, table) == 1
    rest = assigned[assigned != "test"]
    assert (rest == "val").mean() == pytest.approx(0.2, abs=0.02)
    for genre in "abc":
        selected = (table["genre"] == genre).to_numpy() & (assigned != "test")
        assert (assigned[selected] == "val").mean() == pytest.approx(0.2, abs=0.05)


@pytest.mark.usefixtures("quick")
def test_other_seed_gives_other_validation() -> None:
    first, second = (Split("official", seed=seed).assign(official(0), GENRE) for seed in (0, 1))
    assert (first != second).any()
    np.testing.assert_array_equal(first == "test", second == "test")


def test_validation_share_follows_fractions() -> None:
    table = official(1).assign(group=None)
    assigned = Split("official", (0.45, 0.45, 0.1)).assign(table, GENRE)
    assert (assigned[assigned != "test"] == "val").mean() == pytest.approx(0.5, abs=0.02)


def test_shared_group_of_official_split_is_refused_by_name() -> None:
    table = pd.DataFrame({"id": list("abcd"), "group": ["x", "y", "bach", "bach"], "split": [*SPLITS, "train"]})
    with pytest.raises(DataError, match=r"1 of 3 groups are in more than one split \(bach\): use data\.split\.kind="):
        Split("official").assign(table)
    assert Split("official", allow_shared_groups=True).assign(table).tolist() == [*SPLITS, "train"]


def test_shared_groups_are_counted_and_five_are_named() -> None:
    table = pd.DataFrame({"id": range(14), "group": [f"g{i // 2}" for i in range(14)], "split": ["train", "test"] * 7})
    table.loc[14] = [14, "z", "val"]
    with pytest.raises(DataError, match=r"7 of 8 groups are in more than one split \(g0, g1, g2, g3, g4, \.\.\.\)"):
        Split("official").assign(table)


def test_clip_without_group_is_separate_group() -> None:
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "group": [None, "a", np.nan, "a"]})
    assert group_codes(table).tolist() == [0, 1, 2, 1]
    lone = clips(4, groups=200, largest=1).assign(group=None)
    assert shares(Split().assign(lone, GENRE)) == pytest.approx(FRACTIONS, abs=0.02)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_leakage_is_refused_unless_allowed(demo: pd.DataFrame, kind: str) -> None:
    with pytest.raises(
        DataError,
        match=r"^1[0-2] of \d+ groups are in more than one split .*, \.\.\.\): use data.split.kind=grouped, or",
    ):
        Split(kind).assign(demo, GENRE)
    if kind == "random":
        assert shares(Split(kind, allow_shared_groups=True).assign(demo)) == pytest.approx(FRACTIONS, abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_three_groups_fill_three_splits(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 5, 3)
    group = np.repeat(["x", "y", "z"], sizes)
    table = pd.DataFrame({"id": np.arange(len(group)), "group": group})
    assigned = Split(seed=seed, stratify=None).assign(table)
    assert set(assigned) == set(SPLITS)


@pytest.mark.parametrize("seed", range(3))
def test_each_split_has_each_class_if_possible(seed: int) -> None:
    """Three artists of each genre are enough for one in each split."""
    sizes = np.random.default_rng(seed).integers(1, 20, 9)
    group, genre = np.repeat(np.arange(9), sizes), np.repeat(list("aaabbbccc"), sizes)
    table = pd.DataFrame({"id": np.arange(len(group)), "group": group, "genre": genre})
    assert len({*zip(Split(seed=seed).assign(table, GENRE), genre, strict=True)}) == 9


def test_too_few_groups_are_refused() -> None:
    table = pd.DataFrame({"id": list("abcdef"), "group": list("xxxyyy"), "genre": list("ababab")})
    with pytest.raises(DataError, match=r"no clips are left for .*: 6 clips in 2 groups are too few"):
        Split().assign(table, GENRE)


# duplicate audio


def doubled() -> pd.DataFrame:
    """Return sixty clips, of which three are duplicates of others."""
    table = clips(6, groups=60, largest=1).reset_index(drop=True).assign(group=None)
    content = [f"hash{i}" for i in range(len(table))]
    for again, first in ((10, 2), (20, 2), (30, 4)):
        content[again] = content[first]
    return table.assign(content=content)


@pytest.mark.parametrize("kind", ["grouped", "stratified", "random"])
def test_duplicate_audio_is_refused_by_name(kind: str) -> None:
    table = doubled()
    ids = table["id"]
    pairs = f"{ids[2]} = {ids[10]}, {ids[2]} = {ids[20]}, {ids[4]} = {ids[30]}"
    with pytest.raises(DataError, match=rf"^the same audio has two ids \(3 duplicates\) .*: {pairs}; drop duplicates"):
        Split(kind).assign(table, GENRE)


@pytest.mark.usefixtures("quick")
def test_duplicate_audio_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """All but the first are dropped; the remaining clips are assigned as without the duplicates."""
    table = doubled()
    with caplog.at_level(logging.WARNING):
        assigned = Split(duplicates="drop").assign(table, GENRE)
    assert np.flatnonzero(assigned == UNUSED).tolist() == [10, 20, 30]
    assert "the same audio has two ids: 3 duplicates dropped" in caplog.text
    alone = Split(duplicates="drop").assign(table.drop(index=[10, 20, 30]), GENRE)
    np.testing.assert_array_equal(assigned[assigned != UNUSED], alone)


@pytest.mark.usefixtures("quick")
def test_duplicate_audio_can_be_allowed() -> None:
    assigned = Split(duplicates="allow").assign(doubled(), GENRE)
    np.testing.assert_array_equal(assigned, Split().assign(doubled().drop(columns="content"), GENRE))
    assert UNUSED not in assigned


def test_duplicates_are_counted_and_five_are_named() -> None:
    table = pd.DataFrame({"id": list("abcdefghijklmn"), "group": None, "content": list("1122334455667788")[:14]})
    with pytest.raises(DataError, match=r"two ids \(7 duplicates\).*: a = b, c = d, e = f, g = h, i = j, \.\.\.; drop"):
        Split().assign(table)


@pytest.mark.usefixtures("quick")
def test_all_folds_drop_the_same_duplicates() -> None:
    assigned = np.stack([Split(folds=3, fold=fold, duplicates="drop").assign(doubled(), GENRE) for fold in range(3)])
    unused = (assigned == UNUSED).all(0)
    assert np.flatnonzero(unused).tolist() == [10, 20, 30]
    np.testing.assert_array_equal((assigned == "test").sum(0), ~unused)


# invalid options


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.3, -0.1), (0.5, 0.3, 0.3), (0.7, 0.3, 0.0)])
def test_invalid_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match=r"data\.split\.fractions must be three positive shares that add up to 1, got"):
        Split(fractions=fractions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "leaky"}, r"^data\.split\.kind must be one of grouped, .*, got 'leaky'"),
        ({"duplicates": "ignore"}, r"^data\.split\.duplicates must be one of refuse, drop, allow, got 'ignore'"),
        ({"folds": 2, "fold": 0}, r"^data\.split\.folds must be at least 3 \(training, validation, test\), got 2"),
        ({"fold": 5}, r"^data\.split\.fold must be in 0 \.\.\. 4, got 5"),
        ({"fold": -1}, r"^data\.split\.fold must be in 0 \.\.\. 4, got -1"),
        (
            {"kind": "official", "fold": 0},
            r"^data\.split\.fold: an official split has no folds; use data\.split\.kind=",
        ),
    ],
)
def test_invalid_option_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(**options)


# split hash and partition


def test_split_hash_depends_only_on_split() -> None:
    ids, assigned = np.array(["a", "b", "c"]), np.array(["train", "val", "test"])
    order = [2, 0, 1]
    assert split_hash(ids, assigned) == split_hash(ids[order], assigned[order])
    assert split_hash(ids, assigned) != split_hash(ids, assigned[order])
    assert split_hash(ids, assigned) != split_hash(np.array(["a", "b", "d"]), assigned)


def test_split_hash_is_sha256_of_sorted_pairs() -> None:
    """The hash is the SHA-256 of `a,train`, a line break, and `b,val`."""
    assert split_hash(np.array(["b", "a"]), np.array(["val", "train"])) == (
        "78c5272424cf7c98b9b2b5534fb6c850b7c13f0031a233d7ddf4b0721117e36b"
    )


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.2,) * 5, (0.7, 0.1, 0.1, 0.1)])
def test_partition_keeps_units_and_shares(fractions: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(0, 60, 300)
    units = np.unique(units, return_inverse=True)[1]
    strata = rng.integers(0, 3, 300)
    places = partition(units, strata, fractions, seed=3)
    for unit in range(units.max() + 1):
        assert len(set(places[units == unit])) == 1
    for place, fraction in enumerate(fractions):
        assert (places == place).mean() == pytest.approx(fraction, abs=0.03)
        for stratum in range(3):
            assert (places[strata == stratum] == place).mean() == pytest.approx(fraction, abs=0.06)
    np.testing.assert_array_equal(places, partition(units, strata, fractions, seed=3))


@pytest.mark.usefixtures("quick")
def test_unused_strata_do_not_change_partition() -> None:
    rng = np.random.default_rng(1)
    units, strata = np.arange(50), rng.integers(0, 3, 50)
    np.testing.assert_array_equal(
        partition(units, strata, (0.5, 0.5), 0), partition(units, 10 * strata + 5, (0.5, 0.5), 0)
    )
