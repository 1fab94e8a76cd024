"""Tests that a resumed run equals an uninterrupted run bit for bit, after kills and a full disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.end_to_end.fork_server import ForkServer

pytestmark = pytest.mark.xdist_group("resume")  # one process, so that the uninterrupted runs are trained once
CALLBACK = """
import os
import resource
import shutil
import signal
from pathlib import Path

import torch
from pytorch_lightning import Callback


def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def terminate(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)


class Interruption(Callback):
    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step = stage, step

    def is_due(self, stage: str, trainer) -> bool:
        if stage != self.stage or trainer.global_step < self.step or Path("interrupted").exists():
            return False
        Path("interrupted").touch()
        return True

    def on_train_batch_end(self, trainer, *args) -> None:
        if self.is_due("training", trainer):
            kill()
        if self.is_due("writing", trainer):
            torch.save = lambda content, file: (file.write(b"incomplete"), file.flush(), kill())
        if self.is_due("full_disk", trainer):
            shutil.copytree(Path(trainer.default_root_dir) / "checkpoints", "before")
            # like a full disk, the limit allows to start a file but not to complete it
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))

    def on_validation_batch_end(self, trainer, *args) -> None:
        if self.is_due("validation", trainer):
            kill()

    def on_test_batch_end(self, trainer, *args) -> None:
        if self.is_due("testing", trainer):
            terminate()
"""
EPOCHS, STEPS = 5, 8  # 116 clips in batches of 16
# a step of the third epoch, which is the last one in all cases
STEP = int(np.random.default_rng(7).integers(2 * STEPS + 1, 3 * STEPS))
COMMON = ["backbone=lstm", "task=joint", "backbone.dropout=0.3", "augment=specaugment"]
# early stopping ends the run after three epochs, because no score increases by 10
EARLY_STOPPING = [f"trainer.max_epochs={EPOCHS}", "patience=2", "+callbacks.early_stopping.min_delta=10"]
OVERRIDES = {"best_epoch": EARLY_STOPPING, "ema": ["trainer.max_epochs=3"]}
MANY_STEPS = np.random.default_rng(8).integers(STEPS + 1, 3 * STEPS, 10).tolist()  # after the first checkpoint
CASES = [
    *(("best_epoch", stage, STEP) for stage in ("training", "writing", "testing")),
    *(pytest.param("best_epoch", stage, STEP, marks=pytest.mark.full) for stage in ("validation", "full_disk")),
    pytest.param("ema", "training", STEP, marks=pytest.mark.full),
    *(pytest.param("best_epoch", "training", step, marks=pytest.mark.full) for step in MANY_STEPS),
]
STATE = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "random")
EMA_STATE = ("current_model_state", "averaging_state")  # `state_dict` then contains the averaged weights
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run_train(packs: Path, environment: dict[str, str], fork_server: ForkServer) -> Run:
    """Return a function that runs train.py in a folder with the callback above available."""

    def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
        (folder / "interruption.py").write_text(CALLBACK)
        path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        variables = environment | {"PYTHONPATH": path, "ETUDE_TRUST": "interruption"}
        arguments = overrides if overrides[0].startswith("resume=") else [*overrides, f"data.packs={packs}", *COMMON]
        return fork_server.run(folder, variables, *arguments)

    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, run_train: Run) -> Callable[[str], Path]:
    """Return a function from an option of `callbacks` to the folder of its uninterrupted run, trained once."""
    folders: dict[str, Path] = {}

    def train(callbacks: str) -> Path:
        if callbacks not in folders:
            folder = tmp_path_factory.mktemp("uninterrupted")
            result = run_train(folder, f"callbacks={callbacks}", *OVERRIDES[callbacks])
            assert result.returncode == 0, result.stderr
            folders[callbacks] = next((folder / "outputs").iterdir())
        return folders[callbacks]

    return train


def without_paths(node: Any, run: Path) -> Any:
    """Return callback states without the path of the run folder and without `current_score`, which nothing reads."""
    if isinstance(node, dict):
        return {
            without_paths(key, run): without_paths(value, run) for key, value in node.items() if key != "current_score"
        }
    return node.replace(str(run), "") if isinstance(node, str) else node


def assert_equal(actual: Any, expected: Any, name: str = "") -> None:
    """Assert that nested data with tensors are equal."""
    if isinstance(actual, torch.Tensor):
        assert torch.equal(actual, expected), name
    elif isinstance(actual, dict):
        assert list(actual) == list(expected), name
        for key in actual:
            assert_equal(actual[key], expected[key], f"{name}.{key}")
    elif isinstance(actual, list | tuple):
        assert len(actual) == len(expected), name
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_equal(a, b, f"{name}[{index}]")
    else:
        assert actual == expected, name


@pytest.mark.parametrize(("callbacks", "stage", "step"), CASES)
def test_resumed_run_equals_an_uninterrupted_run(
    callbacks: str, stage: str, step: int, uninterrupted: Callable[[str], Path], run_train: Run, tmp_path: Path
) -> None:
    reference = uninterrupted(callbacks)
    interruption = f"+callbacks.interruption={{_target_: interruption.Interruption, stage: {stage}, step: {step}}}"
    interrupted = run_train(tmp_path, f"callbacks={callbacks}", *OVERRIDES[callbacks], interruption)
    assert interrupted.returncode == {"full_disk": 1, "testing": 143}.get(stage, -9), interrupted.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    path = run.relative_to(tmp_path)
    assert not (run / "metrics.json").exists()
    if stage == "writing":
        (draft,) = (run / "checkpoints").glob(".*.part")
        assert draft.read_bytes() == b"incomplete"
    else:
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    if stage == "full_disk":
        assert (run / "checkpoints" / "last.ckpt").read_bytes() == (tmp_path / "before" / "last.ckpt").read_bytes()
        message = interrupted.stderr.splitlines()[-1]
        assert message.startswith(f"{path}/checkpoints: the disk is full")
        assert message.endswith(f"; resume with: python train.py resume={path}")
        assert "Traceback" not in interrupted.stderr
    if stage == "testing":
        message = f"terminated by SIGTERM; resume with: python train.py resume={path}"
        assert interrupted.stderr.splitlines()[-1] == message
        assert (run / "train.log").read_text().rstrip().endswith(message)
    resumed = run_train(tmp_path, f"resume={path}")
    assert resumed.returncode == 0, resumed.stderr
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for name in ("last", "best"):
        actual, expected = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for folder in (run, reference)
        )
        for key in STATE + (EMA_STATE if callbacks == "ema" else ()):
            assert_equal(actual[key], expected[key], f"{name}: {key}")
        states = (
            without_paths(stored["callbacks"], folder) for stored, folder in ((actual, run), (expected, reference))
        )
        assert_equal(*states, f"{name}: callbacks")
    assert (run / "curves.csv").read_text() == (reference / "curves.csv").read_text()
    assert len(pd.read_csv(run / "curves.csv")) == 3 < EPOCHS
    pd.testing.assert_frame_equal(*(pd.read_parquet(folder / "predictions.parquet") for folder in (run, reference)))
