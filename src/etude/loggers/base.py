"""Base class of experiment loggers, and those that write to the run folder: curves.csv and files for TensorBoard."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from etude.errors import UserError
from etude.evaluation.means import targets_and_mean
from etude.files import ownership
from etude.files.atomic import write_text
from etude.loggers.finished_run import FinishedRun
from etude.runs.folder import RunFolder
from etude.runs.readers import read_curve_rows
from etude.system.distributed import is_rank_zero
from etude.training.lightning import Logger, rank_zero_only

if TYPE_CHECKING:
    from pytorch_lightning.loggers import TensorBoardLogger

log = logging.getLogger(__name__)


class Tracker(Logger):
    """Base class of loggers for experiment trackers.

    A tracker that cannot be started raises a UserError before training. Later errors do not end the run. Curves that
    could not be sent are kept and sent again at the end. If results cannot be sent, a warning refers to the run's
    folder, which contains all results. Errors of trackers do not change the exit status. It is 0 for a finished run, so
    that scripts can rely on the run's folder.

    Only the first process of a run starts its trackers. In other processes they do nothing.

    Args:
        folder: The run's folder.
        config: The run's config.
    """

    key: ClassVar[str]
    """Option in the group `logger`, and name of the required extra."""
    title: ClassVar[str]
    """Displayed name."""
    advice: ClassVar[str] = ""
    """Remedy if the tracker cannot be started, as part of the message."""
    local: ClassVar[tuple[str, ...]] = ()
    """Folders that the tracker's client creates in the run's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder, self.config = folder, config
        self.files = RunFolder(folder)
        self.inner: Logger | None = None
        self.pending: list[tuple[dict[str, float], int | None]] = []
        self.step, self.failing = 0, False

    @abstractmethod
    def start(self, run_id: str | None) -> tuple[Logger, str | None]:
        """Start or resume a run in the tracker.

        Args:
            run_id: Id of the run in the tracker if it is resumed, else None.

        Returns:
            Lightning's logger, and the id of the run.
        """

    @abstractmethod
    def log_results(self, finished: FinishedRun) -> None:
        """Send the results of a finished run."""

    def stop(self, failed: bool) -> None:
        """End the run in the tracker with its status."""

    def begin(self) -> None:
        """Start the tracker, and store the id of the run in the run's folder.

        Raises:
            UserError: The tracker cannot be started, because a package is missing or a server is not reachable.
        """
        for local in self.local:
            ownership.record(self.folder / local)  # checked when the folder was created; the tracker creates this path
        try:
            self.inner, name = self.start(self.files.read_trackers().get(self.key))
        except ModuleNotFoundError as error:
            extra = f"logger={self.key} needs the extra etude[{self.key}]: pip install 'etude[{self.key}]'"
            raise UserError(extra) from error
        except UserError:
            raise
        except Exception as error:
            message = f"{self.title} cannot start the run ({first_line(error)}); {self.advice}"
            raise UserError(f"logger={self.key}: {message}") from error
        if name is not None:
            ids = self.files.read_trackers() | {self.key: name}
            write_text(self.files.trackers_path, json.dumps(ids) + "\n")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send losses, scores and learning rate of a step. Epochs count from 1, as in the log and the report."""
        if self.inner is None:
            return
        self.pending.append(({k: float(v) + (k == "epoch") for k, v in metrics.items()}, step))
        self.step = max(self.step, step or 0)
        if not self.failing:
            self._try(self._send_pending, "training continues without it, and its curves are sent again at the end")

    def log_finished_run(self, finished: FinishedRun) -> None:
        """Send pending curves and the results of a finished run."""

        def send() -> None:
            self._send_pending()
            self.log_results(finished)

        if self.inner is not None:
            self.failing = False
            self._try(send, f"not all results were sent; they are in {os.path.relpath(self.folder)}")

    def end(self, failed: bool) -> None:
        """End the run in the tracker. An error is logged as a warning."""
        if self.inner is not None and not self._try(lambda: self.stop(failed), "the status of the run was not sent"):
            log.debug("%s", self.title, exc_info=True)
        self.inner = None

    def _send_pending(self) -> None:
        """Send the metrics of all pending steps."""
        while self.pending:
            self.send(*self.pending[0])
            del self.pending[0]

    def send(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Send metrics of a step under names that the tracker accepts."""
        assert self.inner is not None
        self.inner.log_metrics(dict(metrics), step)

    def _try(self, function: Callable[[], None], consequence: str) -> bool:
        """Call a function and return whether it succeeded. Only the first failure is logged as a warning."""
        try:
            function()
        except Exception as error:
            if not self.failing:
                log.warning("%s: %s; %s", self.title, first_line(error), consequence)
            self.failing = True
            return False
        return True

    # interface of Lightning's loggers

    @property
    def name(self) -> str:
        """Name of the logger, which Lightning requires."""
        return self.key

    @property
    def version(self) -> str:
        """Version of the logger, which Lightning requires."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters, because the config is sent when the run starts."""


