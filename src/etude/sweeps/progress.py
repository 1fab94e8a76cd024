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

from etude.config.overrides import quote_value
from etude.errors import UserError
from etude.evaluation.formatting import format_count, format_duration, format_number
from etude.experiment.provenance import ERROR_FILE
from etude.files.atomic import open_file, remove, remove_created, write_text
from etude.files.ownership import subfolder
from etude.runs.folder import MULTIRUN
from etude.sweeps.jobs import DONE, FAILED, RUNNING, STOPPED, Job, JobTable
from etude.system.distributed import is_rank_zero

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.progress import Progress


@dataclass
class SweepStatus:
    """Status of the sweep of this process.

    Args:
        folder: Folder that was created for the sweep.
        started: Whether a job was started, or a finished job was found.
        exit_status: 0; 1 if a job failed; 2 if all failed jobs were refused.
        advice: How to resume the sweep, as the end of its last message.
    """

    folder: Path | None = None
    started: bool = False
    exit_status: int = 0
    advice: str = ""


STATUS = SweepStatus()
"""Status of this process. Hydra passes no values from a launcher to its caller."""


def reset_status() -> None:
    """Reset the status before another command of the same process."""
    vars(STATUS).update(vars(SweepStatus()))


def report_error(message: str) -> None:
    """Write the error message of this run to the file that its sweep reads, if the run is a job of a sweep."""
    if (path := os.environ.get(ERROR_FILE)) and is_rank_zero():
        with suppress(OSError, UserError):
            write_text(Path(path), message)


