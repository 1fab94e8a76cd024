"""Tests of splits of tables in which the same audio has two ids."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from tests.data.split_tables import GENRE, make_table

from etude.data.partition import UNUSED
from etude.data.splits import Split
from etude.errors import DataError


def table_with_duplicates() -> pd.DataFrame:
    """Return sixty clips, of which three are duplicates of others."""
    table = make_table(6, groups=60, largest=1).reset_index(drop=True).assign(group=None)
    content = [f"hash{i}" for i in range(len(table))]
    for again, first in ((10, 2), (20, 2), (30, 4)):
        content[again] = content[first]
    return table.assign(content=content)


@pytest.mark.parametrize("kind", ["grouped", "stratified", "random"])
def test_duplicate_audio_is_refused_by_name(kind: str) -> None:
    table = table_with_duplicates()
    ids = table["id"]
    pairs = f"{ids[2]} = {ids[10]}, {ids[2]} = {ids[20]}, {ids[4]} = {ids[30]}"
    with pytest.raises(DataError, match=rf"^the same audio has two ids \(3 duplicates\) .*: {pairs}; drop duplicates"):
        Split(kind).assign(table, GENRE)


@pytest.mark.usefixtures("few_restarts")
def test_duplicate_audio_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Drop all but the first, and compare the remaining clips with a split without the duplicates."""
    table = table_with_duplicates()
    with caplog.at_level(logging.WARNING):
        assigned = Split(duplicates="drop").assign(table, GENRE)
    assert np.flatnonzero(assigned == UNUSED).tolist() == [10, 20, 30]
    assert "the same audio has two ids: 3 duplicates dropped" in caplog.text
    without_duplicates = Split(duplicates="drop").assign(table.drop(index=[10, 20, 30]), GENRE)
    np.testing.assert_array_equal(assigned[assigned != UNUSED], without_duplicates)


@pytest.mark.usefixtures("few_restarts")
def test_duplicate_audio_can_be_allowed() -> None:
    assigned = Split(duplicates="allow").assign(table_with_duplicates(), GENRE)
    np.testing.assert_array_equal(assigned, Split().assign(table_with_duplicates().drop(columns="content"), GENRE))
    assert UNUSED not in assigned


def test_duplicates_are_counted_and_five_are_named() -> None:
    table = pd.DataFrame({"id": list("abcdefghijklmn"), "group": None, "content": list("1122334455667788")[:14]})
    with pytest.raises(DataError, match=r"two ids \(7 duplicates\).*: a = b, c = d, e = f, g = h, i = j, \.\.\.; drop"):
        Split().assign(table)


@pytest.mark.usefixtures("few_restarts")
def test_all_folds_drop_the_same_duplicates() -> None:
    assigned = np.stack(
        [Split(folds=3, fold=fold, duplicates="drop").assign(table_with_duplicates(), GENRE) for fold in range(3)]
    )
    unused = (assigned == UNUSED).all(0)
    assert np.flatnonzero(unused).tolist() == [10, 20, 30]
    np.testing.assert_array_equal((assigned == "test").sum(0), ~unused)
