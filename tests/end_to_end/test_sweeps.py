"""Tests of sweeps with failed, interrupted and resumed jobs, and with jobs of several processes."""

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
from tests.end_to_end.fork_server import ForkServer

from etude.data.sources.demo import collection

pytestmark = pytest.mark.xdist_group("sweeps")
ROOT = Path(__file__).parents[2]
Result = subprocess.CompletedProcess[str]
CALLBACK = """
import json
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class JobProbe(Callback):
    \"\"\"Callback that writes the config of each rank to a file and ends some jobs with an error.\"\"\"

    def on_train_start(self, trainer, learner):
        values = {"config": learner.recipe["config"], "seed": os.environ["PL_GLOBAL_SEED"]}
        values["devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        Path(trainer.default_root_dir, f"rank{trainer.global_rank}.json").write_text(json.dumps(values))
        if values["seed"] == "1" and not Path("repaired").exists():
            raise ArithmeticError("seed 1 fails")
        if values["seed"] == "2":
            os.kill(os.getpid(), signal.SIGKILL)
"""
TINY = ["backbone=lstm", "data.crop=1.0", "+trainer.limit_train_batches=2", "trainer.max_epochs=3"]
PROBE = "+callbacks.probe={_target_: job_probe.JobProbe}"
MISSING = "+sweep.encoders.mine='backbone=ast backbone.weights=missing.pt'"
NO_TABLE = ["data=table", "data.source.table=gone.csv"]
SIX_JOBS = ["-m", *TINY, "seed=0,1,2,3,4,5", PROBE]


@pytest.fixture(scope="module")
def probe_environment(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return environment variables with which configs can use the callback above."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "job_probe.py").write_text(CALLBACK)
    path = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return environment | {"PYTHONPATH": path, "ETUDE_TRUST": "job_probe"}


@pytest.fixture
def sweep(packs: Path, probe_environment: dict[str, str], fork_server: ForkServer) -> Callable[..., Result]:
    """Return a function that runs `python train.py <overrides>` in a folder and waits for its end."""
    return lambda folder, *overrides: fork_server.run(folder, probe_environment, *overrides, f"data.packs={packs}")


def read_jobs(folder: Path) -> dict[str, dict[str, str]]:
    """Return the rows of jobs.csv by the name of the job's folder."""
    with (folder / "jobs.csv").open(newline="") as file:
        return {row["folder"]: row for row in csv.DictReader(file)}


def statuses(folder: Path) -> list[str]:
    """Return the status of each job."""
    return [row["status"] for row in read_jobs(folder).values()]


@pytest.mark.full
def test_failed_job_does_not_affect_others_and_sweep_is_resumed(
    tmp_path: Path, packs: Path, probe_environment: dict[str, str], sweep: Callable[..., Result]
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *SIX_JOBS, f"data.packs={packs}"]
    other_command = [*command[:3], *TINY, f"data.packs={packs}", "seed=7", "hydra.launcher.start=spawn"]
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored if a shell runs the tests in the background
    options: dict[str, Any] = {"cwd": tmp_path, "env": probe_environment, "text": True, "stderr": subprocess.PIPE}
    first = subprocess.Popen(command, **options)
    second = subprocess.Popen(other_command, **options)  # in the same outputs folder in the same second
    signal.signal(signal.SIGINT, previous)
    output = ""
    assert first.stderr is not None
    for line in first.stderr:
        output += line
        if line.startswith("epoch 2/") and "job 4_" in output:
            first.send_signal(signal.SIGINT)
            break
    output += first.stderr.read()
    assert first.wait() == 130, output
    other_output = second.communicate()[1]
    assert second.returncode == 0, other_output

    folder, other = (next(p for p in tmp_path.glob("outputs/*_sweep*") if len(read_jobs(p)) == n) for n in (6, 1))
    assert statuses(other) == ["done"]
    assert statuses(folder) == ["done", "failed", "failed", "done", "stopped", "stopped"]
    rows = list(read_jobs(folder).values())
    assert rows[1]["reason"] == "ArithmeticError: seed 1 fails"
    assert (rows[2]["reason"], rows[2]["code"]) == ("killed by SIGKILL", "-9")
    assert f"resume with the same command and sweep.resume={folder.relative_to(tmp_path)}" in output
    assert "3 of 6 done" not in output
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    assert len(finished) == 2

    (tmp_path / "repaired").touch()
    resume = f"sweep.resume={folder.relative_to(tmp_path)}"
    resumed = sweep(tmp_path, *SIX_JOBS, resume, "hydra.launcher.devices=[5,7]")
    assert resumed.returncode == 1, resumed.stderr
    assert statuses(folder) == ["done", "done", "failed", "done", "done", "done"]
    assert "resuming 4_" in resumed.stderr
    assert f"failed: 2_genre_lstm_mel: killed by SIGKILL ({folder.relative_to(tmp_path)}/logs/2_" in resumed.stderr
    logs = {path.name[0]: path.read_text() for path in (folder / "logs").iterdir()}
    assert {number: "epoch 1/3" in text for number, text in logs.items()} == {
        "1": True,
        "2": False,
        "4": False,
        "5": True,
    }
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(folder.glob("*/metrics.json"))) == 5
    ranks = [json.loads((folder / f"{number}_genre_lstm_mel" / "rank0.json").read_text()) for number in (0, 1, 2)]
    assert [rank["devices"] for rank in ranks] == [None, "5", "7"]  # two jobs at a time, with one GPU each
    for row in (row for row in read_jobs(folder).values() if row["status"] == "done"):  # a search uses these scores
        metrics = json.loads((folder / row["folder"] / "metrics.json").read_text())
        scores = metrics["targets"]["genre"]["splits"]["val"]["scores"]
        assert float(row["score"]) == pytest.approx(scores["macro_f1"]["value"])
    record = json.loads((folder / "5_genre_lstm_mel" / "record.json").read_text())
    assert "hydra." not in record["command"] and "seed=5" in record["command"]


