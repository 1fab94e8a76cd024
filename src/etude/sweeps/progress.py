"""Progress and status of a sweep."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError
from etude.evaluation.formatting import format_count, format_duration, format_number
from etude.experiment.provenance import FAULT
from etude.files.atomic import discard, open_file, remove, write_text
from etude.files.ownership import subfolder
from etude.runs.folder import MULTIRUN
from etude.sweeps.jobs import DONE, FAILED, RUNNING, STOPPED, Job, JobTable
from etude.system.distributed import first

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass
class SweepStatus:
    """How the sweep of this process went.

    Args:
        folder: The folder that was made for it.
        begun: Whether a job of it was started, or was found finished.
        status: 0; 1 where a job failed; 2 where all that failed were refused.
        advice: How to go on with it, for its last line.
    """

    folder: Path | None = None
    begun: bool = False
    status: int = 0
    advice: str = ""


STATUS = SweepStatus()
"""Of this process: Hydra hands nothing from a launcher to whoever called it."""


def forget() -> None:
    """Begin anew, before another command of the same process."""
    vars(STATUS).update(vars(SweepStatus()))


def tell(why: str) -> None:
    """Leave what ended this run to the sweep that it is a job of, if it is one."""
    if (path := os.environ.get(FAULT)) and first():
        with suppress(OSError, UserError):
            write_text(Path(path), why)


def told(path: Path) -> str:
    """What a job left there, once."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
    finally:
        remove(path)


def tidy() -> None:
    """Take away the folder of a sweep that never began: Hydra puts its own config there first."""
    folder = STATUS.folder
    if folder is None or STATUS.begun:
        return
    if folder.is_dir() and not any(path.name != MULTIRUN and path.name[0] != "." for path in folder.iterdir()):
        discard(folder)


OVER = (DONE, FAILED, STOPPED)


class ProgressBoard:
    """Says what happens, a plain line each; on a terminal with several jobs at a time, over a bar of the whole.

    Args:
        ledger: All jobs of the sweep, also those of batches before.
        many: How many run at a time; their output goes into files when it is more than one.
        total: How many jobs there will be, where that is known before.
    """

    def __init__(self, ledger: JobTable, many: int, total: int = 0) -> None:
        self.ledger, self.many, self.total = ledger, many, total
        self.logs = ledger.folder / "logs" if many > 1 else None
        self.begun = time.monotonic()
        self._mine: dict[int, Job] = {}
        self._told = False
        self._bar: Progress | None = None
        self._task: Any = None

    def open(self, jobs: Sequence[Job]) -> None:
        """Some jobs are about to begin."""
        self._mine |= {job.number: job for job in jobs}
        if not self._told:
            self._told = True
            found, place = sum(job.found for job in jobs), os.path.relpath(self.ledger.folder)
            self.say(
                f"sweep: {format_count(self.count(), 'job')} in {place}" + (f", {found} done before" if found else "")
            )
            if self.logs is not None:
                subfolder(self.logs)
                self.say(f"their output is in {os.path.relpath(self.logs)}")
        if self.logs is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=self.count())
            self._bar.start()
            self._update()

    def log(self, job: Job) -> Path | None:
        """Where a job writes its output; none: it is seen."""
        if self.logs is None:
            return None
        path = self.logs / f"{job.name.replace('/', '_')}.log"
        open_file(path, "ab").close()  # checked and recorded here; the process of the job appends to it
        return path

    @property
    def jobs(self) -> list[Job]:
        """What is counted: of a search all that there were, of a grid those that this command asks for."""
        return self.ledger.jobs if self.total else list(self._mine.values())

    def count(self) -> int:
        """How many jobs there are, or will be."""
        return max(self.total, len(self.jobs))

    def started(self, job: Job, again: bool) -> None:
        """A job begins."""
        words = shlex.join(word for word in job.overrides if not word.startswith("sweep."))
        self.say(f"{'going on with' if again else 'job'} {job.name}: {words}")
        self._update()

    def ended(self, job: Job) -> None:
        """A job is over."""
        if job.status == DONE:
            score = "" if job.score is None else f", {format_number(job.score)}"
            said = f"is done in {format_duration(job.seconds)}{score}"
        else:
            said = "was stopped" if job.status == STOPPED else f"FAILED: {job.why}"
        self.say(f"{job.name} {said}; {self.state(job.targets)}")
        self._update()

    def say(self, line: str) -> None:
        """A line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def state(self, targets: tuple[str, ...] | None = None) -> str:
        """The sweep in a clause, with the best of all tasks or of the one with these targets."""
        count = Counter(job.status for job in self.jobs)
        said = f"{count[DONE]} of {self.count()} done"
        if count[FAILED]:
            said += f", {count[FAILED]} failed"
        if count[RUNNING] and self.many > 1:
            said += f", {count[RUNNING]} running"
        if (left := self.left()) is not None:
            said += f", about {format_duration(left)} left"
        return said + (f"; best {best}" if (best := self.best(targets)) else "")

    def left(self) -> float | None:
        """Seconds that the rest will take if it is as those before; none where none is known or nothing is left."""
        jobs = self.jobs
        rest = self.count() - sum(job.status in OVER for job in jobs)
        took = [job.seconds for job in jobs if job.seconds and job.status in (DONE, FAILED)]
        return math.fsum(took) / len(took) * rest / min(self.many, rest) if took and rest else None

    def best(self, only: tuple[str, ...] | None = None) -> str:
        """The best score of each set of targets, or of one: scores of others do not compare."""
        found: dict[tuple[str, ...], Job] = {}
        for job in self.jobs:
            if not job.config or job.score is None or job.status != DONE or math.isnan(job.score):
                continue
            sign = -1 if (job.config.get("task") or {}).get("mode") == "min" else 1
            other = found.get(job.targets)
            if other is None or sign * job.score > sign * (other.score or 0):
                found[job.targets] = job
        named = {targets: job for targets, job in found.items() if only in (None, targets)}
        return ", ".join(
            f"{'+'.join(targets)} {format_number(job.score)} ({job.name})" for targets, job in named.items()
        )

    def close(self) -> None:
        """No more jobs for now; when that is all of them, what failed once more."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        over = [job for job in self.jobs if job.status in OVER]
        if len(over) < self.count():
            return
        self.say(f"sweep: {self.state()}; {format_duration(time.monotonic() - self.begun)} in all")
        for job in over:
            if job.status == FAILED:
                where = f" ({os.path.relpath(path)})" if (path := self.log(job)) and path.is_file() else ""
                self.say(f"  failed: {job.name}: {job.why}{where}")

    def _update(self) -> None:
        if self._bar is not None:
            over = sum(job.status in OVER for job in self.jobs)
            self._bar.update(self._task, completed=over, description=self.state())
