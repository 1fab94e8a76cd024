"""Whole runs with three trackers at once, read back by what each of them reads with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tests.end_to_end.wandb_file import Told, told
from tests.end_to_end.warm import Nest

mlflow = pytest.importorskip("mlflow", reason="needs etude[mlflow]")
pytest.importorskip("tensorboard", reason="needs etude[tensorboard]")

pytestmark = pytest.mark.xdist_group("trackers")  # what is run once is run in one process
Result = subprocess.CompletedProcess[str]
BOMB = """
import os
import signal

from pytorch_lightning import Callback


class Bomb(Callback):
    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_epoch_end(self, trainer, learner) -> None:
        if self.how == "job" and list(learner.task.targets) == ["valence"]:
            raise RuntimeError("a job fails")
        if self.how == "interrupt" and trainer.current_epoch == 1 and not os.path.exists("exploded"):
            open("exploded", "w").close()
            os.killpg(0, signal.SIGINT)  # as a terminal does: to everything that it started
        if self.how.isdigit() and trainer.is_global_zero:
            os.killpg(int(self.how), signal.SIGKILL)
"""
LINE = ["backbone=lstm", "backbone.hidden=8", "callbacks=best_epoch", "debug=fast"]


class Server:
    """`mlflow server` on the loopback, with SQLite; one process, in a group of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        words = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root"]
        words += [f"file://{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        self.log = (folder / "server.log").open("w")
        known = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        known |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a server of jobs beside it, which nobody asks
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=self.log, stderr=self.log, env=known, start_new_session=True, cwd=folder,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)  # between two questions, not instead of one
        self.end()
        raise AssertionError((folder / "server.log").read_text())

    def end(self) -> None:
        """End it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trackers")
    (folder / "bomb.py").write_text(BOMB)
    return folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    made = Server(home)
    yield made
    made.end()


@pytest.fixture(scope="module")
def start(home: Path, environment: dict[str, str], nest: Nest) -> Any:
    known = {key: value for key, value in environment.items() if not key.startswith("MLFLOW")}
    known |= {f"WANDB_{name}_DIR": str(home / f"wandb_{name}") for name in ("DATA", "CACHE", "CONFIG")}
    known |= {"PYTHONPATH": f"{home}{os.pathsep}{environment.get('PYTHONPATH', '')}", "ETUDE_TRUST": "bomb"}
    known |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def go(*words: str) -> Result:
        return nest.run(home, known, *words)

    return go


@pytest.fixture(scope="module")
def all_three(server: Server) -> list[str]:
    return ["logger=[wandb,tensorboard,mlflow]", f"logger.mlflow.uri={server.uri}", "logger.wandb.mode=offline"]


@pytest.fixture(scope="module")
def sweep(home: Path, packs: Path, start: Any, all_three: list[str]) -> tuple[Path, Result]:
    """Two jobs, of which the second fails."""
    words = [*LINE, *all_three, "task=joint,valence", "+callbacks.bomb={_target_: bomb.Bomb, how: job}"]
    words += ["logger.wandb.tags=[first]", "logger.wandb.notes=a try", "+logger.mlflow.tags.who=me"]
    result = start("-m", "hydra/launcher=basic", *words, f"data.packs={packs}", "outputs=swept")
    assert result.returncode == 1, result.stderr  # of the job that fails
    (folder,) = (home / "swept").glob("*_sweep")
    return folder, result


@pytest.fixture(scope="module")
def done(sweep: tuple[Path, Result]) -> Path:
    return sweep[0] / "0_fast_joint_lstm"


@pytest.fixture(scope="module")
def kept(done: Path) -> Told:
    (one,) = told(done)
    return one


@pytest.fixture(scope="module")
def interrupted(
    home: Path, packs: Path, start: Any, all_three: list[str], done: Path, server: Server
) -> tuple[Path, Result, dict[str, Any], Result]:
    """A run from the weights of the first, interrupted in its second epoch, and resumed."""
    words = [*LINE, *all_three, "transfer=full", f"transfer.init_from={done}", "trainer.max_epochs=3"]
    words += ["+callbacks.bomb={_target_: bomb.Bomb, how: interrupt}", f"data.packs={packs}", "outputs=again"]
    stopped = start(*words)
    (run,) = (home / "again").iterdir()
    between = {"ids": json.loads((run / "trackers.json").read_text()), "exits": [one.exits for one in told(run)]}
    between["status"] = client(server).get_run(between["ids"]["mlflow"]).info.status
    return run, stopped, between, start(f"resume={run.relative_to(home)}")


def client(server: Server) -> Any:
    return mlflow.MlflowClient(server.uri)


def scores(run: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every score of metrics.json's test part, by the name that a tracker knows it by."""
    for target, about in json.loads((run / "metrics.json").read_text())["targets"].items():
        test = about["splits"]["test"]
        yield from ((f"test/{target}/{metric}", score) for metric, score in test["scores"].items())
        for name, baseline in test["baselines"].items():
            yield from ((f"test/{target}/{name}/{metric}", score) for metric, score in baseline["scores"].items())