@pytest.mark.full
@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.lr=1e-3,2e-3", "hydra.launcher.jobs=2"],
        [
            *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"),
            "optim.lr=interval(1e-4,1e-2)",
        ],
    ],
    ids=["grid", "optuna"],
)
def test_every_rank_of_a_job_has_its_config(overrides: list[str], tmp_path: Path, sweep: Callable[..., Result]) -> None:
    common = ["trainer=ddp_cpu", "debug=fast", "backbone=lstm", "data.crop=1.0", PROBE]
    result = sweep(tmp_path, "-m", *common, *overrides, "hydra.launcher.jobs=2")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    rates = set()
    for name, row in read_jobs(folder).items():
        assert row["status"] == "done"
        ranks = sorted((folder / name).glob("rank*.json"))
        assert [rank.name for rank in ranks] == ["rank0.json", "rank1.json"]
        rank_0, rank_1 = (json.loads(rank.read_text()) for rank in ranks)
        assert rank_0 == rank_1
        (rate,) = (override for override in json.loads(row["overrides"]) if override.startswith("optim.lr="))
        assert rank_0["config"]["optim"]["lr"] == float(rate.partition("=")[2])
        rates.add(rate)
    assert len(rates) == 2
    folders = {path.name for path in folder.iterdir() if (path / "config.yaml").is_file()}
    assert folders == set(read_jobs(folder))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["-m", "sweep.resume=nowhere", "seed=0,1"], "is not the folder of a sweep"),
        (["sweep=folds"], "sweep=folds: is a sweep; add -m"),
        (["-m", "seed=0,1", "trainer.max_epochs=0"], "trainer.max_epochs: must be at least 1, got 0"),
        (["-m", "seed=0,1", "data=folder"], "data.source.path: needs a value"),
        (["-m", "seed=0,1", "+hydra.callbacks.table.page.name=all"], "hydra.callbacks.table.page.title: is missing"),
        (["-m", "seed=0,1", "hydra.launcher.jobs=0"], "hydra.launcher.jobs: must be a whole number of at least 1"),
        (["-m", "seed=0,1", "hydra.launcher.jobs=two"], "hydra.launcher.jobs: must be a whole number"),
        (["-m", "seed=0,1", "hydra.sweep.subdir=same"], "jobs 0 and 1 have the same folder, same"),
        (["-m", "seed=0,1", "hydra.launcher.start=thread"], "hydra.launcher.start: must be fork"),
        (["-m", "task=genre,digit"], "task: demo has no target digit; it has genre (label), "),
        pytest.param(
            ["-m", "sweep=encoders", MISSING], "got 'missing.pt'; there is no such file", marks=pytest.mark.full
        ),
        (["-m", "sweep=folds", "transfer=full", "transfer.init_from=gone"], "transfer.init_from: gone"),
        (["-m", "sweep=folds", *NO_TABLE], "gone.csv"),
    ],
)
def test_error_of_all_jobs_is_reported_once_and_nothing_is_written(
    overrides: list[str], message: str, tmp_path: Path, sweep: Callable[..., Result]
) -> None:
    result = sweep(tmp_path, *overrides)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count(message) == 1
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("outputs/*"))


