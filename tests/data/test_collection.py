"""Samples of collections."""

from __future__ import annotations

import pandas as pd
import pytest

from etude.data.collection import Collection
from etude.data.sources.demo import collection


@pytest.fixture(scope="module")
def demo() -> Collection:
    return collection()


def test_sample_keeps_the_shares_of_classes_and_groups(demo: Collection) -> None:
    sample = demo.sample(64)
    assert sample.name == "demo-64" and len(sample.table) == 64
    pd.testing.assert_frame_equal(sample.table, demo.table[demo.table["id"].isin(sample.table["id"])])
    assert set(sample.table["group"]) == set(demo.table["group"])
    for column in ("genre", "group"):
        share, expected = (table[column].value_counts(normalize=True) for table in (sample.table, demo.table))
        assert (share - expected).abs().max() < 0.02


@pytest.mark.parametrize("column", ["split", "fold"])
def test_sample_keeps_the_shares_of_official_splits(demo: Collection, column: str) -> None:
    cells = ["train", "train", "val", "test"] * 49
    part = Collection(demo.name, demo.title, demo.table.assign(**{column: cells}), demo.targets).sample(40)
    assert part.table[column].value_counts().to_dict() == {"train": 20, "val": 10, "test": 10}


def test_sample_has_clips_of_all_targets() -> None:
    table = pd.DataFrame({"id": [str(i) for i in range(90)], "path": "x", "group": None, "genre": None, "energy": None})
    table.loc[:44, "genre"] = ["a", "b", "c"] * 15
    table.loc[45:, "energy"] = 0.5
    targets = {
        "genre": {"kind": "label", "classes": ["a", "b", "c"]},
        "energy": {"kind": "scalar", "low": 0, "high": 1},
    }
    sample = Collection("both", "", table, targets).sample(12).table
    assert sample["genre"].notna().sum() == sample["energy"].notna().sum() == 6
    assert set(sample["genre"].dropna()) == {"a", "b", "c"}


def test_small_collection_is_unchanged(demo: Collection) -> None:
    assert demo.sample(196) is demo
