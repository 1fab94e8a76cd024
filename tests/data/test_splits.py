"""No group ever stands on two sides, unless somebody asks for it; within that, shares and classes are kept."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from etude.data.sources.demo import collection
from etude.data.splits import PARTS, Split, group_codes, split_hash
from etude.errors import DataError

FRACTIONS = (0.6, 0.15, 0.25)


@pytest.fixture(scope="module")
def demo() -> pd.DataFrame:
    return collection().table


def clips(seed: int, groups: int, largest: int) -> pd.DataFrame:
    """A table of clips in groups of 1 to `largest`; some lack a label and some a group."""
    rng = np.random.default_rng(seed)
    group = np.repeat([f"g{i}" for i in range(groups)], rng.integers(1, largest + 1, groups)).astype(object)
    genre = rng.choice(["a", "b", "c"], len(group)).astype(object)
    genre[rng.random(len(group)) < 0.1] = None
    group[rng.random(len(group)) < 0.1] = None
    table = pd.DataFrame({"id": [f"clip{i}" for i in range(len(group))], "group": group, "genre": genre})
    return table.sample(frac=1, random_state=seed)


def shares(parts: np.ndarray) -> list[float]:
    return [(parts == part).mean() for part in PARTS]


@pytest.mark.parametrize("seed", range(30))
def test_no_group_crosses(seed: int) -> None:
    table = clips(seed, groups=4 + seed, largest=1 + seed % 9)
    parts = Split(seed=seed, stratify="genre" if seed % 2 else None).assign(table)
    sides = pd.Series(parts, index=table.index).groupby(table["group"]).nunique()
    assert sides.max() == 1
    assert set(parts) == set(PARTS)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_kept_where_groups_are_small(seed: int) -> None:
    table = clips(seed, groups=150, largest=3)
    parts = Split(seed=seed).assign(table)
    assert shares(parts) == pytest.approx(FRACTIONS, abs=0.02)
    for genre in "abc":
        assert shares(parts[table["genre"] == genre]) == pytest.approx(FRACTIONS, abs=0.04)


@pytest.mark.parametrize("seed", range(6))
def test_every_part_of_the_demo_has_every_class(demo: pd.DataFrame, seed: int) -> None:
    parts = Split(seed=seed).assign(demo)
    assert {*zip(parts, demo["genre"], strict=True)} == {
        (part, genre) for part in PARTS for genre in set(demo["genre"])
    }
    assert pd.Series(parts).groupby(demo["group"]).nunique().max() == 1


def test_a_seed_is_a_split() -> None:
    table = clips(0, groups=30, largest=4)
    splits = [Split(seed=seed).assign(table) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert all((one != other).any() for one, other in pairwise(splits[1:]))


def test_strata_are_kept_clip_by_clip() -> None:
    table = clips(1, groups=100, largest=3).assign(group=None)
    parts = Split("stratified").assign(table)
    for genre in "abc":
        of = table["genre"] == genre
        wanted = np.array(FRACTIONS) * of.sum()
        assert np.abs([(parts[of] == part).sum() for part in PARTS] - wanted).max() < 1


def test_a_random_split_has_its_shares() -> None:
    table = clips(2, groups=100, largest=3).assign(group=None)
    assert shares(Split("random", (0.5, 0.2, 0.3)).assign(table)) == pytest.approx((0.5, 0.2, 0.3), abs=0.01)


def test_the_official_split_is_the_tables_own() -> None:
    table = clips(3, groups=9, largest=1).assign(split=list(PARTS) * 3)
    assert Split("official").assign(table).tolist() == list(PARTS) * 3
    for wrong in (table.drop(columns="split"), table.assign(split="dev"), table.assign(split=[None, *PARTS[1:]] * 3)):
        with pytest.raises(DataError, match="needs a column `split` with train, val or test for every clip"):
            Split("official").assign(wrong)


def test_a_clip_without_a_group_is_one_of_its_own() -> None:
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "group": [None, "a", np.nan, "a"]})
    assert group_codes(table).tolist() == [0, 1, 2, 1]
    lone = clips(4, groups=200, largest=1).assign(group=None)
    assert shares(Split().assign(lone)) == pytest.approx(FRACTIONS, abs=0.02)


@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_leakage_is_refused_unless_asked_for(demo: pd.DataFrame, kind: str) -> None:
    with pytest.raises(
        DataError,
        match=r"^the split has 1[0-2] of \d+ groups on both sides .*, \.\.\.\): use data.split.kind=grouped, or",
    ):
        Split(kind).assign(demo)
    assert shares(Split(kind, allow_shared_groups=True).assign(demo)) == pytest.approx(FRACTIONS, abs=0.02)


def test_leakage_of_an_official_split_is_refused_by_name() -> None:
    table = pd.DataFrame({"id": list("abcd"), "group": ["x", "y", "bach", "bach"], "split": [*PARTS, "train"]})
    with pytest.raises(DataError, match=r"the split has 1 of \d+ groups on both sides \(bach\)"):
        Split("official").assign(table)
    assert Split("official", allow_shared_groups=True).assign(table).tolist() == [*PARTS, "train"]


@pytest.mark.parametrize("seed", range(5))
def test_three_groups_are_enough_for_three_parts(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 5, 3)
    group = np.repeat(["x", "y", "z"], sizes)
    table = pd.DataFrame({"id": np.arange(len(group)), "group": group})
    parts = Split(seed=seed, stratify=None).assign(table)
    assert set(parts) == set(PARTS)


@pytest.mark.parametrize("seed", range(5))
def test_every_part_has_every_class_where_that_can_be(seed: int) -> None:
    """Three artists of each genre are enough for one in each part."""
    sizes = np.random.default_rng(seed).integers(1, 20, 9)
    group, genre = np.repeat(np.arange(9), sizes), np.repeat(list("aaabbbccc"), sizes)
    parts = Split(seed=seed).assign(pd.DataFrame({"id": np.arange(len(group)), "group": group, "genre": genre}))
    assert len({*zip(parts, genre, strict=True)}) == 9


def test_too_few_groups_are_refused() -> None:
    table = pd.DataFrame({"id": list("abcdef"), "group": list("xxxyyy"), "genre": list("ababab")})
    with pytest.raises(DataError, match=r"leaves no clips for .*: 6 clips in 2 groups are too few"):
        Split().assign(table)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.3, -0.1), (0.5, 0.3, 0.3), (0.7, 0.3, 0.0)])
def test_impossible_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match=r"data\.split\.fractions must be three positive shares that add up to 1, got"):
        Split(fractions=fractions)  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.split\.kind must be one of grouped, .*, got 'leaky'"):
        Split("leaky")


def test_the_hash_is_of_the_split_and_of_nothing_else() -> None:
    ids, parts = np.array(["a", "b", "c"]), np.array(["train", "val", "test"])
    order = [2, 0, 1]
    assert split_hash(ids, parts) == split_hash(ids[order], parts[order])
    assert split_hash(ids, parts) != split_hash(ids, parts[order])
    assert split_hash(ids, parts) != split_hash(np.array(["a", "b", "d"]), parts)
