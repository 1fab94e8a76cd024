"""Scheduling of jobs over processes and GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.errors import UserError
from etude.experiment.provenance import FAULT
from etude.runs.folder import RunFolder, monitored_score
from etude.sweeps.jobs import DONE, FAILED, REFUSED, RUNNING, STOPPED, WAITING, Job, JobTable
from etude.sweeps.processes import Starter
from etude.sweeps.progress import STATUS, ProgressBoard, told
from etude.system import signals
from etude.system.machine import usable_cores

ON_GPUS = ("auto", "gpu", "cuda")


def visible() -> list[str]:
    """The GPUs of this machine that a process may use, without waking any of them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name.strip() for name in said.split(",") if name.strip() and name.strip() != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(line for line in listing.splitlines() if line.startswith("GPU"))]


class Pool:
    """GPUs that jobs share out.

    Args:
        names: Of the GPUs, as CUDA_VISIBLE_DEVICES has them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.taken: dict[int, list[str]] = {}

    def wanted(self, trainer: Mapping[str, Any]) -> int:
        """How many GPUs a trainer needs, 0 where it trains on a CPU.

        Raises:
            UserError: There are not as many.
        """
        if not self.names or trainer.get("accelerator", "auto") not in ON_GPUS:
            return 0
        devices = trainer.get("devices", "auto")
        if isinstance(devices, list):
            raise UserError("trainer.devices: a sweep shares the GPUs out; say how many a job gets, not which")
        count = len(self.names) if devices in ("auto", -1, "-1") else int(devices)
        if count > len(self.names):
            raise UserError(f"trainer.devices={count}: there are {len(self.names)} GPUs here; ask for fewer")
        return count

    def take(self, number: int, count: int) -> list[str] | None:
        """Give a job its GPUs; none when not enough are free."""
        busy = {name for names in self.taken.values() for name in names}
        free = [name for name in self.names if name not in busy]
        if len(free) < count:
            return None
        self.taken[number] = free[:count]
        return self.taken[number]

    def give(self, number: int) -> None:
        """Take a job's GPUs back."""
        self.taken.pop(number, None)


THREADS = "OMP_NUM_THREADS"


