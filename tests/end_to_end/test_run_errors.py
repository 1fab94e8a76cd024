"""A run that cannot go on says why and what to try, in one sentence, reports nothing, and can be gone on with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.end_to_end.warm import Nest

from etude.files.safe_read import read_checkpoint

pytestmark = pytest.mark.xdist_group("limits")  # what is run once is run in one process
Result = subprocess.CompletedProcess[str]
FAULT = """
from pathlib import Path

import torch
from pytorch_lightning import Callback


class Poison(Callback):
    \"\"\"One true value becomes infinite, once.\"\"\"

    def __init__(self, step, rank=0):
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, learner, batch, index):
        if trainer.global_step + 1 == self.step and trainer.global_rank == self.rank and not Path("done").exists():
            Path("done").touch()
            batch.y["valence"][0] = float("inf")


class Greed(Callback):
    \"\"\"Asks the real allocator for more than there is.\"\"\"

    def __init__(self, part):
        self.part = part

    def on_train_batch_start(self, *args):
        self.ask("train")

    def on_validation_batch_start(self, *args):
        self.ask("val")

    def ask(self, part):
        if part == self.part:
            torch.empty(1 << 50, dtype=torch.uint8)
"""


def start(nest: Nest, folder: Path, environment: dict[str, str], *words: str) -> Result:
    (folder / "fault.py").write_text(FAULT)
    path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    known = environment | {"PYTHONPATH": path, "ETUDE_TRUST": "fault"}
    return nest.run(folder, known, *words)


@pytest.mark.parametrize(("trainer", "rank"), [("cpu", 0), ("ddp_cpu", 1)])
def test_a_loss_that_is_not_finite_ends_a_run(
    trainer: str, rank: int, packs: Path, environment: dict[str, str], nest: Nest, tmp_path: Path
) -> None:
    poison = f"+callbacks.poison={{_target_: fault.Poison, step: 11, rank: {rank}}}"
    line = [f"data.packs={packs}", "backbone=lstm", "task=multitask", "trainer.max_epochs=2", f"trainer={trainer}"]
    ended = start(nest, tmp_path, environment, *line, poison)
    assert ended.returncode == 1, ended.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    (said,) = [line for line in ended.stderr.splitlines() if "not finite" in line]
    assert said.startswith("epoch 2, step 11: the loss of valence is not finite, on the clips ")
    assert f"and {16 // (rank + 1) - 8} more" in said if rank == 0 else "more" not in said
    assert "lower optim.lr (now 0.0005)" in said
    assert said.endswith(f"; resume with: python train.py resume={run.relative_to(tmp_path)}")
    assert "Traceback" not in ended.stderr
    assert not (run / "metrics.json").exists()
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 0
    resumed = start(nest, tmp_path, environment, f"resume={run.relative_to(tmp_path)}")
    assert resumed.returncode == 0, resumed.stderr
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("train", "out of memory in training; lower data.batch_size (now 16; trainer.accumulate_grad_batches=2 comp"),
        ("val", "out of memory in evaluation; lower data.eval_batch_size (now 16) or data.eval_crops (now null: "),
    ],
)
def test_the_end_of_memory_names_what_to_lower(
    part: str, said: str, packs: Path, environment: dict[str, str], nest: Nest, tmp_path: Path
) -> None:
    greed = f"+callbacks.greed={{_target_: fault.Greed, part: {part}}}"
    ended = start(nest, tmp_path, environment, f"data.packs={packs}", "backbone=lstm", "trainer.max_epochs=1", greed)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in ended.stderr
