"""Sweeps: each job by itself, whatever becomes of the others; what has not finished is gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.warm import Nest

pytestmark = pytest.mark.xdist_group("sweeps")
ROOT = Path(__file__).parents[2]
Result = subprocess.CompletedProcess[str]
PROBE = """
import json
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class Probe(Callback):
    \"\"\"Says what each rank of a job knows, and ends some jobs before their time.\"\"\"

    def on_train_start(self, trainer, learner):
        known = {"config": learner.recipe["config"], "seed": os.environ["PL_GLOBAL_SEED"]}
        known["devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        Path(trainer.default_root_dir, f"rank{trainer.global_rank}.json").write_text(json.dumps(known))
        if known["seed"] == "1" and not Path("mended").exists():
            raise ArithmeticError("seed 1 is no good")
        if known["seed"] == "2":
            os.kill(os.getpid(), signal.SIGKILL)
"""
TINY = ["backbone=lstm", "data.crop=1.0", "+trainer.limit_train_batches=2", "trainer.max_epochs=3"]
SIX = ["-m", *TINY, "seed=0,1,2,3,4,5", "+callbacks.probe={_target_: probe.Probe}"]


@pytest.fixture(scope="module")
def surroundings(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a config may name the probe."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "probe.py").write_text(PROBE)
    path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return environment | {"PYTHONPATH": path, "ETUDE_TRUST": "probe"}


@pytest.fixture
def sweep(packs: Path, surroundings: dict[str, str], nest: Nest) -> Callable[..., Result]:
    """`python train.py -m ...` in a folder, to its end."""
    return lambda folder, *words: nest.run(folder, surroundings, *words, f"data.packs={packs}")


def jobs(folder: Path) -> dict[str, dict[str, str]]:
    """What jobs.csv says, by the names of folders."""
    with (folder / "jobs.csv").open(newline="") as file:
        return {row["folder"]: row for row in csv.DictReader(file)}


def statuses(folder: Path) -> list[str]:
    return [row["status"] for row in jobs(folder).values()]


def test_a_job_that_fails_is_its_own_affair_and_a_sweep_goes_on_where_it_was(
    tmp_path: Path, packs: Path, surroundings: dict[str, str], sweep: Callable[..., Result]
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *SIX, f"data.packs={packs}"]
    beside = [*command[:3], *TINY, f"data.packs={packs}", "seed=7", "hydra.launcher.start=spawn"]
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may have its background ignore it
    known: dict[str, Any] = {"cwd": tmp_path, "env": surroundings, "text": True, "stderr": subprocess.PIPE}
    first = subprocess.Popen(command, **known)
    second = subprocess.Popen(beside, **known)  # in the same outputs, in the same second
    signal.signal(signal.SIGINT, previous)
    heard = ""
    assert first.stderr is not None
    for line in first.stderr:
        heard += line
        if line.startswith("epoch 2/") and "job 4_" in heard:
            first.send_signal(signal.SIGINT)
            break
    heard += first.stderr.read()
    assert first.wait() == 130, heard
    said = second.communicate()[1]
    assert second.returncode == 0, said

    one, other = (next(p for p in tmp_path.glob("outputs/*_sweep*") if len(jobs(p)) == n) for n in (6, 1))
    assert statuses(other) == ["done"]
    assert statuses(one) == ["done", "failed", "failed", "done", "stopped", "stopped"]
    rows = list(jobs(one).values())
    assert rows[1]["reason"] == "ArithmeticError: seed 1 is no good"
    assert (rows[2]["reason"], rows[2]["code"]) == ("killed by SIGKILL", "-9")
    assert f"resume with the same command and sweep.resume={one.relative_to(tmp_path)}" in heard
    assert "3 of 6 done" not in heard
    finished = {path: path.stat().st_mtime_ns for path in one.glob("*/metrics.json")}
    assert len(finished) == 2

    (tmp_path / "mended").touch()
    again = sweep(tmp_path, *SIX, f"sweep.resume={one.relative_to(tmp_path)}", "hydra.launcher.devices=[5,7]")
    assert again.returncode == 1, again.stderr
    assert statuses(one) == ["done", "done", "failed", "done", "done", "done"]
    assert "resuming 4_" in again.stderr
    assert f"failed: 2_genre_lstm_mel: killed by SIGKILL ({one.relative_to(tmp_path)}/logs/2_" in again.stderr
    logs = {path.name[0]: path.read_text() for path in (one / "logs").iterdir()}
    assert {number: "epoch 1/3" in text for number, text in logs.items()} == {
        "1": True,
        "2": False,
        "4": False,
        "5": True,
    }
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(one.glob("*/metrics.json"))) == 5
    told = {number: json.loads((one / f"{number}_genre_lstm_mel" / "rank0.json").read_text()) for number in (0, 1, 2)}
    assert [told[number]["devices"] for number in told] == [None, "5", "7"]  # two at a time, a GPU each
    for row in (row for row in jobs(one).values() if row["status"] == "done"):  # what a search would hear
        measured = json.loads((one / row["folder"] / "metrics.json").read_text())["targets"]["genre"]["splits"]["val"]
        assert float(row["score"]) == pytest.approx(measured["scores"]["macro_f1"]["value"])
    record = json.loads((one / "5_genre_lstm_mel" / "record.json").read_text())
    assert "hydra." not in record["command"] and "seed=5" in record["command"]


@pytest.mark.parametrize(
    "words",
    [
        ["optim.lr=1e-3,2e-3", "hydra.launcher.jobs=2"],
        ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "optim.lr=interval(1e-4,1e-2)"],
    ],
    ids=["grid", "optuna"],
)
def test_every_rank_of_a_job_has_its_config(words: list[str], tmp_path: Path, sweep: Callable[..., Result]) -> None:
    line = ["trainer=ddp_cpu", "debug=fast", "backbone=lstm", "data.crop=1.0"]
    result = sweep(tmp_path, "-m", *line, "+callbacks.probe={_target_: probe.Probe}", *words, "hydra.launcher.jobs=2")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    rates = set()
    for name, row in jobs(folder).items():
        assert row["status"] == "done"
        ranks = sorted((folder / name).glob("rank*.json"))
        assert [rank.name for rank in ranks] == ["rank0.json", "rank1.json"]
        one, two = (json.loads(rank.read_text()) for rank in ranks)
        assert one == two
        (told,) = (word for word in json.loads(row["overrides"]) if word.startswith("optim.lr="))
        assert one["config"]["optim"]["lr"] == float(told.partition("=")[2])
        rates.add(told)
    assert len(rates) == 2
    folders = {path.name for path in folder.iterdir() if (path / "config.yaml").is_file()}
    assert folders == set(jobs(folder))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "sweep.resume=nowhere", "seed=0,1"], "is not the folder of a sweep"),
        (["sweep=folds"], "sweep=folds: is a sweep; add -m"),
        (["-m", "seed=0,1", "trainer.max_epochs=0"], "trainer.max_epochs: must be at least 1, got 0"),
        (["-m", "seed=0,1", "data=folder"], "data.source.path: needs a value"),
        (["-m", "seed=0,1", "hydra.launcher.jobs=0"], "hydra.launcher.jobs: must be a whole number of at least 1"),
        (["-m", "seed=0,1", "hydra.launcher.jobs=two"], "hydra.launcher.jobs: must be a whole number"),
        (["-m", "seed=0,1", "hydra.sweep.subdir=same"], "jobs 0 and 1 have the same folder, same"),
        (["-m", "seed=0,1", "hydra.launcher.start=thread"], "hydra.launcher.start: must be fork"),
    ],
)
def test_what_no_job_can_run_is_said_once_and_leaves_nothing(
    words: list[str], said: str, tmp_path: Path, sweep: Callable[..., Result]
) -> None:
    result = sweep(tmp_path, *words)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count(said) == 1
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("outputs/*"))


def test_one_process_at_a_time_runs_a_sweep(tmp_path: Path, sweep: Callable[..., Result]) -> None:
    from filelock import FileLock

    from etude.sweeps.jobs import FAILED, Job, JobTable

    table = JobTable(tmp_path)
    table.add(Job(0, ["seed=0"], tmp_path / "0_a", status=FAILED, code=1))
    table.save()
    with FileLock(tmp_path / ".jobs.csv.lock"):
        result = sweep(tmp_path, "-m", "seed=0,1", f"sweep.resume={tmp_path}")
    assert result.returncode == 2
    assert "another process is writing to it" in result.stderr