def test_second_process_of_a_sweep_is_refused(tmp_path: Path, sweep: Callable[..., Result]) -> None:
    from filelock import FileLock

    from etude.sweeps.jobs import FAILED, Job, JobTable

    table = JobTable(tmp_path)
    table.add(Job(0, ["seed=0"], tmp_path / "0_a", status=FAILED, code=1))
    table.write()
    with FileLock(tmp_path / ".jobs.csv.lock"):
        result = sweep(tmp_path, "-m", "seed=0,1", f"sweep.resume={tmp_path}")
    assert result.returncode == 2
    assert "another process is writing to it" in result.stderr


@pytest.mark.full
def test_official_folds_of_table_are_pooled(tmp_path: Path, sweep: Callable[..., Result]) -> None:
    """Test each of the folds a, b and c, in which clips of one group are in several folds."""
    rows = collection().table.groupby("genre").head(6)
    table = rows[["id", "path", "group", "genre"]].assign(fold=["a", "b", "c"] * 6)
    table["path"] = [str(Path(path).relative_to("/")) for path in table["path"]]
    table.loc[table.index[0], "fold"] = ""
    table.to_csv(tmp_path / "clips.csv", index=False)
    source = ["data=table", "data.source.table=clips.csv", "data.source.audio=/"]
    result = sweep(tmp_path, "-m", "sweep=folds", *TINY, "trainer.max_epochs=1", *source)  # the folds of the column
    assert result.returncode == 0, result.stderr
    (record,) = (json.loads(path.read_text("utf-8")) for path in tmp_path.glob("outputs/*/pooled/*/record.json"))
    assert record["data"]["pooled"] == ["a", "b", "c"] and record["data"]["folds"] == 3
    assert record["data"]["unused"] == {"empty cell in column fold": 1}
    assert record["data"]["disjoint"] is False and record["data"]["shared_groups"] > 0
    (metrics,) = (json.loads(path.read_text("utf-8")) for path in tmp_path.glob("outputs/*/pooled/*/metrics.json"))
    assert list(metrics["targets"]) == ["genre"]
    assert metrics["targets"]["genre"]["splits"]["test"]["n"] == 17
    report = next(tmp_path.glob("outputs/*/0_*/report.html")).read_text("utf-8")
    assert "a, of the official folds a, b, c" in report
    assert "because the official splits separate them" in report


@pytest.mark.full
def test_sweep_over_encoders_ends_with_a_leaderboard_and_is_resumed(
    tmp_path: Path, sweep: Callable[..., Result]
) -> None:
    fewer = ["~sweep.encoders.musicnn_msd", "~sweep.encoders.musicnn_mtt", "data.split.fold=0,1"]
    (tmp_path / "no.pt").write_text("no weights")
    damaged = "+sweep.encoders.mine='backbone=efficientat backbone.weights=no.pt'"
    result = sweep(tmp_path, "-m", "sweep=encoders", "readout=default", *fewer, damaged)
    assert result.returncode == 2, result.stderr
    (folder,) = tmp_path.glob("outputs/*_sweep*")
    assert statuses(folder) == ["done", "failed", "done", "failed"]
    assert "no.pt" in (folder / "leaderboard.md").read_text("utf-8")  # the reason of the missing row
    lines = result.stdout.splitlines()
    assert lines[0].startswith("genre: ") and not any(len(line) > 80 for line in lines if not line.startswith("/"))
    resumed = sweep(tmp_path, "-m", "sweep=encoders", "readout=default,all", *fewer, f"sweep.resume={folder}")
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(folder) == ["done", "failed", "done", "failed", "done", "done"]
    with (folder / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("efficientat_mn04", "baseline")
    assert {(row["encoder"], row["readout"]) for row in rows} == {
        (names[0], "own embedding"),
        (names[0], "all layers"),
        (names[1], "mel, chroma statistics"),
    }
    assert [row["is_chosen"] for row in rows].count("True") == 1
    assert {row["embedding"] for row in rows} == {"384.0", "1024.0", ""}
