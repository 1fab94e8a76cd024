"""A run in MLflow: parameters, curves, results, tags and files, on a server or in a database of this machine."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.tracking.finished import Finished, sweep_of, tracked_as
from etude.tracking.tracker import Tracker

if TYPE_CHECKING:
    from pytorch_lightning.loggers import MLFlowLogger

AT_ONCE = 500  # metrics in one request; MLflow takes 1,000


class MLflow(Tracker):
    """One run there for one folder here.

    Args:
        folder: The run's folder.
        config: The run's config.
        experiment: Experiment in MLflow.
        uri: A server or a database; none takes `MLFLOW_TRACKING_URI`, and without it a file in the folder of outputs.
        tags: Names and values to find the run by.
        notes: What the run is about.
    """

    key, title = "mlflow", "MLflow"
    advice = "logger.mlflow.uri says where it is, a server or sqlite:///runs.db"
    inner: MLFlowLogger | None

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        experiment: str,
        uri: str | None,
        tags: Mapping[str, str],
        notes: str | None,
    ) -> None:
        super().__init__(folder, config)
        self.experiment_name, self.uri, self.tags, self.notes = experiment, uri, tags, notes

    def start(self, known: str | None) -> tuple[MLFlowLogger, str | None]:
        """Begin a run, or go on with the one of this id."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # what is run here is nobody else's business
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7 hold a run up for minutes
        import mlflow  # noqa: F401 (it sets the level of its own log)
        from pytorch_lightning.loggers import MLFlowLogger

        for chatty in ("alembic", "mlflow", "pytorch_lightning.loggers.mlflow"):
            logging.getLogger(chatty).setLevel(logging.ERROR)

        uri, place = self.uri or os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            outputs = Path(self.config["outputs"]).absolute()
            uri, place = f"sqlite:///{outputs / 'mlflow.db'}", (outputs / "mlflow").as_uri()
        inner = MLFlowLogger(
            self.experiment_name, self.folder.name, uri, self._tags(), artifact_location=place, run_id=known
        )
        client, run = inner.experiment, inner.run_id
        if known is None:
            inner.log_hyperparams(dict(self.config))
        else:
            client.update_run(run, status="RUNNING")
        return inner, run

    def receive(self, finished: Finished) -> None:
        """Scores at the step that training ended with, then the files."""
        from PIL import Image

        assert self.inner is not None
        # a file store keeps a metric in a file, which cannot be the folder of its ends as well
        numbers = [(re.sub(r"/(low|high)$", r".\1", name), value) for name, value in finished.numbers.items()]
        for i in range(0, len(numbers), AT_ONCE):
            self.inner.log_metrics(dict(numbers[i : i + AT_ONCE]), self.step)
        client, run = self.inner.experiment, str(self.inner.run_id)
        client.set_tag(run, "pack", f"{finished.pack['name']}@{finished.pack['hash']}")
        if finished.source and (source := tracked_as(finished.source).get(self.key)):
            client.set_tag(run, "init_from", source)
        for path in finished.files:
            client.log_artifact(run, str(path))
        if finished.checkpoint is not None:
            client.log_artifact(run, str(finished.checkpoint), "checkpoints")
        for name, frame in finished.tables.items():
            if name != "predictions":  # a file of its own
                client.log_text(run, frame.to_csv(index=False), f"tables/{name}.csv")
        for name, png in finished.figures.items():
            client.log_image(run, Image.open(io.BytesIO(png)), f"figures/{name}.png")

    def stop(self, failed: bool) -> None:
        """Failed or finished."""
        assert self.inner is not None
        self.inner.experiment.set_terminated(str(self.inner.run_id), "FAILED" if failed else "FINISHED")

    def _tags(self) -> dict[str, str]:
        """What the config chose, the sweep, and what the user said."""
        choices = {key: value for key, value in self.config.get("choices", {}).items() if value}
        sweep = sweep_of(self.folder)
        tags = choices | ({"sweep": sweep} if sweep else {}) | dict(self.tags)
        tags |= {"mlflow.note.content": self.notes} if self.notes else {}
        return {key: str(value) for key, value in tags.items()}
