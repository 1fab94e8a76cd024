"""Tests of runs with Weights & Biases, MLflow and TensorBoard, whose files are read back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tests.end_to_end.fork_server import ForkServer
from tests.end_to_end.mlflow_server import MLflowServer
from tests.end_to_end.wandb_reader import WandbRun, read_wandb_runs

mlflow = pytest.importorskip("mlflow", reason="needs etude[mlflow]")
pytest.importorskip("tensorboard", reason="needs etude[tensorboard]")

pytestmark = pytest.mark.xdist_group("trackers")  # one process, so that shared runs are trained once
Result = subprocess.CompletedProcess[str]
CALLBACK = """
import os
import signal

from pytorch_lightning import Callback


class Fault(Callback):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_train_epoch_end(self, trainer, learner) -> None:
        if self.kind == "job" and list(learner.task.targets) == ["valence"]:
            raise RuntimeError("a job fails")
        if self.kind == "interrupt" and trainer.current_epoch == 1 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            os.killpg(0, signal.SIGINT)  # like a terminal, send the signal to all processes of the group
        if self.kind.isdigit() and trainer.is_global_zero:
            os.killpg(int(self.kind), signal.SIGKILL)  # end the server with this process id
"""
COMMON = ["backbone=lstm", "backbone.hidden=8", "callbacks=best_epoch", "debug=fast"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder of all runs of this module, with the callback above."""
    folder = tmp_path_factory.mktemp("trackers")
    (folder / "fault.py").write_text(CALLBACK)
    return folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[MLflowServer]:
    """Yield an MLflow server."""
    server = MLflowServer(home)
    yield server
    server.close()


@pytest.fixture(scope="module")
def start(home: Path, environment: dict[str, str], fork_server: ForkServer) -> Any:
    """Return a function that runs `python train.py <overrides>` and waits for its end."""
    variables = {key: value for key, value in environment.items() if not key.startswith("MLFLOW")}
    variables |= {f"WANDB_{name}_DIR": str(home / f"wandb_{name}") for name in ("DATA", "CACHE", "CONFIG")}
    variables |= {"PYTHONPATH": f"{home}{os.pathsep}{environment.get('PYTHONPATH', '')}", "ETUDE_TRUST": "fault"}
    variables |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def run(*overrides: str) -> Result:
        return fork_server.run(home, variables, *overrides)

    return run


@pytest.fixture(scope="module")
def trackers(server: MLflowServer) -> list[str]:
    """Return the overrides that select all three trackers."""
    return ["logger=[wandb,tensorboard,mlflow]", f"logger.mlflow.uri={server.uri}", "logger.wandb.mode=offline"]


@pytest.fixture(scope="module")
def sweep(home: Path, packs: Path, start: Any, trackers: list[str]) -> tuple[Path, Result]:
    """Return the folder and the result of a sweep of two jobs, of which the second fails."""
    overrides = [*COMMON, *trackers, "task=joint,valence", "+callbacks.fault={_target_: fault.Fault, kind: job}"]
    overrides += ["logger.wandb.tags=[first]", "logger.wandb.notes=a note", "+logger.mlflow.tags.author=user"]
    result = start("-m", "hydra/launcher=basic", *overrides, f"data.packs={packs}", "outputs=swept")
    assert result.returncode == 1, result.stderr  # because a job failed
    (folder,) = (home / "swept").glob("*_sweep_*")
    return folder, result


@pytest.fixture(scope="module")
def finished_job(sweep: tuple[Path, Result]) -> Path:
    """Return the folder of the job that finished."""
    return sweep[0] / "0_fast_joint_lstm"


@pytest.fixture(scope="module")
def wandb_run(finished_job: Path) -> WandbRun:
    """Return the content of the finished job in Weights & Biases."""
    (run,) = read_wandb_runs(finished_job)
    return run


