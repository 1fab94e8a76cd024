"""A run that was killed and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[2]
BOMB = """
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class Bomb(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step and not Path("exploded").exists():
            Path("exploded").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
EPOCHS, STEPS = 4, 8  # 116 clips in batches of 16
MOMENTS = sorted(np.random.default_rng(7).choice(np.arange(STEPS, EPOCHS * STEPS), 2, replace=False).tolist())
LINE = ["backbone=lstm", "task=joint", "backbone.dropout=0.3", "augment=specaugment", f"trainer.max_epochs={EPOCHS}"]


def start(folder: Path, environment: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    known = environment | {"PYTHONPATH": str(folder), "ETUDE_TRUST": "bomb"}
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    return subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, packs: Path, environment: dict[str, str]) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    result = start(folder, environment, f"data.packs={packs}", *LINE)
    assert result.returncode == 0, result.stderr
    return next((folder / "outputs").iterdir())


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{place}]")
    else:
        assert one == other, where


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_changes_nothing(
    moment: int, whole: Path, packs: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bomb.py").write_text(BOMB)
    bomb = f"+callbacks.bomb={{_target_: bomb.Bomb, step: {moment}}}"
    killed = start(tmp_path, environment, f"data.packs={packs}", *LINE, bomb)
    assert killed.returncode == -9, killed.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    assert not (run / "metrics.json").exists()
    resumed = start(tmp_path, environment, f"resume={run.relative_to(tmp_path)}")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("last", "best"):
        one, other = (torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True) for path in (whole, run))
        for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "random"):
            assert_equal(one[key], other[key], f"{name}: {key}")
    assert (run / "curves.csv").read_text() == (whole / "curves.csv").read_text()
    pd.testing.assert_frame_equal(*(pd.read_parquet(path / "predictions.parquet") for path in (run, whole)))
