"""Tests of classes with fewer groups than splits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.data.split_tables import GENRE, splits_per_group

from etude.data.datamodule import MusicData
from etude.data.partition import SPLITS, UNUSED
from etude.data.splits import Split, class_counts, unlearnable_classes

TARGETS = {"genre": {"kind": "label", "classes": ["many", "two", "one"]}, "energy": {"kind": "scalar"}}


def planted_table() -> pd.DataFrame:
    """Return a class of six groups, a class of two, and a class of one that shares its group with the first class."""
    rows = [(f"many{i}", "many") for i in range(6)] + [("two0", "two"), ("two1", "two"), ("many0", "one")]
    table = pd.DataFrame([row for row in rows for _ in range(4)], columns=["group", "genre"])
    return table.assign(id=[f"c{i}" for i in range(len(table))])


def test_classes_with_few_groups_are_in_training_alone(caplog: pytest.LogCaptureFixture) -> None:
    table = planted_table()
    plan = Split(few_groups="train").plan(table, GENRE)
    assert set(plan.splits[table["genre"] != "many"]) == {"train"}
    assert set(plan.splits[table["group"] == "many0"]) == {"train"}  # the group of the class with one group
    assert set(plan.splits[table["genre"] == "many"]) == set(SPLITS)
    assert splits_per_group(plan.splits, table) == 1
    assert plan.unused == {}
    assert "genre: classes with fewer than three groups are in training alone: one, two (12 clips)" in caplog.text


def test_classes_with_few_groups_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    table = planted_table()
    for fold in (None, 1):
        plan = Split(few_groups="drop", folds=4, fold=fold).plan(table, GENRE)
        np.testing.assert_array_equal(plan.splits == UNUSED, table["genre"] != "many")
        assert plan.unused == {"class with few groups": 12}
    assert "genre: classes with fewer than three groups are left out: one, two (12 clips)" in caplog.text


def test_official_split_keeps_classes_with_few_groups() -> None:
    table = planted_table().assign(split=np.resize(SPLITS, 36))
    assert Split(few_groups="drop").assign(table, GENRE).tolist() == table["split"].tolist()


def test_classes_without_training_clips_are_named(caplog: pytest.LogCaptureFixture) -> None:
    table = planted_table()
    splits = np.select([table["genre"] == "two", table["group"] == "many1"], ["test", "val"], "train")
    counts = class_counts(table, splits, TARGETS)
    assert counts == {
        "genre": {
            "many": {"train": 20, "val": 4, "test": 0},
            "two": {"train": 0, "val": 0, "test": 8},
            "one": {"train": 4, "val": 0, "test": 0},
        }
    }
    assert unlearnable_classes(counts["genre"]) == (["two"], ["one"])
    data: Any = SimpleNamespace(class_counts=counts, fitted_splits=("train",))
    MusicData._log_unlearnable_classes(data)
    assert "genre: no training clips of two (0 val, 8 test), so these clips cannot be classified" in caplog.text
    assert "genre: only training clips of one, so this split does not test them; data.split.stratify" in caplog.text
    caplog.clear()
    counts["genre"]["two"]["val"] = 1
    data.fitted_splits = ("train", "val")  # as those of a linear probe
    MusicData._log_unlearnable_classes(data)
    assert "no training clips" not in caplog.text
