"""Tests of splits that are stored in the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.data.split_tables import GENRE, make_table, splits_per_group

from etude.data.partition import SPLITS, UNUSED
from etude.data.splits import Split, group_codes
from etude.errors import DataError


def test_official_split_is_column_of_table() -> None:
    table = make_table(3, groups=9, largest=1).assign(split=list(SPLITS) * 3)
    for seed in range(3):
        assert Split("official", seed=seed).assign(table, GENRE).tolist() == list(SPLITS) * 3
    message = r"data\.split\.kind=official needs a column `split` or `fold`, or data\.split\.column=<name>"
    with pytest.raises(DataError, match=message):
        Split("official").assign(table.drop(columns="split"))
    with pytest.raises(
        DataError, match=r"needs a split or fold in the column split for every clip; \d of \d+ clips lack"
    ):
        Split("official").assign(table.assign(split=[None, *SPLITS[1:]] * 3))
    with pytest.raises(
        DataError, match=r"column split: has 'train' and 'holdout'; all cells must be train, val or test"
    ):
        Split().assign(table.assign(split=["train", "test", "holdout"] * 3))


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


@pytest.mark.parametrize("kind", ["auto", "official"])
def test_groups_that_cross_official_splits_are_counted_and_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    table = pd.DataFrame({"id": range(14), "group": [f"g{i // 2}" for i in range(14)], "split": ["train", "test"] * 7})
    table.loc[14] = [14, "z", "val"]
    plan = Split(kind).plan(table)
    assert plan.splits.tolist() == table["split"].tolist()
    assert plan.shared_groups == tuple(f"g{i}" for i in range(7))
    assert "7 of 8 groups are in more than one split (g0, g1, g2, g3, g4, ...): the column split" in caplog.text


def fold_table(folds: list[str]) -> pd.DataFrame:
    """Return a table of four clips in each fold, in groups of two."""
    n = 4 * len(folds)
    ids, groups = [f"c{i}" for i in range(n)], [f"g{i // 2}" for i in range(n)]
    return pd.DataFrame({"id": ids, "group": groups, "genre": list("xxyy") * len(folds), "fold": np.repeat(folds, 4)})


@pytest.mark.parametrize("folds", [["1", "2", "10"], ["a", "b", "c"]])
def test_official_folds_are_named_as_in_table(folds: list[str]) -> None:
    """The next fold, in numerical or alphabetical order, is validation, and each clip is tested once."""
    table = fold_table(folds).sample(frac=1, random_state=0)
    for index, fold in enumerate(folds):
        plan = Split(fold=int(fold) if fold.isdecimal() else fold).plan(table, GENRE)
        expected = {fold: "test", folds[(index + 1) % 3]: "val", folds[(index + 2) % 3]: "train"}
        assert plan.splits.tolist() == [expected[value] for value in table["fold"]]
        assert (plan.kind, plan.column, str(plan.fold)) == ("official", "fold", fold)
        assert [str(name) for name in plan.folds] == folds
    with pytest.raises(DataError, match=rf"data\.split\.fold=0: the folds of the column fold are {', '.join(folds)}"):
        Split(fold=0).assign(table, GENRE)


def test_first_official_fold_is_tested_by_default(caplog: pytest.LogCaptureFixture) -> None:
    table = fold_table(["1.0", "2.0", "3.0"])
    assert Split().plan(table, GENRE).fold == 1
    assert "the test split is fold 1 of the column fold; for all folds, use -m sweep=folds" in caplog.text


def test_validation_of_two_official_folds_is_a_grouped_part_of_training() -> None:
    table = fold_table(["left", "right"] * 4)
    plan = Split(fold="right").plan(table, GENRE)
    np.testing.assert_array_equal(plan.splits == "test", table["fold"] == "right")
    assert set(plan.splits) == set(SPLITS)
    assert splits_per_group(plan.splits, table) == 1


def test_empty_cells_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    table = fold_table(["1", "2", "3"])
    table.loc[[0, 5], "fold"] = ""
    plan = Split(fold=3).plan(table, GENRE)
    assert np.flatnonzero(plan.splits == UNUSED).tolist() == [0, 5]
    assert plan.unused == {"empty cell in column fold": 2}
    assert "2 of 12 clips have an empty cell in the column fold and are not used: c0, c5" in caplog.text


@pytest.mark.parametrize(
    "names", [("Training", "Valid", "TEST"), ("train", "dev", "test"), ("TRAIN", "validation", "Test")]
)
def test_names_of_splits_are_read_in_any_case(names: tuple[str, ...]) -> None:
    table = fold_table(list(names)).rename(columns={"fold": "split"})
    assert Split().assign(table).tolist() == np.repeat(SPLITS, 4).tolist()


@pytest.mark.usefixtures("few_restarts")
def test_options_of_user_win_over_default_column(caplog: pytest.LogCaptureFixture) -> None:
    table = fold_table(["1", "2", "3", "4"])
    with caplog.at_level("INFO"):
        grouped = [Split("grouped").plan(table, GENRE), Split(column=None).plan(table, GENRE)]
    assert {plan.kind for plan in grouped} == {"grouped"}
    assert "data.split.kind=grouped: the column fold of the table is not used" in caplog.text
    both = table.assign(split=["train", "val", "test", "test"] * 4)
    assert Split().plan(both, GENRE).column == "split"
    assert Split(column="fold").plan(both, GENRE).column == "fold"
    assert Split().plan(table, [*GENRE, "fold"]).kind == "grouped"  # a target
    with pytest.raises(DataError, match=r"data\.split\.column=cv: cv is no column of official splits or folds"):
        Split(column="cv").assign(table)
    with pytest.raises(DataError, match=r"data\.split\.fold=1: the column split has train, val and test and no folds"):
        Split(fold=1).assign(both)


def test_column_without_test_clips_is_not_used_by_default(caplog: pytest.LogCaptureFixture) -> None:
    table = fold_table(["train"] * 10).rename(columns={"fold": "split"})
    assert Split().plan(table, GENRE).kind == "grouped"
    assert "the column split is not used, because it has no training and test clips" in caplog.text
    with pytest.raises(DataError, match="no clips are left for test"):
        Split("official").assign(table, GENRE)