def shorten(text: str, limit: int) -> str:
    """Shorten a text to at most `limit` characters. A shortened text ends with a hash, so that it stays unique.

    Args:
        text: Any text, such as a tag.
        limit: Maximum length, at least 10.
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error message without a full stop, or the first of several validation errors."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and "validation error" in lines[0]:  # pydantic's number of errors
        lines = [" ".join(line.strip() for line in lines[1:3])]
    return (lines[0] if lines else type(error).__name__).strip().rstrip(".")


@contextmanager
def tracked(loggers: Sequence[Logger]) -> Iterator[list[Tracker]]:
    """Start the trackers among the loggers of a run, and end them. After an exception, the status is failed."""
    trackers = [logger for logger in loggers if isinstance(logger, Tracker)] if is_rank_zero() else []
    failed = True
    try:
        for tracker in trackers:
            tracker.begin()
        yield trackers
        failed = False
    finally:
        for tracker in trackers:
            tracker.end(failed)


class CurveLogger(Logger):
    """Logger of losses, scores and learning rate by step.

    Epochs count from 1, as in the log and the report. The values of one step, from training and validation, are one
    row. Existing rows of the file are kept, and overwritten if a resumed run repeats their step.

    Args:
        path: Path of curves.csv.

    Raises:
        UserError: The file exists and is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        if path.is_file():
            try:
                for row in read_curve_rows(path):
                    self.rows[int(row["step"])] = {key: value for key, value in row.items() if value != ""}
            except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
                raise UserError(f"{path}: is damaged; remove it to resume without its earlier curves") from error

    @property
    def name(self) -> str:
        """Name of the logger, which Lightning requires."""
        return "curves"

    @property
    def version(self) -> str:
        """Version of the logger, which Lightning requires."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of a step."""
        row = self.rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update({key: int(value) + 1 if key == "epoch" else f"{float(value):.6g}" for key, value in metrics.items()})

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters, because the config has its own file."""

    @rank_zero_only
    def save(self) -> None:
        """Write all rows to the file, atomically."""
        names = dict.fromkeys(["epoch", "step"])
        for row in self.rows.values():
            names.update(dict.fromkeys(row))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[step] for step in sorted(self.rows))
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the remaining rows."""
        self.save()


def csv_logger(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Return a logger that writes curves.csv in the run's folder, a row per logged step."""
    return CurveLogger(RunFolder(folder).curves_path)


class TensorBoard(Tracker):
    """Tracker that writes event files in the run's folder. A resumed run adds a file."""

    key, title = "tensorboard", "TensorBoard"
    local = ("tensorboard",)
    advice = "disable it with logger.tensorboard=null"
    inner: TensorBoardLogger | None

    def start(self, run_id: str | None) -> tuple[TensorBoardLogger, None]:
        """Open event files. They have no id, because the folder identifies the run."""
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(self.folder, name="tensorboard", version="", default_hp_metric=False), None

    def log_results(self, finished: FinishedRun) -> None:
        """Log all results at the last training step."""
        from matplotlib.image import imread

        assert self.inner is not None
        writer = self.inner.experiment
        for name, value in finished.numbers.items():
            writer.add_scalar(name, value, self.step)
        for name, png in finished.figures.items():
            writer.add_image(f"figures/{name}", imread(io.BytesIO(png))[..., :3], self.step, dataformats="HWC")
        z, metadata = finished.embedding
        if len(z):
            rows = metadata.astype(str).replace(r"[\t\r\n]", " ", regex=True)  # the projector reads tab-separated lines
            writer.add_embedding(z, rows.to_numpy().tolist(), tag="test", metadata_header=list(rows.columns))
        primary: dict[str, Any] = {}
        for name, target in targets_and_mean(finished.metrics).items():
            key = f"test/{name}/{target['primary']}"
            primary |= {key: finished.numbers[key]} if key in finished.numbers else {}
        self.inner.log_hyperparams(dict(self.config), primary)

    def stop(self, failed: bool) -> None:
        """Write the remaining events and close the file."""
        assert self.inner is not None
        self.inner.experiment.close()


def tensorboard_logger(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Return a logger that writes event files in the run's folder, for `tensorboard --logdir outputs`."""
    return TensorBoard(folder, config)