@pytest.fixture(scope="module")
def interrupted(
    home: Path, packs: Path, start: Any, trackers: list[str], finished_job: Path, server: MLflowServer
) -> tuple[Path, Result, dict[str, Any], Result]:
    """Interrupt a run with transferred weights in its second epoch, and resume it.

    Returns:
        Run folder, result of the interrupted command, state of the trackers after it, and result of the resumed one.
    """
    overrides = [*COMMON, *trackers, "transfer=full", f"transfer.init_from={finished_job}", "trainer.max_epochs=3"]
    overrides += ["+callbacks.fault={_target_: fault.Fault, kind: interrupt}", f"data.packs={packs}"]
    stopped = start(*overrides, "outputs=interrupted_runs")
    (run,) = (home / "interrupted_runs").iterdir()
    ids = json.loads((run / "trackers.json").read_text())
    state = {"ids": ids, "exits": [stored.exits for stored in read_wandb_runs(run)]}
    state["status"] = client(server).get_run(ids["mlflow"]).info.status
    return run, stopped, state, start(f"resume={run.relative_to(home)}")


def client(server: MLflowServer) -> Any:
    """Return a client of an MLflow server."""
    return mlflow.MlflowClient(server.uri)


def list_test_scores(run: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name in trackers and the value of every score of the test split in metrics.json."""
    for target, results in json.loads((run / "metrics.json").read_text())["targets"].items():
        test = results["splits"]["test"]
        yield from ((f"test/{target}/{metric}", score) for metric, score in test["scores"].items())
        for name, baseline in test["baselines"].items():
            yield from ((f"test/{target}/{name}/{metric}", score) for metric, score in baseline["scores"].items())


# Weights & Biases


def test_sweep_is_a_group_with_one_run_per_job(sweep: tuple[Path, Result], wandb_run: WandbRun) -> None:
    folder, result = sweep
    assert result.returncode == 1, result.stderr
    assert "a job fails" in result.stderr
    (failed,) = read_wandb_runs(folder / "1_fast_valence_lstm")
    runs = [wandb_run.run, failed.run]
    assert [run.run_group for run in runs] == [folder.name] * 2
    assert [run.job_type for run in runs] == ["joint", "valence"]
    assert [run.display_name for run in runs] == ["0_fast_joint_lstm", "1_fast_valence_lstm"]
    assert wandb_run.run.run_id != failed.run.run_id
    assert (wandb_run.exits, failed.exits) == ([0], [1])
    assert list(wandb_run.run.tags) == ["first"]
    assert (wandb_run.run.notes, wandb_run.run.project) == ("a note", "etude")


def test_wandb_config_equals_the_config_of_the_run(finished_job: Path, wandb_run: WandbRun) -> None:
    stored = yaml.safe_load((finished_job / "config.yaml").read_text())
    assert stored["backbone"]["hidden"] == 8
    for key, value in stored.items():
        assert wandb_run.config[key] == value, key


def test_wandb_history_equals_curves_csv(finished_job: Path, wandb_run: WandbRun) -> None:
    (row,) = pd.read_csv(finished_job / "curves.csv").to_dict("records")
    assert {"train/loss", "val/score", "lr"} <= set(row)
    assert {f"{split}/{name}/loss" for split in ("train", "val") for name in ("genre", "valence")} <= set(row)
    history = {key: value for values in wandb_run.history for key, value in values.items()}
    assert history["trainer/global_step"] == row.pop("step")
    assert {key: history[key] for key in row} == pytest.approx(row, rel=1e-4)


def test_wandb_summary_has_scores_with_intervals(finished_job: Path, wandb_run: WandbRun) -> None:
    compared = 0
    for name, score in list_test_scores(finished_job):
        for key, field in ((name, "value"), (f"{name}/low", "low"), (f"{name}/high", "high")):
            assert wandb_run.summary.get(key) == score[field], key  # undefined values are omitted
            compared += score[field] is not None
    assert compared > 100
    record = json.loads((finished_job / "record.json").read_text())["model"]
    assert wandb_run.summary["val/score"] == wandb_run.summary["best/val/score"] == record["best_score"]


def test_wandb_tables_equal_the_tables_of_the_run(finished_job: Path, wandb_run: WandbRun) -> None:
    table = pd.read_parquet(finished_job / "predictions.parquet")
    columns, rows = wandb_run.table("predictions")
    assert columns == [c for c in table.columns if c != "embedding"]
    assert [row[0] for row in rows] == table["id"].tolist()
    columns, rows = wandb_run.table("confusion/genre_table")
    genre = json.loads((finished_job / "metrics.json").read_text())["targets"]["genre"]
    counts, classes = genre["splits"]["test"]["confusion"], genre["classes"]
    assert columns == ["actual", "predicted", "clips"]
    assert {(a, p): n for a, p, n in rows} == {
        (a, p): counts[i][j] for i, a in enumerate(classes) for j, p in enumerate(classes)
    }
    columns, rows = wandb_run.table("maps")
    assert columns[:4] == ["x", "y", "id", "group"]
    assert len(rows) == (table["split"] == "test").sum()


def test_wandb_has_the_report_and_figures(finished_job: Path, wandb_run: WandbRun) -> None:
    media = {key: value for row in wandb_run.history for key, value in row.items() if key.endswith(".path")}
    page = wandb_run.files / media["report.path"]
    assert page.read_bytes() == (finished_job / "report.html").read_bytes()
    for name in ("scores", "scatter/valence"):
        assert (wandb_run.files / media[f"figures/{name}.path"]).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.full
def test_wandb_artifacts_link_pack_weights_and_transfer(
    finished_job: Path, wandb_run: WandbRun, interrupted: tuple[Path, Result, dict[str, Any], Result]
) -> None:
    data = json.loads((finished_job / "record.json").read_text())["data"]
    pack = wandb_run.artifacts[f"pack-demo-64-{data['hash'][:8]}"]
    model = wandb_run.artifacts[f"model-{wandb_run.run.run_id}"]
    assert (pack.type, pack.use_after_commit) == ("pack", True)
    assert json.loads(pack.metadata)["hash"] == data["hash"]
    assert [entry.path for entry in pack.manifest.contents] == ["pack.json"]  # without frames
    assert (model.type, model.use_after_commit) == ("model", False)
    assert "best" in model.aliases
    (entry,) = model.manifest.contents
    assert Path(entry.local_path) == finished_job / "checkpoints" / "best.ckpt"
    later = read_wandb_runs(interrupted[0])[-1]
    assert later.artifacts[pack.name].digest == pack.digest  # the same version
    used = later.artifacts[model.name]
    assert (used.digest, used.use_after_commit) == (model.digest, True)
    assert later.artifacts[f"model-{later.run.run_id}"].use_after_commit is False


@pytest.mark.full
def test_resumed_run_continues_the_same_tracker_runs(
    interrupted: tuple[Path, Result, dict[str, Any], Result], server: MLflowServer
) -> None:
    run, stopped, state, resumed = interrupted
    assert stopped.returncode == 130, stopped.stderr
    assert (state["exits"], state["status"]) == ([[1]], "FAILED")
    assert resumed.returncode == 0, resumed.stderr
    first, second = read_wandb_runs(run)
    assert first.run.run_id == second.run.run_id == state["ids"]["wandb"]
    assert second.exits == [0]
    assert json.loads((run / "trackers.json").read_text()) == state["ids"]
    assert client(server).get_run(state["ids"]["mlflow"]).info.status == "FINISHED"
    epochs = [point.value for point in client(server).get_metric_history(state["ids"]["mlflow"], "epoch")]
    assert sorted(set(epochs)) == [1, 2, 3]


# MLflow


def test_mlflow_has_parameters_scores_tags_and_files(
    finished_job: Path, sweep: tuple[Path, Result], server: MLflowServer, tmp_path: Path
) -> None:
    mlflow_client = client(server)
    jobs = (finished_job, finished_job.parent / "1_fast_valence_lstm")
    ids = [json.loads((job / "trackers.json").read_text())["mlflow"] for job in jobs]
    finished, failed = map(mlflow_client.get_run, ids)
    assert (finished.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert finished.info.run_name == finished_job.name
    assert finished.data.params["backbone/hidden"] == "8"
    tags = {"backbone": "lstm", "task": "joint", "sweep": sweep[0].name, "author": "user"}
    assert tags.items() <= finished.data.tags.items()
    assert finished.data.tags["pack"].startswith("demo-64@")
    for name, score in list_test_scores(finished_job):
        for key, field in ((name, "value"), (f"{name}.low", "low"), (f"{name}.high", "high")):
            assert finished.data.metrics.get(key) == score[field], key
    row = pd.read_csv(finished_job / "curves.csv").iloc[0]
    assert finished.data.metrics["train/valence/loss"] == pytest.approx(row["train/valence/loss"], rel=1e-4)
    for name in ("report.html", "metrics.json", "predictions.parquet", "checkpoints/best.ckpt"):
        downloaded = Path(mlflow_client.download_artifacts(ids[0], name, str(tmp_path)))
        assert downloaded.read_bytes() == (finished_job / name).read_bytes()


@pytest.mark.full
def test_run_finishes_when_the_mlflow_server_ends(home: Path, packs: Path, start: Any, tmp_path: Path) -> None:
    """Train in two processes, of which only the first has trackers."""
    server = MLflowServer(tmp_path)
    try:
        overrides = [*COMMON, "trainer=ddp_cpu", "logger=[mlflow,wandb]", f"logger.mlflow.uri={server.uri}"]
        overrides += [f"data.packs={packs}", "outputs=server_ended"]
        result = start(*overrides, f"+callbacks.fault={{_target_: fault.Fault, kind: '{server.process.pid}'}}")
    finally:
        server.close()
    assert result.returncode == 0, result.stderr
    (run,) = (home / "server_ended").iterdir()
    for name in ("metrics.json", "report.html", "predictions.parquet", "checkpoints/best.ckpt"):
        assert (run / name).is_file()
    messages = [line for line in result.stderr.splitlines() if line.startswith("MLflow: ")]
    assert len(messages) == 2
    assert messages[0].endswith("; training continues without it, and its curves are sent again at the end")
    assert messages[1].endswith(f"; not all results were sent; they are in {run.relative_to(home)}")
    assert "Traceback" not in result.stderr
    (wandb_run,) = read_wandb_runs(run)
    assert wandb_run.exits == [0]
    assert all(wandb_run.summary.get(name) == score["value"] for name, score in list_test_scores(run))


# TensorBoard


def test_tensorboard_has_curves_scores_figures_and_embeddings(finished_job: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished_job / "tensorboard")).Reload()
    scalars, images = set(events.Tags()["scalars"]), set(events.Tags()["images"])
    assert {"train/loss", "train/valence/loss", "val/score", "lr"} <= scalars
    for name, score in list_test_scores(finished_job):
        if score["value"] is not None:
            assert events.Scalars(name)[-1].value == pytest.approx(score["value"], rel=1e-6)
            if score["low"] is not None:  # a score that is equal on all resamples has no interval
                assert {f"{name}/low", f"{name}/high"} <= scalars
    assert {"figures/scores", "figures/scatter/valence"} <= images
    assert "_hparams_/session_start_info" in events.summary_metadata
    test = pd.read_parquet(finished_job / "predictions.parquet").query("split == 'test'")
    (tensors,) = (finished_job / "tensorboard").rglob("tensors.tsv")
    assert len(tensors.read_text().splitlines()) == len(test)
