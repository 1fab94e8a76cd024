"""Tests of MLflow with a database and with a folder of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from etude.errors import UserError
from etude.loggers.base import tracked
from etude.loggers.finished_run import FinishedRun
from etude.loggers.mlflow import _database_lock, accepted_name
from etude.loggers.mlflow import mlflow_logger as factory
from etude.runs.folder import RunFolder

mlflow = pytest.importorskip("mlflow", reason="needs etude[mlflow]")
_validate_metric_name = pytest.importorskip("mlflow.utils.validation")._validate_metric_name


@pytest.mark.parametrize("name", ["test/genre/macro_f1", "жанр/a b", "a.b:c-d", "x" * 250])
def test_accepted_names_are_unchanged(name: str) -> None:
    assert accepted_name(name) == name


def test_other_names_are_unique() -> None:
    names = [
        "val/R&B?",
        "val/R_B_",
        "val/R#B?",
        "val//x",
        "/x",
        "../x",
        "./x",
        "x/..",
        "x" * 251,
        "x" * 252,
        "a(b)",
        "",
    ]
    accepted = [accepted_name(name) for name in names]
    assert len(set(accepted)) == len(names)
    for name in accepted:
        _validate_metric_name(name)


def test_metrics_with_special_names_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()
    config: dict[str, Any] = {"outputs": str(tmp_path), "task": {"targets": {"R&B? (x)": {"loss": 1}}, "none": {}}}
    tags = {"a": "b" * 9000, "c#d": "e"}
    tracker: Any = factory(tmp_path / "run", config, uri=uri, tags=tags)
    (tmp_path / "run").mkdir()
    with tracked([tracker]):
        tracker.log_metrics({"val/жанр": 1.0, "val/R&B": 2.0, "val/R#B": 3.0}, 4)
    client = mlflow.MlflowClient(uri)
    run = client.get_run(RunFolder(tmp_path / "run").read_trackers()["mlflow"])
    assert sorted(run.data.metrics.values()) == [1.0, 2.0, 3.0]
    assert run.data.metrics["val/жанр"] == 1.0
    assert "1" in run.data.params.values()
    assert len(run.data.tags["a"]) == 5000


def test_database_is_created_by_one_process_at_a_time(tmp_path: Path) -> None:
    with _database_lock(f"sqlite:///{tmp_path / 'a.db'}?timeout=60"):
        with pytest.raises(Timeout), FileLock(tmp_path / ".a.db.lock", timeout=0):
            pass
        with _database_lock("http://localhost:1"):  # a server does that itself
            pass


@pytest.mark.parametrize("store", ["file", "default"])
def test_run_is_logged_without_a_server(
    store: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = (tmp_path / "runs").as_uri() if store == "file" else None
    (tmp_path / "run").mkdir()
    config: dict[str, Any] = {"outputs": str(tmp_path), "seed": 7, "choices": {"task": "joint"}, "empty": None}
    tracker: Any = factory(tmp_path / "run", config, uri=uri, notes="a try")
    with tracked([tracker]):
        tracker.log_metrics({"train/loss": 1.5, "epoch": 0}, 4)
        tracker.log_finished_run(FinishedRun(RunFolder(folder)))
    client = mlflow.MlflowClient(uri or f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(RunFolder(tmp_path / "run").read_trackers()["mlflow"])
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", "7")
    assert run.data.tags["mlflow.note.content"] == "a try"
    assert run.data.metrics["train/loss"] == 1.5
    numbers = FinishedRun(RunFolder(folder)).numbers
    assert run.data.metrics["test/genre/macro_f1"] == numbers["test/genre/macro_f1"]
    assert run.data.metrics["test/genre/macro_f1.low"] == numbers["test/genre/macro_f1/low"]
    (point,) = client.get_metric_history(run.info.run_id, "test/genre/macro_f1")
    assert point.step == 4
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "metrics.json", "predictions.parquet", "checkpoints", "figures", "tables"} <= artifacts


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow"])
def test_other_database_is_not_changed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    outputs, run = tmp_path / "outputs", tmp_path / "outputs" / "run"
    run.mkdir(parents=True)
    (outputs / name).write_text("mine")
    tracker: Any = factory(run, {"outputs": str(outputs)})
    with pytest.raises(UserError, match=rf"{name}: .*logger\.mlflow\.uri"):
        tracker.begin()
    assert (outputs / name).read_text() == "mine"
    assert not (outputs / ".mlflow.db.lock").exists()
