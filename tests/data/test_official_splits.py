"""Tests of splits that are stored in the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.data.split_tables import GENRE, make_table, splits_per_group

from etude.data.splits import SPLITS, Split, group_codes
from etude.errors import DataError


def test_official_split_is_column_of_table() -> None:
    table = make_table(3, groups=9, largest=1).assign(split=list(SPLITS) * 3)
    for seed in range(3):
        assert Split("official", seed=seed).assign(table, GENRE).tolist() == list(SPLITS) * 3
    for wrong in (table.drop(columns="split"), table.assign(split="dev"), table.assign(split=[None, *SPLITS[1:]] * 3)):
        with pytest.raises(DataError, match="needs a column `split` with train, val or test for every clip"):
            Split("official").assign(wrong)


def table_with_official_split(seed: int) -> pd.DataFrame:
    """Return a table with official training and test splits by groups, without validation."""
    table = make_table(seed, groups=60, largest=4)
    codes = group_codes(table)
    return table.assign(split=np.where(codes % 4 == 0, "test", "train"))


@pytest.mark.parametrize("seed", range(2))
def test_validation_is_taken_from_official_training_split(seed: int) -> None:
    """Take 0.15 of 0.75 as validation, grouped and in proportion, without a change of the test split."""
    table = table_with_official_split(seed)
    assigned = Split("official", seed=seed).assign(table, GENRE)
    np.testing.assert_array_equal(assigned == "test", table["split"] == "test")
    assert splits_per_group(assigned, table) == 1
    rest = assigned[assigned != "test"]
    assert (rest == "val").mean() == pytest.approx(0.2, abs=0.02)
    for genre in "abc":
        selected = (table["genre"] == genre).to_numpy() & (assigned != "test")
        assert (assigned[selected] == "val").mean() == pytest.approx(0.2, abs=0.05)


@pytest.mark.usefixtures("few_restarts")
def test_other_seed_gives_other_validation() -> None:
    first, second = (Split("official", seed=seed).assign(table_with_official_split(0), GENRE) for seed in (0, 1))
    assert (first != second).any()
    np.testing.assert_array_equal(first == "test", second == "test")


def test_validation_share_follows_fractions() -> None:
    table = table_with_official_split(1).assign(group=None)
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
