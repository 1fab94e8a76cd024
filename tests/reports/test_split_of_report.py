"""Tests of the description of groups, folds and classes without training clips in a run report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.reports.report_page import build_report

SPLITS = {"splits": {"train": {"clips": 9, "groups": None}, "test": {"clips": 3, "groups": None}}}
OFFICIAL = {"split_kind": "official", "split_column": "fold", "disjoint": False, "shared_groups": 2, "groups": 9}
MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("data", "texts", "absent"),
    [
        ({"disjoint": True}, ["no group occurs in more than one split"], "unknown: clips"),  # an older record
        ({"disjoint": False}, ["some groups of the scored clips were in training"], "unknown: clips"),
        (
            SPLITS | {"disjoint": None, "groups_known": "none", "fold": 2, "folds": 5},
            ["unknown: clips of one artist may be in several splits", "2 of 5, counted from 0", "train9unknown"],
            "no group occurs",
        ),
        (
            {"disjoint": None, "groups_known": "some", "grouped": 7, "clips": 9, "partitions": 3},
            ["no known group occurs in more than one split; clips with", "3: values of data.split.seed repeat"],
            "no group occurs",
        ),
        (
            OFFICIAL | {"fold": "b", "folds": 3, "fold_names": list("abc"), "unused": {"empty cell in column fold": 4}},
            ["2 groups of 9 are in more than one split, because the official splits separate them",
             "b, of the official folds a, b, c (column fold)", "4 clips (empty cell in column fold)"],
            "counted from 0",
        ),
        (OFFICIAL | {"fold": None, "shared_groups": 1}, ["1 group of 9 is in", "from the column fold"], "folds"),
    ],
)  # fmt: skip
def test_groups_and_folds_are_described(make_run: MakeRun, data: dict[str, Any], texts: list[str], absent: str) -> None:
    page, _ = build_report(make_run("run", data={"name": "d", **data}))
    section = page.text[page.text.index("Data hash") if "Data hash" in page.text else page.text.index("Groups") :]
    for text in texts:
        assert text in page.text
    assert absent not in section


def test_classes_without_training_clips_are_named(make_run: MakeRun, targets: dict[str, Any]) -> None:
    counts = {"ambient": 9, "folk": 3, "jazz": 5, "rock": 0}
    page, metrics = build_report(
        make_run("run", targets=targets | {"genre": targets["genre"] | {"train_classes": counts}})
    )
    rows = {row["class"]: row["support"] for row in metrics["targets"]["genre"]["splits"]["test"]["per_class"]}
    assert f"{rows['rock']} test): the network cannot predict these clips correctly." in page.text
    assert "No training clips of rock (" in page.text
    value = metrics["targets"]["genre"]["splits"]["test"]["learnable"]["scores"]["macro_f1"]["value"]
    assert f"macro-F1 of 3 classes with training clips{value:.2f}" in page.text.replace(" macro-F1 of", "macro-F1 of")
