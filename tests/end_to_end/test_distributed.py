"""Several processes learn what one learns: the same losses, the same predictions, one folder, one report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.xdist_group("machines")  # what is run once is run in one process
ROOT = Path(__file__).parents[2]
Result = subprocess.CompletedProcess[str]
FORGET = """
from pytorch_lightning import Callback


class Forget(Callback):
    \"\"\"Takes labels away by the number of the clip, so that processes have unlike counts of them.\"\"\"

    def on_train_batch_start(self, trainer, learner, batch, index):
        batch.y["valence"][batch.row % 3 > 0] = float("nan")
        batch.y["genre"][batch.row % 5 == 0] = -1
"""
# nothing that is drawn in a process: the order and the crops are drawn from the seed, alike in all
LINE = ["backbone=lstm", "task=joint", "backbone.dropout=0", "augment=none", "trainer.max_epochs=2", "optim.lr=1e-3"]
LINE += ["+callbacks.forget={_target_: forget.Forget}"]
SRUN = """#!{python}
import os, subprocess, sys

words = [word for word in sys.argv[1:] if not word.startswith("--")]
step = {{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0",
        "SLURM_NODELIST": "127.0.0.1"}}
tasks = [subprocess.Popen(words, env={{**os.environ, **step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}})
         for rank in "01"]
sys.exit(max(task.wait() for task in tasks))
"""


def start(folder: Path, command: list[str], environment: dict[str, str], **more: str) -> Result:
    (folder / "forget.py").write_text(FORGET)
    path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    known = environment | {"PYTHONPATH": path, "ETUDE_TRUST": "forget"} | more
    return subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, packs: Path, environment: dict[str, str]) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    result = start(folder, [sys.executable, str(ROOT / "train.py"), f"data.packs={packs}", *LINE], environment)
    assert result.returncode == 0, result.stderr
    return next((folder / "outputs").iterdir())


def by_lightning(folder: Path, words: list[str], environment: dict[str, str]) -> Result:
    return start(folder, [sys.executable, str(ROOT / "train.py"), "trainer=ddp_cpu", *words], environment)


def by_torchrun(folder: Path, words: list[str], environment: dict[str, str]) -> Result:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return start(folder, [*launcher, str(ROOT / "train.py"), "trainer=ddp_cpu", *words], environment)


def by_slurm(folder: Path, words: list[str], environment: dict[str, str]) -> Result:
    """The script for sbatch, with an srun that starts two tasks here."""
    (folder / "bin").mkdir()
    (folder / "bin" / "srun").write_text(SRUN.format(python=sys.executable))
    (folder / "bin" / "srun").chmod(0o755)
    (folder / "train.py").write_text((ROOT / "train.py").read_text())
    job = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "etude", "TRAINER": "ddp_cpu"}
    job |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}
    return start(folder, ["bash", str(ROOT / "scripts" / "slurm.sh"), *words], environment, **job)


@pytest.mark.parametrize("launch", [by_lightning, by_torchrun, by_slurm])
def test_two_processes_learn_what_one_does(
    launch: Callable[..., Result], alone: Path, packs: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    result = launch(tmp_path, [f"data.packs={packs}", *LINE], environment)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    assert result.stderr.count("epoch 1/2") == 1
    one, two = (pd.read_csv(path / "curves.csv") for path in (alone, run))
    assert list(one) == list(two)
    losses = [name for name in one if name.endswith("loss")]
    assert {"train/loss", "train/valence/loss", "val/loss"} <= set(losses)
    np.testing.assert_allclose(one[losses], two[losses], rtol=1e-5, atol=1e-5)
    one, two = (pd.read_parquet(path / "predictions.parquet") for path in (alone, run))
    assert two["id"].is_unique
    assert one["id"].tolist() == two["id"].tolist()
    said = [name for name in one if (name.endswith(".pred") and name != "genre.pred") or ".score." in name]
    np.testing.assert_allclose(one[said], two[said], atol=1e-4)


def test_the_script_for_slurm_is_bash() -> None:
    assert shutil.which("bash")
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / "slurm.sh")], check=True)