def pop_error(path: Path) -> str:
    """Read and remove the error message of a job. Return "" if there is no message."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
    finally:
        remove(path)


def discard_unused_folder() -> None:
    """Remove the folder of a sweep that did not start. Hydra writes its own config there first."""
    folder = STATUS.folder
    if folder is None or STATUS.started:
        return
    if folder.is_dir() and not any(path.name != MULTIRUN and path.name[0] != "." for path in folder.iterdir()):
        remove_created(folder)


def fix_folder(hydra: DictConfig, folder: str) -> None:
    """Add the folder of a sweep to the overrides of its jobs. In another process, its config would create a new one.

    Args:
        hydra: Hydra's node in the config of the sweep, which is changed.
        folder: The folder.
    """
    from omegaconf import read_write

    with read_write(hydra):
        others = [override for override in hydra.overrides.hydra if not override.startswith("hydra.sweep.dir=")]
        hydra.overrides.hydra = [*others, f"hydra.sweep.dir={quote_value(folder)}"]


ENDED = (DONE, FAILED, STOPPED)


class SweepProgress:
    """Progress of a sweep, a line for each event.

    On a terminal with parallel jobs, a progress bar of the sweep is below the lines.

    Args:
        table: All jobs of the sweep, including jobs of earlier batches.
        n_parallel: Number of parallel jobs. With more than one, the output of the jobs is written to files.
        n_total: Expected number of jobs, or 0 if it is unknown.
    """

    def __init__(self, table: JobTable, n_parallel: int, n_total: int = 0) -> None:
        self.table, self.n_parallel, self.n_total = table, n_parallel, n_total
        self.logs = table.folder / "logs" if n_parallel > 1 else None
        self.start_time = time.monotonic()
        self._requested: dict[int, Job] = {}
        self._header_printed = False
        self._bar: Progress | None = None
        self._task: Any = None

    def open(self, jobs: Sequence[Job]) -> None:
        """Add a batch of jobs that is about to start."""
        self._requested |= {job.number: job for job in jobs}
        if not self._header_printed:
            self._header_printed = True
            n_finished, folder = sum(job.already_finished for job in jobs), os.path.relpath(self.table.folder)
            finished = f", {n_finished} already finished" if n_finished else ""
            self.print_line(f"sweep: {format_count(self.n_jobs, 'job')} in {folder}{finished}")
            if self.logs is not None:
                subfolder(self.logs)
                self.print_line(f"the output of the jobs is in {os.path.relpath(self.logs)}")
        if self.logs is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=self.n_jobs)
            self._bar.start()
            self._update_bar()

    def log_path(self, job: Job) -> Path | None:
        """Return the file for the output of a job, or None if the job writes to the output of this process."""
        if self.logs is None:
            return None
        path = self.logs / f"{job.name.replace('/', '_')}.log"
        open_file(path, "ab").close()  # checked and recorded here; the process of the job appends to it
        return path

    @property
    def jobs(self) -> list[Job]:
        """Jobs that are counted, which are all jobs of a search but only the requested jobs of a grid."""
        return self.table.jobs if self.n_total else list(self._requested.values())

    @property
    def n_jobs(self) -> int:
        """Number of existing or expected jobs."""
        return max(self.n_total, len(self.jobs))

    def report_start(self, job: Job, resumed: bool) -> None:
        """Print that a job starts."""
        overrides = shlex.join(override for override in job.overrides if not override.startswith("sweep."))
        self.print_line(f"{'resuming' if resumed else 'job'} {job.name}: {overrides}")
        self._update_bar()

    def report_end(self, job: Job) -> None:
        """Print how a job ended."""
        if job.status == DONE:
            score = "" if job.score is None else f", validation score {format_number(job.score)}"
            result = f"finished in {format_duration(job.seconds)}{score}"
        else:
            result = "was stopped" if job.status == STOPPED else f"FAILED: {job.failure_reason}"
        self.print_line(f"{job.name} {result}; {self.summary(job.targets)}")
        self._update_bar()

    def print_line(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def summary(self, targets: tuple[str, ...] | None = None) -> str:
        """Return the state of the sweep as a clause, with the best scores of all tasks or only of these targets."""
        count = Counter(job.status for job in self.jobs)
        text = f"{count[DONE]} of {self.n_jobs} done"
        if count[FAILED]:
            text += f", {count[FAILED]} failed"
        if count[RUNNING] and self.n_parallel > 1:
            text += f", {count[RUNNING]} running"
        if (seconds := self.remaining_seconds()) is not None:
            text += f", about {format_duration(seconds)} left"
        return text + (f"; best validation score: {best}" if (best := self.best_scores(targets)) else "")

    def remaining_seconds(self) -> float | None:
        """Estimate the remaining time from the mean duration of ended jobs. None if unknown or if no job is left."""
        jobs = self.jobs
        n_left = self.n_jobs - sum(job.status in ENDED for job in jobs)
        durations = [job.seconds for job in jobs if job.seconds and job.status in (DONE, FAILED)]
        if not durations or not n_left:
            return None
        return math.fsum(durations) / len(durations) * n_left / min(self.n_parallel, n_left)

    def best_scores(self, only: tuple[str, ...] | None = None) -> str:
        """Return the best score for each set of targets, or for one given set. Scores of sets are not compared.

        The result is "" for jobs of several folds, whose validation clips differ.
        """
        data = [job.config.get("data") or {} for job in self.jobs if job.config]
        if len({str((node.get("split") or {}).get("fold")) for node in data}) > 1:
            return ""
        best: dict[tuple[str, ...], Job] = {}
        for job in self.jobs:
            if not job.config or job.score is None or job.status != DONE or math.isnan(job.score):
                continue
            sign = -1 if (job.config.get("task") or {}).get("mode") == "min" else 1
            other = best.get(job.targets)
            if other is None or sign * job.score > sign * (other.score or 0):
                best[job.targets] = job
        selected = {targets: job for targets, job in best.items() if only in (None, targets)}
        return ", ".join(
            f"{'+'.join(targets)} {format_number(job.score)} ({job.name})" for targets, job in selected.items()
        )

    def close(self) -> None:
        """End a batch of jobs. After the last one, print the summary and all failed jobs, in a line for each reason."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        ended = [job for job in self.jobs if job.status in ENDED]
        if len(ended) < self.n_jobs:
            return
        self.print_line(f"sweep: {self.summary()}; {format_duration(time.monotonic() - self.start_time)} in total")
        failed: dict[str, list[Job]] = {}
        for job in ended:
            if job.status == FAILED:
                failed.setdefault(job.failure_reason, []).append(job)
        for reason, jobs in failed.items():
            path = self.log_path(jobs[0])  # the logs of the others end with the same reason
            log = f" ({os.path.relpath(path)})" if path and path.is_file() else ""
            self.print_line(f"  failed: {', '.join(job.name for job in jobs)}: {reason}{log}")

    def _update_bar(self) -> None:
        if self._bar is not None:
            n_ended = sum(job.status in ENDED for job in self.jobs)
            self._bar.update(self._task, completed=n_ended, description=self.summary())
