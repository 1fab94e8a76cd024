"""MLflow without a server: a database, the default one, and a folder of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etude.tracking import mlflow as factory
from etude.tracking.course import tracked
from etude.tracking.finished import Finished, tracked_as

mlflow = pytest.importorskip("mlflow", reason="needs etude[mlflow]")


@pytest.mark.parametrize("where", ["file", "default"])
def test_a_run_is_kept_without_a_server(
    where: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = (tmp_path / "runs").as_uri() if where == "file" else None
    (tmp_path / "run").mkdir()
    config: dict[str, Any] = {"outputs": str(tmp_path), "seed": 7, "choices": {"task": "joint"}, "empty": None}
    tracker: Any = factory(tmp_path / "run", config, uri=uri, notes="a try")
    with tracked([tracker]):
        tracker.log_metrics({"train/loss": 1.5, "epoch": 0}, 4)
        tracker.hand_over(Finished(folder))
    client = mlflow.MlflowClient(uri or f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(tracked_as(tmp_path / "run")["mlflow"])
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", "7")
    assert run.data.tags["mlflow.note.content"] == "a try"
    assert run.data.metrics["train/loss"] == 1.5
    numbers = Finished(folder).numbers
    assert run.data.metrics["test/genre/macro_f1"] == numbers["test/genre/macro_f1"]
    assert run.data.metrics["test/genre/macro_f1.low"] == numbers["test/genre/macro_f1/low"]
    (point,) = client.get_metric_history(run.info.run_id, "test/genre/macro_f1")
    assert point.step == 4
    there = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "metrics.json", "predictions.parquet", "checkpoints", "figures", "tables"} <= there
