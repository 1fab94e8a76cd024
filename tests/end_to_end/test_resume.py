"""A run that was killed, or whose disk was full, and that was resumed is the run that was not, bit for bit."""

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
from tests.end_to_end.warm import Nest

pytestmark = pytest.mark.xdist_group("survive")  # what is run once is run in one process
BOMB = """
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


class Bomb(Callback):
    def __init__(self, how: str, step: int) -> None:
        self.how, self.step = how, step

    def explode(self, how: str, trainer) -> bool:
        if how != self.how or trainer.global_step < self.step or Path("exploded").exists():
            return False
        Path("exploded").touch()
        return True

    def on_train_batch_end(self, trainer, *args) -> None:
        if self.explode("training", trainer):
            kill()
        if self.explode("writing", trainer):
            torch.save = lambda content, file: (file.write(b"half of it"), file.flush(), kill())
        if self.explode("full", trainer):
            shutil.copytree(Path(trainer.default_root_dir) / "checkpoints", "before")
            # as on a full disk, a file can be begun and not ended
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))

    def on_validation_batch_end(self, trainer, *args) -> None:
        if self.explode("validation", trainer):
            kill()

    def on_test_batch_end(self, trainer, *args) -> None:
        if self.explode("testing", trainer):
            terminate()
"""
EPOCHS, STEPS = 5, 8  # 116 clips in batches of 16
# within the third epoch, after which the run ends: it was to have as many, or no later one is better by so much
MOMENT = int(np.random.default_rng(7).integers(2 * STEPS + 1, 3 * STEPS))
LINE = ["backbone=lstm", "task=joint", "backbone.dropout=0.3", "augment=specaugment"]
STOPPED = [f"trainer.max_epochs={EPOCHS}", "patience=2", "+callbacks.early_stopping.min_delta=10"]
WAYS = {"best_epoch": STOPPED, "ema": ["trainer.max_epochs=3"]}
MANY = np.random.default_rng(8).integers(STEPS + 1, 3 * STEPS, 10).tolist()  # behind the first checkpoint
CASES = [
    *(("best_epoch", how, MOMENT) for how in ("training", "validation", "writing", "full", "testing")),
    ("ema", "training", MOMENT),
    *(pytest.param("best_epoch", "training", moment, marks=pytest.mark.full) for moment in MANY),
]
STATE = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "random")
RUNNING = ("current_model_state", "averaging_state")  # of a mean of the weights, which stands in `state_dict`


def start(nest: Nest, folder: Path, environment: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    known = environment | {"PYTHONPATH": path, "ETUDE_TRUST": "bomb"}
    return nest.run(folder, known, *overrides)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, packs: Path, environment: dict[str, str], nest: Nest
) -> Callable[[str], Path]:
    """The run that nothing happens to, by what is kept of it; each is run once."""
    done: dict[str, Path] = {}

    def go(kept: str) -> Path:
        if kept not in done:
            folder = tmp_path_factory.mktemp("whole")
            result = start(nest, folder, environment, *words(kept), f"data.packs={packs}", *LINE)
            assert result.returncode == 0, result.stderr
            done[kept] = next((folder / "outputs").iterdir())
        return done[kept]

    return go


def words(kept: str) -> list[str]:
    return [f"callbacks={kept}", *WAYS[kept]]


def pathless(node: Any, run: Path) -> Any:
    """The same without the run's folder in any text, and without the score that was last seen, which nothing reads."""
    if isinstance(node, dict):
        return {pathless(key, run): pathless(value, run) for key, value in node.items() if key != "current_score"}
    return node.replace(str(run), "") if isinstance(node, str) else node


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


@pytest.mark.parametrize(("kept", "how", "moment"), CASES)
def test_what_ends_a_run_changes_nothing(
    kept: str,
    how: str,
    moment: int,
    whole: Callable[[str], Path],
    packs: Path,
    environment: dict[str, str],
    nest: Nest,
    tmp_path: Path,
) -> None:
    quiet = whole(kept)
    (tmp_path / "bomb.py").write_text(BOMB)
    bomb = f"+callbacks.bomb={{_target_: bomb.Bomb, how: {how}, step: {moment}}}"
    ended = start(nest, tmp_path, environment, *words(kept), f"data.packs={packs}", *LINE, bomb)
    assert ended.returncode == {"full": 1, "testing": 143}.get(how, -9), ended.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    assert not (run / "metrics.json").exists()
    left = {path.name for path in (run / "checkpoints").iterdir()}
    if how == "writing":
        (draft,) = (run / "checkpoints").glob(".*.part")
        assert draft.read_bytes() == b"half of it"
    else:
        assert left == {"best.ckpt", "last.ckpt"}
    if how == "full":
        assert (run / "checkpoints" / "last.ckpt").read_bytes() == (tmp_path / "before" / "last.ckpt").read_bytes()
        said = ended.stderr.splitlines()[-1]
        assert said.startswith(f"{run.relative_to(tmp_path)}/checkpoints: the disk is full")
        assert said.endswith(f"; resume with: python train.py resume={run.relative_to(tmp_path)}")
        assert "Traceback" not in ended.stderr
    if how == "testing":
        run_path = run.relative_to(tmp_path)
        said = f"terminated by SIGTERM; resume with: python train.py resume={run_path}"
        assert ended.stderr.splitlines()[-1] == said
        assert (run / "train.log").read_text().rstrip().endswith(said)
    resumed = start(nest, tmp_path, environment, f"resume={run.relative_to(tmp_path)}")
    assert resumed.returncode == 0, resumed.stderr
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for name in ("last", "best"):
        one, other = (torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True) for path in (quiet, run))
        for key in STATE + (RUNNING if kept == "ema" else ()):
            assert_equal(one[key], other[key], f"{name}: {key}")
        states = (pathless(stored["callbacks"], path) for stored, path in ((one, quiet), (other, run)))
        assert_equal(*states, f"{name}: callbacks")
    assert (run / "curves.csv").read_text() == (quiet / "curves.csv").read_text()
    assert len(pd.read_csv(run / "curves.csv")) == 3 < EPOCHS
    pd.testing.assert_frame_equal(*(pd.read_parquet(path / "predictions.parquet") for path in (run, quiet)))