class Sweep:
    """Runs jobs to their ends, each in a process of its own; asked once for all of them, or once for each batch.

    A job that begins from the weights of another waits for it. One that fails is reported and the others go on.

    Args:
        ledger: What is kept of the jobs.
        many: How many run at a time; none: as many as there are GPUs, or one.
        pool: The GPUs.
        fork: Whether processes are forked, see `Starter`.
        total: How many jobs there will be, where that is known before.
    """

    def __init__(self, ledger: JobTable, many: int | None, pool: Pool, fork: bool, total: int = 0) -> None:
        self.ledger, self.pool, self.fork = ledger, pool, fork
        self.asked, self.limit = many, many or len(pool.names) or 1
        self.starter: Starter | None = None
        self.board = ProgressBoard(ledger, self.limit, total)
        self.jobs: Sequence[Job] = []
        self.running: dict[int, Job] = {}
        self.stopping = 0
        self.interruption: KeyboardInterrupt | None = None

    def warm(self) -> Starter:
        """Begin with the imports, which take seconds, while jobs are still being composed."""
        self.starter = self.starter or Starter(self.fork, environment(self.limit, self.pool))
        return self.starter

    def close(self) -> None:
        """Let go of what starts jobs."""
        if self.starter is not None:
            self.starter.close()
            self.starter = None

    def run(self, jobs: Sequence[Job]) -> None:
        """Run some jobs; those that are done are left alone.

        Raises:
            KeyboardInterrupt: The sweep was interrupted; all jobs have ended.
        """
        self.jobs = jobs
        for job in jobs:
            self.ledger.put(job)
        self.ledger.write()
        self.board.open(jobs)
        for job in jobs:
            if job.status == WAITING and job.reason:  # said before anything is trained
                self.fail(job, job.reason)
        try:
            if any(job.status == WAITING for job in jobs):
                self.loop(self.warm())
        finally:
            self.ledger.write()
            self.board.close()
        failed = [job for job in jobs if job.status == FAILED]
        if failed:
            refused = all(job.code == REFUSED for job in failed)
            STATUS.status = REFUSED if refused and STATUS.status != 1 else 1

    def loop(self, starter: Starter) -> None:
        """Until nothing runs and nothing may start."""
        while True:
            try:
                while not self.stopping and self.begin(starter):
                    pass  # what has failed to start may be what another waits for
                if not self.running:
                    break
                self.end(*starter.wait())
            except KeyboardInterrupt as error:
                self.interruption = self.interruption or error
                self.stop(starter)
        if self.interruption is not None:
            for job in self.jobs:
                if job.status == WAITING:
                    job.status = STOPPED
            self.close()
            signals.restore_received()
            raise self.interruption
        for job in self.jobs:
            if job.status == WAITING:
                self.fail(job, f"it begins from the weights of {job.source}, which begins from its own")

    def begin(self, starter: Starter) -> bool:
        """Start whatever may start now; whether anything has changed."""
        before = [job.status for job in self.jobs]
        for job in self.jobs:
            if len(self.running) < self.limit and job.status == WAITING and self.ready(job):
                try:
                    self.start(job, starter)
                except UserError as error:
                    self.fail(job, str(error))
        return before != [job.status for job in self.jobs]

    def start(self, job: Job, starter: Starter) -> None:
        """Start a job, if there are devices for it.

        Raises:
            UserError: It cannot be run.
        """
        count = self.pool.wanted(job.config.get("trainer") or {})
        if not count and self.asked is None and any(not self.pool.taken.get(number) for number in self.running):
            return  # on a CPU one has all cores, unless somebody says otherwise
        names = self.pool.take(job.number, count)
        if names is None:
            return
        more = {"CUDA_VISIBLE_DEVICES": ",".join(names)} if self.pool.names else {}
        more[FAULT] = str(self.fault(job).absolute())
        words = job.words
        job.status, job.code = RUNNING, None
        self.running[job.number] = job
        self.board.started(job, again="resume=" in words[-1])
        starter.start(job.number, words, self.board.log(job), more)
        self.ledger.write()

    def ready(self, job: Job) -> bool:
        """Whether nothing is in the way of a job: the run whose weights it begins from is there, or will never be."""
        source = job.source
        other = next((one for one in self.jobs if source and one is not job and _same(one.folder, source)), None)
        if other is None or other.status == DONE:
            return True
        if other.status in (FAILED, STOPPED):
            self.fail(job, f"it begins from the weights of {other.name}, which has none")
        return False

    def fail(self, job: Job, why: str) -> None:
        """A job that cannot be started."""
        job.status, job.code, job.reason = FAILED, REFUSED, why
        self.board.ended(job)
        self.ledger.write()

    def end(self, number: int, code: int, seconds: float) -> None:
        """A job is over."""
        job = self.running.pop(number)
        self.pool.give(number)
        job.code, job.seconds = code, round(seconds, 2)
        job.reason = told(self.fault(job))
        job.status = DONE if code == 0 or (self.stopping and job.measured) else STOPPED if self.stopping else FAILED
        if job.status == DONE:
            with suppress(UserError):  # a file of it is damaged, which its comparison says
                job.score = monitored_score(RunFolder(job.folder))
        self.board.ended(job)
        self.ledger.write()

    def fault(self, job: Job) -> Path:
        """Where a job leaves what ended it."""
        return self.ledger.folder / f".{job.number}.fault"

    def stop(self, starter: Starter) -> None:
        """Let all jobs end where they can be resumed; at a second signal, kill them."""
        self.stopping += 1
        if self.running:
            again = "they are killed" if self.stopping > 1 else "they end where they can go on; Ctrl-C again kills them"
            self.board.say(f"interrupted with {len(self.running)} running: {again}")
        starter.signal("SIGKILL" if self.stopping > 1 else "SIGINT")
        if self.stopping == 1:
            signals.allow_another()  # until here a second signal ends the process, and the jobs with it


def environment(many: int, pool: Pool) -> dict[str, str]:
    """What all jobs find in their environment: the way to modules beside the script, and their share of the cores."""
    known = dict(os.environ)
    paths = [sys.path[0], *known.get("PYTHONPATH", "").split(os.pathsep)]
    known["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(str(Path(path).absolute()) for path in paths if path))
    if many > 1 and not pool.names:  # threads of several jobs would get in each other's way
        known.setdefault(THREADS, str(max(1, usable_cores() // many)))
    return known


def _same(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute()
