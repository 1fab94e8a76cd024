"""Jobs of a sweep and their table, jobs.csv."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.config.overrides import quote_value
from etude.errors import UserError
from etude.files.atomic import replacing
from etude.files.lock import Lock
from etude.runs.folder import JOBS, RunFolder, run_of

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
REFUSED = 2  # exit status of a command that has to be mended


@dataclass
class Job:
    """One point of a sweep.

    Args:
        number: Its place in the sweep.
        overrides: What it is told, and known by when the sweep is gone on with.
        folder: Its run folder.
        config: Its composed config, plain values.
        flags: Hydra's own flags, such as the folder of further configs.
        settings: Overrides of Hydra's own values, and what its sweep fills in.
        status: How it is.
        code: Exit status of its process; of a signal, negative.
        seconds: From its start to its end.
        score: The monitor of its task on the validation part.
    """

    number: int
    overrides: list[str]
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    status: str = WAITING
    code: int | None = None
    seconds: float | None = None
    score: float | None = None
    reason: str = ""
    """What ended it, or why it cannot start."""
    found: bool = False
    """Whether it was done before this command."""
    sweep: Path | None = None
    """The folder of its sweep."""

    @property
    def name(self) -> str:
        """Path of its folder below that of the sweep, with slashes."""
        sweep = self.folder.parent if self.sweep is None else self.sweep
        return self.folder.relative_to(sweep).as_posix()

    @property
    def measured(self) -> bool:
        """Whether its results are on disk, however its process ended after that."""
        return RunFolder(self.folder).is_finished

    @property
    def words(self) -> list[str]:
        """The command line of its process, after `train.py`; where it has a checkpoint, it goes on from that."""
        run = RunFolder(self.folder)
        if run.is_resumable and run.config_path.is_file():
            own = [word for word in self.settings if word.startswith("hydra")]
            return [*self.flags, *own, f"resume={quote_value(str(self.folder))}"]
        return [*self.flags, *self.overrides, *self.settings, f"hydra.run.dir={quote_value(str(self.folder))}"]

    @property
    def source(self) -> Path | None:
        """The folder of the run whose weights it begins from."""
        said = (self.config.get("transfer") or {}).get("init_from")
        if not said:
            return None
        path = Path(str(said))
        return run_of(path) if path.suffix == ".ckpt" else path

    @property
    def targets(self) -> tuple[str, ...]:
        """What it learns: scores of the same targets can be compared."""
        return tuple((self.config.get("task") or {}).get("targets") or ())

    @property
    def why(self) -> str:
        """Why it did not come to its end, in a few words."""
        if self.code is not None and self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if not self.reason and self.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            return f"ended by {signal.Signals(self.code - 128).name}"
        said = "; ".join(line.strip() for line in self.reason.splitlines() if line.strip())
        return said.replace(":; ", ": ") or f"ended with status {self.code}"


COLUMNS = ("number", "folder", "status", "code", "seconds", "score", "why", "overrides")
ANEW = {RUNNING: STOPPED, WAITING: STOPPED}  # what a file says of jobs whose sweep is gone


class JobTable:
    """The jobs that a sweep has had.

    Args:
        folder: Of the sweep.

    Raises:
        UserError: The file that is there is not a sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[Job] = []
        path = folder / JOBS
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    self.jobs = [self._job(row) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise UserError(f"{path}: is not the list of a sweep's jobs; take it away to begin anew") from error

    def lock(self) -> None:
        """Keep other processes out until this one ends.

        Raises:
            UserError: Another one runs this sweep.
        """
        self._lock = Lock(self.folder / f".{JOBS}.lock", os.path.relpath(self.folder))
        self._lock.acquire()

    def _job(self, row: dict[str, str]) -> Job:
        overrides = json.loads(row["overrides"])
        status = ANEW.get(row["status"], row["status"])
        folder = Path(row["folder"])
        if not isinstance(overrides, list) or status not in (DONE, FAILED, STOPPED):
            raise ValueError
        if folder.is_absolute() or ".." in folder.parts or not folder.parts:
            raise ValueError
        return Job(
            int(row["number"]),
            [str(word) for word in overrides],
            self.folder / folder,
            status=status,
            code=int(row["code"]) if row["code"] else None,
            seconds=float(row["seconds"]) if row["seconds"] else None,
            score=float(row["score"]) if row["score"] else None,
            sweep=self.folder,
        )

    def known(self, overrides: Iterable[str]) -> Job | None:
        """The job that was told the same."""
        asked = sorted(overrides)
        return next((job for job in self.jobs if sorted(job.overrides) == asked), None)

    def number(self, wanted: int) -> int:
        """A number for a job that was not there yet: the wanted one, or the next that is free."""
        taken = {job.number for job in self.jobs}
        return wanted if wanted not in taken else max(taken) + 1

    def put(self, job: Job) -> None:
        """Take a job in, in the place of one of its number."""
        self.jobs = sorted([*(one for one in self.jobs if one.number != job.number), job], key=lambda one: one.number)

    def write(self) -> None:
        """Put the file on disk, whole or not at all."""
        with replacing(self.folder / JOBS) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for job in self.jobs:
                row: list[object] = [job.number, job.name, job.status, job.code, job.seconds, job.score]
                row += [job.why if job.status == FAILED else "", json.dumps(job.overrides)]
                table.writerow(["" if value is None else value for value in row])
