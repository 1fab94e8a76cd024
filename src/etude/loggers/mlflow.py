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

from etude.errors import UserError
from etude.files import ownership
from etude.files.journal import Lock
from etude.loggers.base import Tracker, shorten
from etude.loggers.finished_run import FinishedRun
from etude.runs.folder import CHECKPOINTS

if TYPE_CHECKING:
    from pytorch_lightning.loggers import MLFlowLogger

    from etude.training.lightning import Logger


BATCH_SIZE = 500  # metrics in one request; MLflow accepts 1,000
LONGEST_NAME, LONGEST_TAG = 250, 5000  # characters of a name and of a tag's value; newer servers accept longer tags
BUSY = 60  # seconds that a process waits for the database while another process writes


class MLflow(Tracker):
    """Tracker with one MLflow run for each run folder.

    Args:
        folder: The run's folder.
        config: The run's config.
        experiment: Experiment in MLflow.
        uri: A server or a database. None uses `MLFLOW_TRACKING_URI`, or a file in the output folder if this is unset.
        tags: Tags of the run.
        notes: Description of the run.
    """

    key, title = "mlflow", "MLflow"
    advice = "set logger.mlflow.uri to a server or a database such as sqlite:///runs.db"
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

    def start(self, run_id: str | None) -> tuple[MLFlowLogger, str | None]:
        """Start a run, or resume the run with this id."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # usage data stays private
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default of 7 delays a run by minutes
        import mlflow  # noqa: F401 (it sets the level of its own log)
        from pytorch_lightning.loggers import MLFlowLogger

        for name in ("alembic", "mlflow", "pytorch_lightning.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)

        uri, artifacts = self.uri or os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            outputs = Path(self.config["outputs"]).absolute()
            _check_database(outputs)
            uri, artifacts = f"sqlite:///{outputs / 'mlflow.db'}?timeout={BUSY}", (outputs / "mlflow").as_uri()

        def create() -> MLFlowLogger:
            inner = MLFlowLogger(
                self.experiment_name, self.folder.name, uri, self._tags(), artifact_location=artifacts, run_id=run_id
            )
            _ = inner.experiment  # creates the store, the experiment and the run
            return inner

        with _database_lock(uri):
            try:
                inner = create()
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
                inner = create()  # another process has created the experiment in the meantime
        client, run = inner.experiment, str(inner.run_id)
        if run_id is None:
            self._log_params(inner)
        else:
            client.update_run(run, status="RUNNING")
        return inner, run

    def send(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Send metrics of a step without Lightning's logger.

        That logger removes characters from names, so metrics with similar names would be lost.
        """
        from mlflow.entities import Metric

        assert self.inner is not None
        now, names = int(time.time() * 1000), {name: accepted_name(name) for name in metrics}
        batch = [Metric(names[name], value, now, step or 0) for name, value in metrics.items()]
        self.inner.experiment.log_batch(str(self.inner.run_id), metrics=batch)

    def log_results(self, finished: FinishedRun) -> None:
        """Log the scores at the last training step, and then the files."""
        from PIL import Image

        assert self.inner is not None
        # a file store has one file per metric, and the folder of an interval cannot have the same name
        numbers = [(re.sub(r"/(low|high)$", r".\1", name), value) for name, value in finished.numbers.items()]
        for i in range(0, len(numbers), BATCH_SIZE):
            self.send(dict(numbers[i : i + BATCH_SIZE]), self.step)
        client, run = self.inner.experiment, str(self.inner.run_id)
        client.set_tag(run, "pack", f"{finished.pack['name']}@{finished.pack['hash']}")
        if finished.source and (source := finished.source.read_trackers().get(self.key)):
            client.set_tag(run, "init_from", source)
        for path in finished.results:
            client.log_artifact(run, str(path))
        if finished.checkpoint is not None:
            client.log_artifact(run, str(finished.checkpoint), CHECKPOINTS)
        for name, frame in finished.tables.items():
            if name != "predictions":  # logged as a file
                client.log_text(run, frame.to_csv(index=False), f"tables/{accepted_name(name)}.csv")
        for name, png in finished.figures.items():
            client.log_image(run, Image.open(io.BytesIO(png)), f"figures/{accepted_name(name)}.png")

    def stop(self, failed: bool) -> None:
        """Set the status of the run to failed or finished."""
        assert self.inner is not None
        self.inner.experiment.set_terminated(str(self.inner.run_id), "FAILED" if failed else "FINISHED")

    def _tags(self) -> dict[str, str]:
        """Return the selected options, the sweep, and the user's tags and notes."""
        choices = {key: value for key, value in self.config.get("choices", {}).items() if value}
        sweep = self.files.sweep
        tags = choices | ({"sweep": sweep} if sweep else {}) | dict(self.tags)
        tags |= {"mlflow.note.content": self.notes} if self.notes else {}
        return {accepted_name(str(key)): shorten(str(value), LONGEST_TAG) for key, value in tags.items()}

    def _log_params(self, inner: MLFlowLogger) -> None:
        """Log all values of the config as parameters."""
        inner.log_hyperparams({accepted_name(name): value for name, value in _flatten(self.config)})


def accepted_name(name: str) -> str:
    """Return a unique name that MLflow accepts. Most names are unchanged.

    MLflow accepts letters, digits, `_-.:` and blanks. Components between slashes must not be empty or consist of dots.
    If characters of a component are replaced, a hash is appended, so that names stay unique.
    """
    components = []
    for component in name.split("/"):
        safe = re.sub(r"[^\w.\- :]", "_", component)
        if safe != component or not safe.strip(". "):
            digest = hashlib.sha256(component.encode("utf-8", "surrogatepass")).hexdigest()
            safe = f"{safe.strip('. ') or '_'}-{digest[:6]}"
        components.append(safe)
    return shorten("/".join(components), LONGEST_NAME)


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a config by their keys, joined with slashes as in Lightning."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _check_database(outputs: Path) -> None:
    """Refuse an existing database or folder of artifacts that Étude did not create.

    Raises:
        UserError: The database or the folder is not in the list of files that Étude wrote, or is a link.
    """
    ownership.open_folder(outputs)
    try:
        ownership.check_names(outputs, ("mlflow.db", "mlflow/"))
    except UserError as error:
        raise UserError(f"{error}, or set logger.mlflow.uri, such as sqlite:///{outputs / 'mlflow.db'}") from error
    for name in ("mlflow.db", "mlflow"):
        ownership.record(outputs / name)


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Hold the lock of a database file. Two processes that create its tables at the same time would corrupt it."""
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
    """Return a logger for MLflow, on a server or in a local file.

    Args:
        folder: The run's folder.
        config: The run's config. Its values are logged as parameters.
        experiment: Experiment in MLflow.
        uri: A server (`http://host:5000`) or a database (`sqlite:///runs.db`). None uses `MLFLOW_TRACKING_URI`, or
            `mlflow.db` in the output folder if this variable is unset.
        tags: Tags of the run.
        notes: Description of the run.
    """
    return MLflow(folder, config, experiment, uri, dict(tags or {}), notes)
