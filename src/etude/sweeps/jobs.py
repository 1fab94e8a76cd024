"""Jobs of a sweep and their table, jobs.csv."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.config.overrides import quote_value
from etude.errors import UserError
from etude.files.atomic import replacing
from etude.files.journal import Lock
from etude.runs.folder import JOBS, RunFolder, run_of

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
REFUSED = 2  # exit status of a command that the user has to correct


@dataclass
class Job:
    """One run of a sweep.

    Args:
        number: Number of the job in the sweep.
        overrides: Overrides of the job. A resumed sweep matches jobs by their overrides.
        folder: Run folder of the job.
        config: Composed config, plain values.
        flags: Flags of Hydra, such as the folder of further configs.
        extra_overrides: Overrides of Hydra's config, and values that the sweep computes.
        status: One of the statuses above.
        code: Exit status of the process; negative for a signal.
        seconds: Duration of the job.
        score: Monitored score of the task on the validation split.
    """

    number: int
    overrides: list[str]
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    extra_overrides: list[str] = field(default_factory=list)
    status: str = WAITING
    code: int | None = None
    seconds: float | None = None
    score: float | None = None
    error: str = ""
    """Error message of the job, or the reason why it cannot start."""
    already_finished: bool = False
    """Whether the job was finished before this command."""
    sweep: Path | None = None
    """Folder of the sweep."""

    @property
    def name(self) -> str:
        """Path of the run folder relative to the folder of the sweep, with slashes."""
        sweep = self.folder.parent if self.sweep is None else self.sweep
        return self.folder.relative_to(sweep).as_posix()

    @property
    def has_results(self) -> bool:
        """Whether all results are on disk. The process may have failed afterwards."""
        return RunFolder(self.folder).is_finished

    @property
    def arguments(self) -> list[str]:
        """Command-line arguments of the job after `train.py`. A job with a checkpoint is resumed."""
        run = RunFolder(self.folder)
        if run.is_resumable and run.config_path.is_file():
            hydra = [override for override in self.extra_overrides if override.startswith("hydra")]
            return [*self.flags, *hydra, f"resume={quote_value(str(self.folder))}"]
        run_dir = f"hydra.run.dir={quote_value(str(self.folder))}"
        return [*self.flags, *self.overrides, *self.extra_overrides, run_dir]

    @property
    def source_folder(self) -> Path | None:
        """Folder of the run that must finish first, or None.

        Its weights initialise the network, or its training clips are left out.
        """
        source = next((path for path in source_paths(self.config).values() if path), None)
        if source is None:
            return None
        path = Path(source)
        return run_of(path) if path.suffix == ".ckpt" else path

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets. Only scores of the same targets are compared."""
        return tuple((self.config.get("task") or {}).get("targets") or ())

    @property
    def failure_reason(self) -> str:
        """Reason why the job did not finish, in one line."""
        if self.code is not None and self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if not self.error and self.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            return f"ended by {signal.Signals(self.code - 128).name}"
        reason = "; ".join(line.strip() for line in self.error.splitlines() if line.strip())
        return reason.replace(":; ", ": ") or f"ended with status {self.code}"


def source_paths(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the paths of other runs in a config, by key."""
    nodes = {"transfer": "init_from", "data": "leave_out"}
    values = {f"{group}.{key}": (config.get(group) or {}).get(key) for group, key in nodes.items()}
    return {key: None if value is None else str(value) for key, value in values.items()}


COLUMNS = ("number", "folder", "status", "code", "seconds", "score", "reason", "overrides")
STATUS_WHEN_READ = {RUNNING: STOPPED, WAITING: STOPPED}  # the process of the sweep that wrote the file has ended


class JobTable:
    """Table of all jobs of a sweep, including the jobs of earlier commands.

    Args:
        folder: Folder of the sweep.

    Raises:
        UserError: The existing file is not a table of jobs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[Job] = []
        path = folder / JOBS
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    self.jobs = [self._read_job(row) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise UserError(
                    f"{path}: is not a table of jobs; remove it to start the sweep from the beginning"
                ) from error

    def lock(self) -> None:
        """Lock the folder of the sweep until this process ends.

        Raises:
            UserError: Another process runs this sweep.
        """
        self._lock = Lock(self.folder / f".{JOBS}.lock", os.path.relpath(self.folder))
        self._lock.acquire()

    def _read_job(self, row: dict[str, str]) -> Job:
        """Return the job of a row.

        Raises:
            ValueError: A value is invalid, or the folder is not inside the folder of the sweep.
        """
        overrides = json.loads(row["overrides"])
        status = STATUS_WHEN_READ.get(row["status"], row["status"])
        folder = Path(row["folder"])
        if not isinstance(overrides, list) or status not in (DONE, FAILED, STOPPED):
            raise ValueError
        if folder.is_absolute() or ".." in folder.parts or not folder.parts:
            raise ValueError
        return Job(
            int(row["number"]),
            [str(override) for override in overrides],
            self.folder / folder,
            status=status,
            code=int(row["code"]) if row["code"] else None,
            seconds=float(row["seconds"]) if row["seconds"] else None,
            score=float(row["score"]) if row["score"] else None,
            sweep=self.folder,
        )

    def find(self, overrides: Iterable[str]) -> Job | None:
        """Return the job with the same overrides in any order, or None."""
        key = sorted(overrides)
        return next((job for job in self.jobs if sorted(job.overrides) == key), None)

    def free_number(self, preferred: int) -> int:
        """Return the preferred number for a new job, or the next free number if another job has it."""
        taken = {job.number for job in self.jobs}
        return preferred if preferred not in taken else max(taken) + 1

    def add(self, job: Job) -> None:
        """Add a job, and replace an existing job with the same number."""
        others = [other for other in self.jobs if other.number != job.number]
        self.jobs = sorted([*others, job], key=lambda job: job.number)

    def write(self) -> None:
        """Write jobs.csv atomically."""
        with replacing(self.folder / JOBS) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for job in self.jobs:
                row: list[object] = [job.number, job.name, job.status, job.code, job.seconds, job.score]
                row += [job.failure_reason if job.status == FAILED else "", json.dumps(job.overrides)]
                table.writerow(["" if value is None else value for value in row])