# Weights & Biases


def test_a_sweep_is_a_group_of_a_run_for_each_job(sweep: tuple[Path, Result], kept: Told) -> None:
    folder, result = sweep
    assert result.returncode == 1, result.stderr
    assert "a job fails" in result.stderr
    (failed,) = told(folder / "1_fast_valence_lstm")
    assert [one.run.run_group for one in (kept, failed)] == [folder.name] * 2
    assert [one.run.job_type for one in (kept, failed)] == ["joint", "valence"]
    assert [one.run.display_name for one in (kept, failed)] == ["0_fast_joint_lstm", "1_fast_valence_lstm"]
    assert kept.run.run_id != failed.run.run_id
    assert (kept.exits, failed.exits) == ([0], [1])
    assert list(kept.run.tags) == ["first"]
    assert (kept.run.notes, kept.run.project) == ("a try", "etude")


def test_the_config_is_that_of_the_run(done: Path, kept: Told) -> None:
    stored = yaml.safe_load((done / "config.yaml").read_text())
    assert stored["backbone"]["hidden"] == 8
    for key, value in stored.items():
        assert kept.config[key] == value, key


def test_the_history_holds_what_curves_csv_holds(done: Path, kept: Told) -> None:
    (row,) = pd.read_csv(done / "curves.csv").to_dict("records")
    assert {"train/loss", "val/score", "lr"} <= set(row)
    assert {f"{part}/{name}/loss" for part in ("train", "val") for name in ("genre", "valence")} <= set(row)
    history = {key: value for values in kept.history for key, value in values.items()}
    assert history["trainer/global_step"] == row.pop("step")
    assert {key: history[key] for key in row} == pytest.approx(row, rel=1e-4)


def test_the_summary_is_metrics_json_with_its_intervals(done: Path, kept: Told) -> None:
    compared = 0
    for name, score in scores(done):
        for key, end in ((name, "value"), (f"{name}/low", "low"), (f"{name}/high", "high")):
            assert kept.summary.get(key) == score[end], key  # what is undefined is not there
            compared += score[end] is not None
    assert compared > 100
    record = json.loads((done / "record.json").read_text())["model"]
    assert kept.summary["val/score"] == kept.summary["best/val/score"] == record["best_score"]


def test_the_tables_are_the_run_s(done: Path, kept: Told) -> None:
    table = pd.read_parquet(done / "predictions.parquet")
    columns, rows = kept.table("predictions")
    assert columns == [c for c in table.columns if c != "embedding"]
    assert [row[0] for row in rows] == table["id"].tolist()
    columns, rows = kept.table("confusion/genre_table")
    genre = json.loads((done / "metrics.json").read_text())["targets"]["genre"]
    counts, classes = genre["splits"]["test"]["confusion"], genre["classes"]
    assert columns == ["actual", "predicted", "clips"]
    assert {(a, p): n for a, p, n in rows} == {
        (a, p): counts[i][j] for i, a in enumerate(classes) for j, p in enumerate(classes)
    }
    columns, rows = kept.table("latent")
    assert columns[:4] == ["x", "y", "id", "group"]
    assert len(rows) == (table["split"] == "test").sum()


def test_the_page_and_the_figures_are_there(done: Path, kept: Told) -> None:
    media = {key: value for row in kept.history for key, value in row.items() if key.endswith(".path")}
    page = kept.files / media["report.path"]
    assert page.read_bytes() == (done / "report.html").read_bytes()
    for name in ("scores", "scatter/valence"):
        assert (kept.files / media[f"figures/{name}.path"]).read_bytes()[:4] == b"\x89PNG"


def test_the_way_from_the_pack_to_the_weights_to_another_run(
    done: Path, kept: Told, interrupted: tuple[Path, Result, dict[str, Any], Result]
) -> None:
    data = json.loads((done / "record.json").read_text())["data"]
    pack, model = kept.artifacts[f"pack-demo-{data['hash'][:8]}"], kept.artifacts[f"model-{kept.run.run_id}"]
    assert (pack.type, pack.use_after_commit) == ("pack", True)
    assert json.loads(pack.metadata)["hash"] == data["hash"]
    assert [entry.path for entry in pack.manifest.contents] == ["pack.json"]  # not the frames
    assert (model.type, model.use_after_commit) == ("model", False)
    assert "best" in model.aliases
    (entry,) = model.manifest.contents
    assert Path(entry.local_path) == done / "checkpoints" / "best.ckpt"
    later = told(interrupted[0])[-1]
    assert later.artifacts[pack.name].digest == pack.digest  # the same version of it
    used = later.artifacts[model.name]
    assert (used.digest, used.use_after_commit) == (model.digest, True)
    assert later.artifacts[f"model-{later.run.run_id}"].use_after_commit is False


