"""Tests of searches and cluster launchers, which reuse finished trials."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tests.end_to_end.fork_server import ForkServer

from etude.runs.folder import RunFolder, monitored_score

pytestmark = pytest.mark.xdist_group("search")
Result = subprocess.CompletedProcess[str]
TINY = ["backbone=lstm", "debug=fast", "data.crop=1.0", "hydra.sweep.dir=outputs/sweep"]
BASIC = [*TINY, "hydra/launcher=basic"]


@pytest.mark.full
def test_search_is_resumed_and_a_run_of_another_config_is_refused(train: Callable[..., Result], tmp_path: Path) -> None:
    search = ["-m", *BASIC, "hydra/sweeper=random", "hydra.sweeper.n_trials=1"]
    search += ["optim.lr=tag(log, interval(1e-4,1e-2))"]
    first = train(tmp_path, *search)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "outputs" / "sweep" / "0_fast_genre_lstm"
    best = re.search(r"best of 1 trials: val/score (\S+) with optim\.lr=\S+ \((\S+)\)", first.stdout)
    assert best is not None and tmp_path / best[2] == run
    assert float(best[1]) == pytest.approx(monitored_score(RunFolder(run)), rel=1e-3)
    (run / "metrics.json").unlink()  # like a run that was interrupted before its evaluation
    resumed = train(tmp_path, *search)
    assert resumed.returncode == 0, resumed.stderr
    assert best[0] in resumed.stdout and "report: " in resumed.stderr and "epoch 1/1" not in resumed.stderr
    repeated = train(tmp_path, *search)
    assert repeated.returncode == 0 and best[0] in repeated.stdout
    assert "0_fast_genre_lstm: is finished" in repeated.stderr and "report: " not in repeated.stderr
    other = train(tmp_path, "-m", *BASIC, "seed=7")
    assert other.returncode == 2
    assert "contains a run of another config: optim.lr, seed; set another folder of the sweep" in other.stderr
    assert OmegaConf.load(run / "config.yaml").seed == 0 and (run / "metrics.json").is_file()


def test_optuna_search_stores_its_study(train: Callable[..., Result], tmp_path: Path) -> None:
    search = ["-m", *BASIC, "sweep=optuna_lstm", "backbone.hidden=8", "backbone.depth=1", "data.crop.seconds=1.0"]
    search.remove("data.crop=1.0")
    result = train(tmp_path, *search, "hydra.sweeper.n_trials=1")
    assert result.returncode == 0, result.stderr
    assert "best of 1 trials: val/score" in result.stdout
    sweep = tmp_path / "outputs" / "sweep"
    assert (sweep / "search.db").is_file()
    best = OmegaConf.load(sweep / "optimization_results.yaml")
    assert best.best_value == pytest.approx(monitored_score(RunFolder(sweep / "0_fast_genre_lstm")))
    assert "optim.lr" in best.best_params and "backbone.hidden" not in best.best_params


@pytest.mark.full
def test_submitit_runs_a_job_in_a_separate_process(train: Callable[..., Result], tmp_path: Path) -> None:
    """The folder of the sweep has its default name, which the process of the job must not create again."""
    result = train(tmp_path, "-m", *TINY[:-1], "seed=3", "hydra/launcher=submitit_local")
    assert result.returncode == 0 and "UserWarning" not in result.stderr, result.stderr
    (sweep,) = (tmp_path / "outputs").glob("*_sweep_*")
    runs = sorted(sweep.glob("*_fast_genre_lstm"))
    assert [json.loads((run / "record.json").read_text())["seed"] for run in runs] == [3]
    commands = [json.loads((run / "record.json").read_text())["command"] for run in runs]
    assert all("seed=3" in command and "-m" not in command.split() for command in commands)
    assert (sweep / "compare.csv").is_file()


def test_slurm_job_requests_the_resources_of_the_trainer(
    environment: dict[str, str], fork_server: ForkServer, tmp_path: Path
) -> None:
    overrides = ["hydra/launcher=submitit_slurm", "trainer=ddp", "trainer.num_nodes=2", "trainer.devices=4"]
    overrides = ["-m", *TINY, *overrides, "seed=0,1,2"]
    missing = fork_server.run(tmp_path, environment | {"PATH": "/nowhere"}, *overrides)
    assert missing.returncode == 2 and "sbatch is not installed here" in missing.stderr
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho queue is full >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    refused = fork_server.run(tmp_path, environment | {"PATH": f"{tmp_path}:{environment['PATH']}"}, *overrides)
    assert refused.returncode != 0 and "submitit: queue is full" in refused.stderr
    (script,) = (tmp_path / "outputs" / "sweep" / ".submitit").rglob("*.sh")
    lines = script.read_text().splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"nodes=2", "gpus-per-node=4", "ntasks-per-node=4", "time=1440", "mem=32GB", "array=0-2%3"} <= options
    assert {"requeue", "open-mode=append", "signal=USR2@120", "cpus-per-task=8"} <= options
