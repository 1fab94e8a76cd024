"""jobs.csv, beside the jobs of a sweep: what each was told and how it went, so that the sweep can be gone on with."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path

from etude.errors import UserError
from etude.files.atomic import replacing
from etude.sweeps.job import DONE, FAILED, RUNNING, STOPPED, WAITING, Job

NAME = "jobs.csv"
COLUMNS = ("number", "folder", "status", "code", "seconds", "score", "why", "overrides")
ANEW = {RUNNING: STOPPED, WAITING: STOPPED}  # what a file says of jobs whose sweep is gone


class Ledger:
    """The jobs that a sweep has had.

    Args:
        folder: Of the sweep.

    Raises:
        UserError: The file that is there is not a sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[Job] = []
        path = folder / NAME
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
        from etude.files.lock import Lock

        self._lock = Lock(self.folder / f".{NAME}.lock", os.path.relpath(self.folder))
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
        with replacing(self.folder / NAME) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for job in self.jobs:
                row: list[object] = [job.number, job.name, job.status, job.code, job.seconds, job.score]
                row += [job.why if job.status == FAILED else "", json.dumps(job.overrides)]
                table.writerow(["" if value is None else value for value in row])