def test_an_interrupted_run_has_failed_and_goes_on_as_the_same(
    interrupted: tuple[Path, Result, dict[str, Any], Result], server: Server
) -> None:
    run, stopped, between, resumed = interrupted
    assert stopped.returncode == 130, stopped.stderr
    assert (between["exits"], between["status"]) == ([[1]], "FAILED")
    assert resumed.returncode == 0, resumed.stderr
    first, second = told(run)
    assert first.run.run_id == second.run.run_id == between["ids"]["wandb"]
    assert second.exits == [0]
    assert json.loads((run / "trackers.json").read_text()) == between["ids"]
    assert client(server).get_run(between["ids"]["mlflow"]).info.status == "FINISHED"
    epochs = [point.value for point in client(server).get_metric_history(between["ids"]["mlflow"], "epoch")]
    assert sorted(set(epochs)) == [1, 2, 3]


# MLflow


def test_mlflow_has_parameters_scores_tags_and_files(
    done: Path, sweep: tuple[Path, Result], server: Server, tmp_path: Path
) -> None:
    known = client(server)
    ids = [
        json.loads((run / "trackers.json").read_text())["mlflow"] for run in (done, done.parent / "1_fast_valence_lstm")
    ]
    finished, failed = map(known.get_run, ids)
    assert (finished.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert finished.info.run_name == done.name
    assert finished.data.params["backbone/hidden"] == "8"
    tags = {"backbone": "lstm", "task": "joint", "sweep": sweep[0].name, "who": "me"}
    assert tags.items() <= finished.data.tags.items()
    assert finished.data.tags["pack"].startswith("demo@")
    for name, score in scores(done):
        for key, end in ((name, "value"), (f"{name}.low", "low"), (f"{name}.high", "high")):
            assert finished.data.metrics.get(key) == score[end], key
    row = pd.read_csv(done / "curves.csv").iloc[0]
    assert finished.data.metrics["train/valence/loss"] == pytest.approx(row["train/valence/loss"], rel=1e-4)
    for name in ("report.html", "metrics.json", "predictions.parquet", "checkpoints/best.ckpt"):
        fetched = Path(known.download_artifacts(ids[0], name, str(tmp_path)))
        assert fetched.read_bytes() == (done / name).read_bytes()


def test_a_server_that_is_gone_costs_a_run_nothing(home: Path, packs: Path, start: Any, tmp_path: Path) -> None:
    """In two processes, of which the first alone has trackers: Weights & Biases has one run, and it is whole."""
    gone = Server(tmp_path)
    try:
        words = [*LINE, "trainer=ddp_cpu", "logger=[mlflow,wandb]", f"logger.mlflow.uri={gone.uri}"]
        words += [f"data.packs={packs}", "outputs=gone"]
        result = start(*words, f"+callbacks.bomb={{_target_: bomb.Bomb, how: '{gone.process.pid}'}}")
    finally:
        gone.end()
    assert result.returncode == 0, result.stderr
    (run,) = (home / "gone").iterdir()
    for name in ("metrics.json", "report.html", "predictions.parquet", "checkpoints/best.ckpt"):
        assert (run / name).is_file()
    said = [line for line in result.stderr.splitlines() if line.startswith("MLflow: ")]
    assert len(said) == 2
    assert said[0].endswith("; training continues without it, and its curves are sent again at the end")
    assert said[1].endswith(f"; not all results were sent; they are in {run.relative_to(home)}")
    assert "Traceback" not in result.stderr
    (kept,) = told(run)
    assert kept.exits == [0]
    assert all(kept.summary.get(name) == score["value"] for name, score in scores(run))


# TensorBoard


def test_tensorboard_has_curves_scores_figures_and_embeddings(done: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(done / "tensorboard")).Reload()
    scalars, images = set(events.Tags()["scalars"]), set(events.Tags()["images"])
    assert {"train/loss", "train/valence/loss", "val/score", "lr"} <= scalars
    for name, score in scores(done):
        if score["value"] is not None:
            assert events.Scalars(name)[-1].value == pytest.approx(score["value"], rel=1e-6)
            assert {f"{name}/low", f"{name}/high"} <= scalars
    assert {"figures/scores", "figures/scatter/valence"} <= images
    assert "_hparams_/session_start_info" in events.summary_metadata
    test = pd.read_parquet(done / "predictions.parquet").query("split == 'test'")
    (tensors,) = (done / "tensorboard").rglob("tensors.tsv")
    assert len(tensors.read_text().splitlines()) == len(test)
