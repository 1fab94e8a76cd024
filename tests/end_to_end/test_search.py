"""Searches and launchers of clusters through the real entry point: what was done is not done again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tests.end_to_end.warm import Nest

from etude.runs.folder import RunFolder, monitored_score

pytestmark = pytest.mark.xdist_group("search")
Result = subprocess.CompletedProcess[str]
TINY = ["backbone=lstm", "debug=fast", "data.crop=1.0", "hydra.sweep.dir=outputs/sweep"]
HERE = [*TINY, "hydra/launcher=basic"]


def test_a_search_is_gone_on_with_and_a_strange_run_is_left_alone(train: Callable[..., Result], tmp_path: Path) -> None:
    words = ["-m", *HERE, "hydra/sweeper=random", "optim.lr=tag(log, interval(1e-4,1e-2))", "hydra.sweeper.n_trials=1"]
    first = train(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "outputs" / "sweep" / "0_fast_genre_lstm"
    said = re.search(r"best of 1 trials: val/score (\S+) with optim\.lr=\S+ \((\S+)\)", first.stdout)
    assert said is not None and tmp_path / said[2] == run
    assert float(said[1]) == pytest.approx(monitored_score(RunFolder(run)), rel=1e-3)
    (run / "metrics.json").unlink()  # as if it had been stopped before its end
    again = train(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert said[0] in again.stdout and "report: " in again.stderr and "epoch 1/1" not in again.stderr
    done = train(tmp_path, *words)
    assert done.returncode == 0 and said[0] in done.stdout
    assert "0_fast_genre_lstm: is finished" in done.stderr and "report: " not in done.stderr
    other = train(tmp_path, "-m", *HERE, "seed=7")
    assert other.returncode == 2
    assert "contains a run of another config: optim.lr, seed; set another folder of the sweep" in other.stderr
    assert OmegaConf.load(run / "config.yaml").seed == 0 and (run / "metrics.json").is_file()


def test_optuna_searches_and_keeps_its_study(train: Callable[..., Result], tmp_path: Path) -> None:
    words = ["-m", *HERE, "sweep=optuna_lstm", "backbone.hidden=8", "backbone.depth=1", "data.crop.seconds=1.0"]
    words.remove("data.crop=1.0")
    result = train(tmp_path, *words, "hydra.sweeper.n_trials=1")
    assert result.returncode == 0, result.stderr
    assert "best of 1 trials: val/score" in result.stdout
    sweep = tmp_path / "outputs" / "sweep"
    assert (sweep / "search.db").is_file()
    best = OmegaConf.load(sweep / "optimization_results.yaml")
    assert best.best_value == pytest.approx(monitored_score(RunFolder(sweep / "0_fast_genre_lstm")))
    assert "optim.lr" in best.best_params and "backbone.hidden" not in best.best_params


def test_submitit_runs_a_job_in_a_process_of_its_own(train: Callable[..., Result], tmp_path: Path) -> None:
    result = train(tmp_path, "-m", *TINY, "seed=3", "hydra/launcher=submitit_local")
    assert result.returncode == 0, result.stderr
    runs = sorted((tmp_path / "outputs" / "sweep").glob("*_fast_genre_lstm"))
    assert [json.loads((run / "record.json").read_text())["seed"] for run in runs] == [3]
    commands = [json.loads((run / "record.json").read_text())["command"] for run in runs]
    assert all("seed=3" in line and "-m" not in line.split() for line in commands)
    assert (tmp_path / "outputs" / "sweep" / "compare.csv").is_file()


def test_slurm_is_asked_for_what_the_trainer_needs(environment: dict[str, str], nest: Nest, tmp_path: Path) -> None:
    words = ["-m", *TINY, "hydra/launcher=submitit_slurm", "trainer=ddp", "trainer.num_nodes=2", "seed=0,1,2"]
    absent = nest.run(tmp_path, environment | {"PATH": "/nowhere"}, *words, "trainer.devices=4")
    assert absent.returncode == 2 and "sbatch is not installed here" in absent.stderr
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho it is full >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    known = environment | {"PATH": f"{tmp_path}:{environment['PATH']}"}
    refused = nest.run(tmp_path, known, *words, "trainer.devices=4")
    assert refused.returncode != 0 and "submitit: it is full" in refused.stderr
    (script,) = (tmp_path / "outputs" / "sweep" / ".submitit").rglob("*.sh")
    asked = {line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"nodes=2", "gpus-per-node=4", "ntasks-per-node=4", "time=1440", "mem=32GB", "array=0-2%3"} <= asked
    assert {"requeue", "open-mode=append", "signal=USR2@120", "cpus-per-task=8"} <= asked
