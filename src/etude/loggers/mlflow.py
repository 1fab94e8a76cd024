"""Logger for MLflow."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import Logger

from etude.errors import UserError
from etude.files import ownership
from etude.files.lock import Lock
from etude.loggers.base import Tracker, shortened
from etude.loggers.finished_run import FinishedRun
from etude.runs.folder import CHECKPOINTS

if TYPE_CHECKING:
    from pytorch_lightning.loggers import MLFlowLogger


AT_ONCE = 500  # metrics in one request; MLflow takes 1,000
LONGEST_NAME, LONGEST_TAG = 250, 5000  # characters of a name and of a tag's value; newer servers take longer tags
BUSY = 60  # seconds that a process waits for the database while another writes


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
            _check_database(outputs)
            uri, place = f"sqlite:///{outputs / 'mlflow.db'}?timeout={BUSY}", (outputs / "mlflow").as_uri()

        def begun() -> MLFlowLogger:
            inner = MLFlowLogger(
                self.experiment_name, self.folder.name, uri, self._tags(), artifact_location=place, run_id=known
            )
            _ = inner.experiment  # makes the store, the experiment and the run
            return inner

        with _alone(uri):
            try:
                inner = begun()
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
                inner = begun()  # another process has made the experiment in the meantime
        client, run = inner.experiment, str(inner.run_id)
        if known is None:
            self._log_params(inner)
        else:
            client.update_run(run, status="RUNNING")
        return inner, run

    def send(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Give MLflow some numbers; Lightning's logger would drop letters of their names, and with them numbers."""
        from mlflow.entities import Metric

        assert self.inner is not None
        now, names = int(time.time() * 1000), {name: accepted(name) for name in metrics}
        batch = [Metric(names[name], value, now, step or 0) for name, value in metrics.items()]
        self.inner.experiment.log_batch(str(self.inner.run_id), metrics=batch)

    def receive(self, finished: FinishedRun) -> None:
        """Scores at the step that training ended with, then the files."""
        from PIL import Image

        assert self.inner is not None
        # a file store keeps a metric in a file, which cannot be the folder of its ends as well
        numbers = [(re.sub(r"/(low|high)$", r".\1", name), value) for name, value in finished.numbers.items()]
        for i in range(0, len(numbers), AT_ONCE):
            self.send(dict(numbers[i : i + AT_ONCE]), self.step)
        client, run = self.inner.experiment, str(self.inner.run_id)
        client.set_tag(run, "pack", f"{finished.pack['name']}@{finished.pack['hash']}")
        if finished.source and (source := finished.source.read_trackers().get(self.key)):
            client.set_tag(run, "init_from", source)
        for path in finished.results:
            client.log_artifact(run, str(path))
        if finished.checkpoint is not None:
            client.log_artifact(run, str(finished.checkpoint), CHECKPOINTS)
        for name, frame in finished.tables.items():
            if name != "predictions":  # a file of its own
                client.log_text(run, frame.to_csv(index=False), f"tables/{accepted(name)}.csv")
        for name, png in finished.figures.items():
            client.log_image(run, Image.open(io.BytesIO(png)), f"figures/{accepted(name)}.png")

    def stop(self, failed: bool) -> None:
        """Failed or finished."""
        assert self.inner is not None
        self.inner.experiment.set_terminated(str(self.inner.run_id), "FAILED" if failed else "FINISHED")

    def _tags(self) -> dict[str, str]:
        """What the config chose, the sweep, and what the user said."""
        choices = {key: value for key, value in self.config.get("choices", {}).items() if value}
        sweep = self.files.sweep
        tags = choices | ({"sweep": sweep} if sweep else {}) | dict(self.tags)
        tags |= {"mlflow.note.content": self.notes} if self.notes else {}
        return {accepted(str(key)): shortened(str(value), LONGEST_TAG) for key, value in tags.items()}

    def _log_params(self, inner: MLFlowLogger) -> None:
        """Give MLflow every value of the config."""
        inner.log_hyperparams({accepted(name): value for name, value in _flat(self.config)})


def accepted(name: str) -> str:
    """Return a name that MLflow takes, for one name only; most stay as they are.

    Letters and digits, `_-.:` and blanks are taken, and parts between slashes that are neither empty nor dots. A part
    with anything else ends in a code that is its own, so that no two names become one.
    """
    parts = []
    for part in name.split("/"):
        kept = re.sub(r"[^\w.\- :]", "_", part)
        if kept != part or not kept.strip(". "):
            kept = f"{kept.strip('. ') or '_'}-{hashlib.sha256(part.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
        parts.append(kept)
    return shortened("/".join(parts), LONGEST_NAME)


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a config by their names, as Lightning joins them: with slashes."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _check_database(outputs: Path) -> None:
    """Refuse the database and the folder of artifacts in a folder of outputs if somebody else made them.

    Raises:
        UserError: One of them is not in the list of the files that Étude wrote, or is a link.
    """
    ownership.open_folder(outputs)
    try:
        ownership.check_names(outputs, ("mlflow.db", "mlflow/"))
    except UserError as error:
        raise UserError(f"{error}, or set logger.mlflow.uri, such as to sqlite:///{outputs / 'mlflow.db'}") from error
    for name in ("mlflow.db", "mlflow"):
        ownership.record(outputs / name)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Hold the lock of a database in a file: processes that make its tables at the same time spoil them."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    if not uri.startswith("sqlite:///") or not path:
        yield
        return
    file = Path(path).absolute()
    ownership.open_parents(file)
    lock = Lock(file.with_name(f".{file.name}.lock"), str(file))
    lock.acquire(wait=True)
    with lock:
        yield


def mlflow_logger(
    folder: Path,
    config: Mapping[str, Any],
    experiment: str = "etude",
    uri: str | None = None,
    tags: Mapping[str, str] | None = None,
    notes: str | None = None,
) -> Logger:
    """A run in MLflow: on a server, or in a file of this machine.

    Args:
        folder: The run's folder.
        config: Its values are the run's parameters.
        experiment: Experiment in MLflow.
        uri: A server (`http://host:5000`) or a database (`sqlite:///runs.db`); none takes `MLFLOW_TRACKING_URI`, and
            without it `mlflow.db` in the folder of outputs.
        tags: Names and values to find the run by.
        notes: What the run is about.
    """
    return MLflow(folder, config, experiment, uri, dict(tags or {}), notes)
