"""Base class of experiment loggers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning.loggers import Logger

from etude.errors import UserError
from etude.files import ownership
from etude.files.atomic import write_text
from etude.loggers.finished_run import FinishedRun
from etude.runs.folder import RunFolder
from etude.system.distributed import first

log = logging.getLogger(__name__)


class Tracker(Logger):
    """A run as somebody else keeps it.

    A tracker that cannot be begun is an error of the user's, before anything is trained. From then on nothing that it
    does ends a run: curves that it does not take are kept and offered again at the end; results that it does not take
    are whole in the run's folder, and one sentence says so. The exit status stays that of the run, 0 for one that is
    finished: what comes after it in a script can rely on its folder.

    Only the first process of a run begins its trackers; in the others they do nothing.

    Args:
        folder: The run's folder.
        config: The run's config.
    """

    key: ClassVar[str]
    """Its option in the group `logger`, and the extra that it needs."""
    title: ClassVar[str]
    """What people call it."""
    advice: ClassVar[str] = ""
    """What to try when it cannot be begun."""
    local: ClassVar[tuple[str, ...]] = ()
    """Folders that its client creates in the run's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder, self.config = folder, config
        self.files = RunFolder(folder)
        self.inner: Logger | None = None
        self.waiting: list[tuple[dict[str, float], int | None]] = []
        self.step, self.failing = 0, False

    @abstractmethod
    def start(self, known: str | None) -> tuple[Logger, str | None]:
        """Begin a run, or go on with one.

        Args:
            known: What it is called by the tracker, when it goes on.

        Returns:
            Lightning's logger of it, and its name for `known`.
        """

    @abstractmethod
    def receive(self, finished: FinishedRun) -> None:
        """Hand over what a finished run has come to."""

    def stop(self, failed: bool) -> None:
        """Say that the run is over, and how it ended."""

    def begin(self) -> None:
        """Begin, and keep in the run's folder what the tracker calls the run.

        Raises:
            UserError: It cannot be begun: a package is missing, or nobody answers.
        """
        for local in self.local:
            ownership.record(self.folder / local)  # checked when the folder was opened; the tracker creates it
        try:
            self.inner, name = self.start(self.files.read_trackers().get(self.key))
        except ModuleNotFoundError as error:
            extra = f"logger={self.key} needs the extra etude[{self.key}]: pip install 'etude[{self.key}]'"
            raise UserError(extra) from error
        except UserError:
            raise
        except Exception as error:
            why = f"{self.title} does not begin the run ({reason(error)}); {self.advice}"
            raise UserError(f"logger={self.key}: {why}") from error
        if name is not None:
            known = self.files.read_trackers() | {self.key: name}
            write_text(self.files.trackers_path, json.dumps(known) + "\n")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Losses, scores and learning rate of a step. Epochs count from 1, as in the log and the report."""
        if self.inner is None:
            return
        self.waiting.append(({k: float(v) + (k == "epoch") for k, v in metrics.items()}, step))
        self.step = max(self.step, step or 0)
        if not self.failing:
            self._try(self._send, "the training goes on without it, and its curves are offered again at the end")

    def hand_over(self, finished: FinishedRun) -> None:
        """Give the tracker what the folder of a finished run holds."""

        def give() -> None:
            self._send()
            self.receive(finished)

        if self.inner is not None:
            self.failing = False
            self._try(give, f"it did not get all results; they are in {os.path.relpath(self.folder)}")

    def end(self, failed: bool) -> None:
        """The run is over."""
        if self.inner is not None and not self._try(lambda: self.stop(failed), "it does not know how the run ended"):
            log.debug("%s", self.title, exc_info=True)
        self.inner = None

    def _send(self) -> None:
        while self.waiting:
            self.send(*self.waiting[0])
            del self.waiting[0]

    def send(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Give the tracker some numbers of a step, by names that it takes."""
        assert self.inner is not None
        self.inner.log_metrics(dict(metrics), step)

    def _try(self, act: Callable[[], None], consequence: str) -> bool:
        """Do it; one sentence when it fails, and none when the tracker has failed before."""
        try:
            act()
        except Exception as error:
            if not self.failing:
                log.warning("%s: %s; %s", self.title, reason(error), consequence)
            self.failing = True
            return False
        return True

    # what Lightning asks of a logger

    @property
    def name(self) -> str:
        """Lightning asks for one."""
        return self.key

    @property
    def version(self) -> str:
        """Lightning asks for one."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config is handed over when the run begins."""


def shortened(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters; a longer one ends in a code that is its own.

    Args:
        text: Such as a tag.
        limit: At least 10.
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def reason(error: BaseException) -> str:
    """Return the first line of what an error says, without a full stop; of several faults the first."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and "validation error" in lines[0]:  # pydantic's count of them
        lines = [" ".join(line.strip() for line in lines[1:3])]
    return (lines[0] if lines else type(error).__name__).strip().rstrip(".")


@contextmanager
def tracked(loggers: Sequence[Logger]) -> Iterator[list[Tracker]]:
    """Begin the trackers among the loggers of a run, and tell them how it ended: whatever is raised, it failed."""
    trackers = [logger for logger in loggers if isinstance(logger, Tracker)] if first() else []
    failed = True
    try:
        for tracker in trackers:
            tracker.begin()
        yield trackers
        failed = False
    finally:
        for tracker in trackers:
            tracker.end(failed)
