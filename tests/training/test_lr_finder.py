"""Tests of the learning-rate range test and its output files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from etude.experiment.stages import run_experiment
from etude.training.lr_finder import LearningRateFinder, smooth_losses, suggest_rate

RATES = np.geomspace(1e-6, 1, 61)  # ten to a decade


def test_suggested_rate_is_a_tenth_of_the_minimum() -> None:
    valley = (np.log10(RATES) + 2) ** 2  # lowest at 1e-2
    noise = 0.3 * np.random.default_rng(0).standard_normal(len(RATES))
    assert math.log10(suggest_rate(RATES, valley.tolist()) or 1) == pytest.approx(-3, abs=0.15)
    assert math.log10(suggest_rate(RATES, (valley + noise).tolist()) or 1) == pytest.approx(-3, abs=0.4)


def test_increasing_loss_gives_no_suggestion() -> None:
    assert suggest_rate(RATES, np.arange(61.0).tolist()) is None


def test_smoothing_has_no_lag_and_ignores_non_finite_losses() -> None:
    smoothed = smooth_losses(np.arange(61.0).tolist())
    assert smoothed[30] == pytest.approx(30)
    assert smooth_losses([1.0, math.nan, 1.0, math.inf]).tolist() == pytest.approx([1, 1, 1, 1], nan_ok=False)


def test_invalid_range_raises() -> None:
    with pytest.raises(ValueError, match="at least 10 steps and 0 < low < high"):
        LearningRateFinder(low=1.0, high=0.1)


def test_range_test_writes_table_and_plot_but_no_report(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    overrides = ["debug=find_lr", "backbone=lstm", "data.crop=0.5", "backbone.hidden=8", "callbacks.ramp.steps=20"]
    assert run_experiment(config(*overrides), tmp_path) == {}
    table = pd.read_csv(tmp_path / "lr.csv")
    assert len(table) <= 20
    np.testing.assert_allclose(table["lr"], np.geomspace(1e-6, 1, 20)[: len(table)], rtol=1e-5)
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "checkpoints").exists()
