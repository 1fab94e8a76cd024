"""What a search goes by is the task's monitor on the validation part, and nothing of the test part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from etude.evaluation.monitor import monitored_score


def number(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None}


def scored(val: float | None, primary: str = "spearman") -> dict[str, Any]:
    """A target of metrics.json; the test part has another score, which must not matter."""
    values = {"val": number(val), "test": number(0.99)}
    parts = {part: {"n": 9, "groups": 3, "scores": {primary: one}, "baselines": {}} for part, one in values.items()}
    kind = {"kind": "scalar", "low": 0.0, "high": 1.0}
    if primary == "macro_f1":
        kind = {"kind": "label", "classes": ["a", "b"]}
    return {**kind, "primary": primary, "splits": parts}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    targets = {"genre": scored(0.5, "macro_f1"), "valence": scored(0.3), "energy": scored(None)}
    (tmp_path / "metrics.json").write_text(json.dumps({"targets": targets}))
    (tmp_path / "record.json").write_text(json.dumps({"targets": {}, "model": {"best_epoch": 2}}))
    (tmp_path / "curves.csv").write_text(
        "epoch,step,val/loss,val/energy/spearman\n1,3,0.9,\n2,6,0.7,0.4\n3,9,nan,0.6\n"
    )
    return tmp_path


def ask(folder: Path, monitor: str) -> float | None:
    (folder / "config.yaml").write_text(f"task:\n  monitor: {monitor}\n  mode: max\n")
    return monitored_score(folder)


def test_the_mean_is_over_targets_and_what_is_undefined_counts_nothing(folder: Path) -> None:
    assert ask(folder, "val/score") == pytest.approx((0.5 + 0.3 + 0) / 3)


def test_another_monitor_is_that_of_the_epoch_that_was_kept(folder: Path) -> None:
    assert ask(folder, "val/loss") == 0.7
    assert ask(folder, "val/energy/spearman") == 0.4


@pytest.mark.parametrize("monitor", ["train/loss", "test/score", "val/nothing"])
def test_nothing_but_the_validation_part_is_looked_at(folder: Path, monitor: str) -> None:
    assert ask(folder, monitor) is None


def test_a_loss_that_is_not_a_number_is_no_score(folder: Path) -> None:
    (folder / "record.json").write_text(json.dumps({"targets": {}, "model": {"best_epoch": 3}}))
    assert ask(folder, "val/loss") is None


def test_a_run_that_has_not_come_to_its_end_has_none(folder: Path) -> None:
    (folder / "metrics.json").unlink()
    assert ask(folder, "val/score") is None
