"""Tests of the checks before the stages of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.errors import UserError
from etude.experiment.stages import run_experiment


def test_missing_target_is_refused_before_audio_is_decoded(
    config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    packs = tmp_path / "packs"
    composed = config("task=digit", f"data.packs={packs}")
    with pytest.raises(UserError, match=r"^task: demo has no target digit; it has genre \(label\), "):
        run_experiment(composed, tmp_path / "run")
    assert not packs.exists()
