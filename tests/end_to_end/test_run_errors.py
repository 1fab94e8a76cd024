"""Tests of runs that end with an error in training and can be resumed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.end_to_end.fork_server import ForkServer

from etude.files.safe_read import read_checkpoint

pytestmark = pytest.mark.xdist_group("run_errors")
Result = subprocess.CompletedProcess[str]
FAULTS = """
from pathlib import Path

import torch
from pytorch_lightning import Callback


class InfiniteValue(Callback):
    \"\"\"Callback that sets one true value to infinity, once.\"\"\"

    def __init__(self, step, rank=0):
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, learner, batch, index):
        if trainer.global_step + 1 == self.step and trainer.global_rank == self.rank and not Path("done").exists():
            Path("done").touch()
            batch.y["valence"][0] = float("inf")


class OutOfMemory(Callback):
    \"\"\"Callback that allocates more memory than any machine has.\"\"\"

    def __init__(self, split):
        self.split = split

    def on_train_batch_start(self, *args):
        self.allocate("train")

    def on_validation_batch_start(self, *args):
        self.allocate("val")

    def allocate(self, split):
        if split == self.split:
            torch.empty(1 << 50, dtype=torch.uint8)
"""


def run_train(server: ForkServer, folder: Path, environment: dict[str, str], *overrides: str) -> Result:
    """Run train.py with the callbacks above available."""
    (folder / "faults.py").write_text(FAULTS)
    path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return server.run(folder, environment | {"PYTHONPATH": path, "ETUDE_TRUST": "faults"}, *overrides)


@pytest.mark.parametrize(("trainer", "rank"), [("cpu", 0), pytest.param("ddp_cpu", 1, marks=pytest.mark.full)])
def test_non_finite_loss_ends_a_run_that_can_be_resumed(
    trainer: str, rank: int, packs: Path, environment: dict[str, str], fork_server: ForkServer, tmp_path: Path
) -> None:
    callback = f"+callbacks.infinite={{_target_: faults.InfiniteValue, step: 11, rank: {rank}}}"
    overrides = [f"data.packs={packs}", "backbone=lstm", "task=multitask", "trainer.max_epochs=2"]
    failed = run_train(fork_server, tmp_path, environment, *overrides, f"trainer={trainer}", callback)
    assert failed.returncode == 1, failed.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    (message,) = [line for line in failed.stderr.splitlines() if "not finite" in line]
    assert message.startswith("epoch 2, step 11: the loss of valence is not finite, on the clips ")
    assert f"and {16 // (rank + 1) - 8} more" in message if rank == 0 else "more" not in message
    assert "lower optim.lr (now 0.0005)" in message
    assert message.endswith(f"; resume with: python train.py resume={run.relative_to(tmp_path)}")
    assert "Traceback" not in failed.stderr
    assert not (run / "metrics.json").exists()
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 0
    resumed = run_train(fork_server, tmp_path, environment, f"resume={run.relative_to(tmp_path)}")
    assert resumed.returncode == 0, resumed.stderr
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", "out of memory in training; lower data.batch_size (now 16; if you halve it, set trainer.accu"),
        ("val", "out of memory in evaluation; lower data.eval_batch_size (now 16) or data.eval_crops (now null: "),
    ],
)
def test_out_of_memory_message_names_options_to_lower(
    split: str, message: str, packs: Path, environment: dict[str, str], fork_server: ForkServer, tmp_path: Path
) -> None:
    callback = f"+callbacks.memory={{_target_: faults.OutOfMemory, split: {split}}}"
    overrides = [f"data.packs={packs}", "backbone=lstm", "trainer.max_epochs=1", callback]
    failed = run_train(fork_server, tmp_path, environment, *overrides)
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in failed.stderr
