"""Tests that training in two processes equals training in one process."""

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
from tests.end_to_end.fork_server import ForkServer

pytestmark = pytest.mark.xdist_group("distributed")  # one process, so that the shared run is trained once
ROOT = Path(__file__).parents[2]
Result = subprocess.CompletedProcess[str]
CALLBACK = """
from pytorch_lightning import Callback


class RemoveLabels(Callback):
    \"\"\"Callback that removes labels by the row of the clip, so that processes have different numbers of labels.\"\"\"

    def on_train_batch_start(self, trainer, learner, batch, index):
        batch.y["valence"][batch.row % 3 > 0] = float("nan")
        batch.y["genre"][batch.row % 5 == 0] = -1
"""
# without random values that differ between processes; the order and the crops depend only on the seed
OVERRIDES = ["backbone=lstm", "task=joint", "backbone.dropout=0", "augment=none", "trainer.max_epochs=2"]
OVERRIDES += ["optim.lr=1e-3", "+callbacks.labels={_target_: remove_labels.RemoveLabels}"]
SRUN = """#!{python}
import os, subprocess, sys

command = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
step = {{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0",
        "SLURM_NODELIST": "127.0.0.1"}}
tasks = [subprocess.Popen(command, env={{**os.environ, **step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}})
         for rank in "01"]
sys.exit(max(task.wait() for task in tasks))
"""


def add_callback(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Write the callback above into a folder, and return environment variables that make it available."""
    (folder / "remove_labels.py").write_text(CALLBACK)
    path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return environment | {"PYTHONPATH": path, "ETUDE_TRUST": "remove_labels"}


def run_command(folder: Path, command: list[str], environment: dict[str, str], **variables: str) -> Result:
    """Run a command with the callback above available."""
    environment = add_callback(folder, environment) | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def single_run(
    tmp_path_factory: pytest.TempPathFactory, packs: Path, environment: dict[str, str], fork_server: ForkServer
) -> Path:
    """Return the folder of a run in one process."""
    folder = tmp_path_factory.mktemp("single")
    result = fork_server.run(folder, add_callback(folder, environment), f"data.packs={packs}", *OVERRIDES)
    assert result.returncode == 0, result.stderr
    return next((folder / "outputs").iterdir())


def start_with_lightning(folder: Path, overrides: list[str], environment: dict[str, str]) -> Result:
    """Run train.py, which starts the second process itself."""
    return run_command(folder, [sys.executable, str(ROOT / "train.py"), "trainer=ddp_cpu", *overrides], environment)


def start_with_torchrun(folder: Path, overrides: list[str], environment: dict[str, str]) -> Result:
    """Run two processes of train.py with torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return run_command(folder, [*launcher, str(ROOT / "train.py"), "trainer=ddp_cpu", *overrides], environment)


def start_with_slurm(folder: Path, overrides: list[str], environment: dict[str, str]) -> Result:
    """Run the sbatch script with a local srun that starts two tasks."""
    (folder / "bin").mkdir()
    (folder / "bin" / "srun").write_text(SRUN.format(python=sys.executable))
    (folder / "bin" / "srun").chmod(0o755)
    (folder / "train.py").write_text((ROOT / "train.py").read_text())
    job = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "etude", "TRAINER": "ddp_cpu"}
    job |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}
    return run_command(folder, ["bash", str(ROOT / "scripts" / "slurm.sh"), *overrides], environment, **job)


@pytest.mark.parametrize(
    "start",
    [start_with_lightning, *(pytest.param(s, marks=pytest.mark.full) for s in (start_with_torchrun, start_with_slurm))],
)
def test_two_processes_give_the_results_of_one(
    start: Callable[..., Result], single_run: Path, packs: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    result = start(tmp_path, [f"data.packs={packs}", *OVERRIDES], environment)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    assert {path.name for path in run.iterdir()} == {path.name for path in single_run.iterdir()}
    assert result.stderr.count("epoch 1/2") == 1
    expected, curves = (pd.read_csv(path / "curves.csv") for path in (single_run, run))
    assert list(curves) == list(expected)
    losses = [name for name in expected if name.endswith("loss")]
    assert {"train/loss", "train/valence/loss", "val/loss"} <= set(losses)
    np.testing.assert_allclose(expected[losses], curves[losses], rtol=1e-5, atol=1e-5)
    expected, table = (pd.read_parquet(path / "predictions.parquet") for path in (single_run, run))
    assert table["id"].is_unique
    assert expected["id"].tolist() == table["id"].tolist()
    columns = [name for name in expected if (name.endswith(".pred") and name != "genre.pred") or ".score." in name]
    np.testing.assert_allclose(expected[columns], table[columns], atol=1e-4)


def test_slurm_script_is_valid_bash() -> None:
    assert shutil.which("bash")
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / "slurm.sh")], check=True)
