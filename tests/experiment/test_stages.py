"""Tests of the checks before the stages of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.errors import UserError
from etude.experiment.stages import run_experiment


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=digit"], r"^task: demo has no target digit; it has genre \(label\), "),
        (
            ["backbone=musicnn", "backbone.weights=gone.pt"],
            r"^backbone\.weights=gone\.pt: there is no such weights file",
        ),
        (
            ["backbone=ast", "backbone.weights=gone.pt"],
            r"^backbone\.weights must be .*'gone\.pt'; there is no such file",
        ),
        (
            ["backbone=timm", "backbone.weights=gone.pt"],
            r"^backbone\.weights must be .*'gone\.pt'; there is no such file",
        ),
    ],
)
def test_missing_target_or_weights_are_refused_before_audio_is_decoded(
    overrides: list[str], message: str, config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    packs = tmp_path / "packs"
    composed = config(*overrides, f"data.packs={packs}")
    with pytest.raises(UserError, match=message):
        run_experiment(composed, tmp_path / "run")
    assert not packs.exists()
