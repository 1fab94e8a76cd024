"""Tests that every backbone and every task can overfit a few clips, which a correct network can do."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backbone_names import WITHOUT_CHECKPOINT

from etude.config.compose import conf_dir
from etude.experiment.stages import run_experiment


def options(group: str) -> list[str]:
    """Return the options of a config group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


# all targets with every backbone, and every task with the fastest backbone, because the full grid takes many minutes
PAIRS: list[Any] = [
    pytest.param(backbone, "joint", marks=[] if backbone in ("cnn", "lstm", "ast") else pytest.mark.full)
    for backbone in WITHOUT_CHECKPOINT
]
PAIRS += [
    pytest.param("lstm", task, marks=[] if task in ("genre", "valence") else pytest.mark.full)
    for task in options("task")
    if task not in ("digit", "joint")
]
SMALLER = {"ast": ["backbone.depth=3"], "timm": ["backbone.model=test_resnet"]}  # of the same kind, and faster


@pytest.mark.parametrize(("backbone", "task"), PAIRS)
def test_every_backbone_and_every_task_overfits_a_few_clips(
    backbone: str, task: str, config: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loss = 0.05 if task in ("genre", "joint") else 0.002  # the variance of each scalar is 0.03
    small = ["debug=overfit", "data.overfit=6", "data.crop=1.0", f"callbacks.early_stopping.stopping_threshold={loss}"]
    small += SMALLER.get(backbone, [])
    composed = config(f"backbone={backbone}", f"task={task}", *small)
    assert run_experiment(composed, tmp_path) == {}
    content = json.loads((tmp_path / "overfit.json").read_text())
    assert content["first"]["epoch"] == 0 and content["last"]["losses"]["val/loss"] < loss
    assert content["last"]["losses"]["val/loss"] < content["first"]["losses"]["val/loss"]
    assert {clip["target"] for clip in content["clips"]} == set(composed["task"]["targets"])
    assert len({clip["id"] for clip in content["clips"]}) == 6
    page = (tmp_path / "overfit.html").read_text("utf-8")
    assert "The network learned all 6 clips" in page or "did not learn" in page
    assert any(
        f"Page: {os.path.relpath(tmp_path / 'overfit.html')}" in record.getMessage() for record in caplog.records
    )
    assert not (tmp_path / "metrics.json").exists()  # scores of training clips are not reported
