"""Scheduling of jobs over processes and GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.config.instantiate import make, resolve
from etude.errors import UserError
from etude.experiment.provenance import ERROR_FILE
from etude.runs.folder import RunFolder, find_weights, monitored_score
from etude.sweeps.jobs import DONE, FAILED, REFUSED, RUNNING, STOPPED, WAITING, Job, JobTable, source_paths
from etude.sweeps.processes import JobProcesses
from etude.sweeps.progress import STATUS, SweepProgress, pop_error
from etude.system import signals
from etude.system.machine import usable_cores
from etude.system.streams import silent_log

GPU_ACCELERATORS = ("auto", "gpu", "cuda")


def visible_gpus() -> list[str]:
    """Return the GPUs that a process on this machine may use, without initialising them."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is not None:
        return [name.strip() for name in variable.split(",") if name.strip() and name.strip() != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(line for line in listing.splitlines() if line.startswith("GPU"))]


class GpuPool:
    """GPUs that are assigned to jobs, each to at most one job at a time.

    Args:
        names: Names of the GPUs as in CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.assigned: dict[int, list[str]] = {}

    def required(self, trainer: Mapping[str, Any]) -> int:
        """Return the number of GPUs that a trainer needs, which is 0 on a CPU.

        Raises:
            UserError: The pool has fewer GPUs, or the trainer selects GPUs by index.
        """
        if not self.names or trainer.get("accelerator", "auto") not in GPU_ACCELERATORS:
            return 0
        devices = trainer.get("devices", "auto")
        if isinstance(devices, list):
            raise UserError(
                "trainer.devices: a sweep assigns GPUs to its jobs; give the number of GPUs per job, not GPU indices"
            )
        count = len(self.names) if devices in ("auto", -1, "-1") else int(devices)
        if count > len(self.names):
            available = "GPU is" if len(self.names) == 1 else "GPUs are"
            raise UserError(f"trainer.devices={count}: only {len(self.names)} {available} available; use fewer")
        return count

    def acquire(self, number: int, count: int) -> list[str] | None:
        """Assign GPUs to a job and return them, or None if too few are free."""
        busy = {name for names in self.assigned.values() for name in names}
        free = [name for name in self.names if name not in busy]
        if len(free) < count:
            return None
        self.assigned[number] = free[:count]
        return self.assigned[number]

    def release(self, number: int) -> None:
        """Release the GPUs of a job."""
        self.assigned.pop(number, None)


def check_inputs(jobs: Sequence[Job]) -> None:
    """Check that the encoder weights, the earlier runs and the targets of jobs exist, before the first job starts.

    Args:
        jobs: All jobs. Those that are finished or cannot start are not checked.

    Raises:
        UserError: Something is missing. The jobs that need it would fail, some of them after their clips were decoded.
    """
    from etude.data.collection import check_targets  # heavy: numpy

    folders = [job.folder.absolute() for job in jobs]
    collections: dict[str, Any] = {}
    for job in jobs:
        if job.already_finished or job.error or RunFolder(job.folder).is_resumable:
            continue
        if job.config["backbone"].get("weights") is not None:
            resolve(job.config["backbone"]["_target_"]).check_weights(job.config["backbone"])
        for key, path in source_paths(job.config).items():
            if path and not any(Path(path).absolute().is_relative_to(folder) for folder in folders):
                try:
                    find_weights(Path(path))
                except UserError as error:
                    raise UserError(f"{key}: {error}") from error
        source = job.config["data"]["source"]
        name = json.dumps(source, sort_keys=True)
        if name not in collections:
            with silent_log():
                collections[name] = make(source)
        check_targets(collections[name], job.config["task"]["targets"])


THREADS = "OMP_NUM_THREADS"


class Sweep:
    """Scheduler that runs each job in a separate process, in one batch or in several.

    A job that starts from the weights of another job waits for it. If a job fails, the other jobs continue.

    Args:
        table: Table of the jobs.
        n_parallel: Number of parallel jobs. None means the number of GPUs, or one without GPUs.
        pool: GPUs.
        fork: Whether processes are forked, see `JobProcesses`.
        n_total: Expected number of jobs, or 0 if it is unknown.
    """

    def __init__(self, table: JobTable, n_parallel: int | None, pool: GpuPool, fork: bool, n_total: int = 0) -> None:
        self.table, self.pool, self.fork = table, pool, fork
        self.requested_parallel, self.max_parallel = n_parallel, n_parallel or len(pool.names) or 1
        self.processes: JobProcesses | None = None
        self.progress = SweepProgress(table, self.max_parallel, n_total)
        self.jobs: Sequence[Job] = []
        self.running: dict[int, Job] = {}
        self.n_interruptions = 0
        self.interruption: KeyboardInterrupt | None = None

    def prepare_processes(self) -> JobProcesses:
        """Start the server while jobs are being composed, because its imports take seconds."""
        self.processes = self.processes or JobProcesses(self.fork, job_environment(self.max_parallel, self.pool))
        return self.processes

    def close(self) -> None:
        """End the server and all processes."""
        if self.processes is not None:
            self.processes.close()
            self.processes = None

    def run(self, jobs: Sequence[Job]) -> None:
        """Run a batch of jobs. Finished jobs are skipped.

        Raises:
            KeyboardInterrupt: The sweep was interrupted, and all jobs have ended.
        """
        self.jobs = jobs
        for job in jobs:
            self.table.add(job)
        self.table.write()
        self.progress.open(jobs)
        for job in jobs:
            if job.status == WAITING and job.error:  # such errors are reported before any training
                self._fail(job, job.error)
        try:
            if any(job.status == WAITING for job in jobs):
                self._run_waiting_jobs(self.prepare_processes())
        finally:
            self.table.write()
            self.progress.close()
        failed = [job for job in jobs if job.status == FAILED]
        if failed:
            refused = all(job.code == REFUSED for job in failed)
            STATUS.exit_status = REFUSED if refused and STATUS.exit_status != 1 else 1

    def _run_waiting_jobs(self, processes: JobProcesses) -> None:
        """Run jobs until no job is running and no job can start."""
        while True:
            try:
                while not self.n_interruptions and self._start_ready_jobs(processes):
                    pass  # another job may start from the weights of a job that failed to start
                if not self.running:
                    break
                self._finish(*processes.wait())
            except KeyboardInterrupt as error:
                self.interruption = self.interruption or error
                self._interrupt_jobs(processes)
        if self.interruption is not None:
            for job in self.jobs:
                if job.status == WAITING:
                    job.status = STOPPED
            self.close()
            signals.restore_received()
            raise self.interruption
        for job in self.jobs:
            if job.status == WAITING:
                self._fail(job, f"it starts from the weights of {job.source_folder}, which waits for this job")

    def _start_ready_jobs(self, processes: JobProcesses) -> bool:
        """Start all jobs that can start now, and return whether the status of any job has changed.

        Jobs whose embeddings no running job computes are preferred. The others would compute them a second time.
        """
        before = [job.status for job in self.jobs]
        ready = [job for job in self.jobs if job.status == WAITING and self._is_ready(job)]
        while ready and len(self.running) < self.max_parallel:
            computed = {shared_embeddings(job) for job in self.running.values()} - {None}
            job = next((job for job in ready if shared_embeddings(job) not in computed), ready[0])
            ready.remove(job)
            try:
                self._start(job, processes)
            except UserError as error:
                self._fail(job, str(error))
        return before != [job.status for job in self.jobs]

    def _start(self, job: Job, processes: JobProcesses) -> None:
        """Start a job if enough devices are free.

        Raises:
            UserError: The job can never start.
        """
        count = self.pool.required(job.config.get("trainer") or {})
        on_cpu = any(not self.pool.assigned.get(number) for number in self.running)
        if not count and self.requested_parallel is None and on_cpu:
            return  # by default a job on the CPU uses all cores
        names = self.pool.acquire(job.number, count)
        if names is None:
            return
        more = {"CUDA_VISIBLE_DEVICES": ",".join(names)} if self.pool.names else {}
        more[ERROR_FILE] = str(self._error_path(job).absolute())
        arguments = job.arguments
        job.status, job.code = RUNNING, None
        self.running[job.number] = job
        self.progress.report_start(job, resumed="resume=" in arguments[-1])
        processes.start(job.number, arguments, self.progress.log_path(job), more)
        self.table.write()

    def _is_ready(self, job: Job) -> bool:
        """Return whether the source run of the initial weights is finished or is not a job of this sweep.

        If the source run has failed or was stopped, the job fails.
        """
        folder = job.source_folder
        source = next((j for j in self.jobs if folder and j is not job and _is_same_path(j.folder, folder)), None)
        if source is None or source.status == DONE:
            return True
        if source.status in (FAILED, STOPPED):
            self._fail(job, f"it starts from the weights of {source.name}, which did not finish")
        return False

    def _fail(self, job: Job, message: str) -> None:
        """Mark a job that cannot start as failed."""
        job.status, job.code, job.error = FAILED, REFUSED, message
        self.progress.report_end(job)
        self.table.write()

    def _finish(self, number: int, code: int, seconds: float) -> None:
        """Record the end of a job."""
        job = self.running.pop(number)
        self.pool.release(number)
        job.code, job.seconds = code, round(seconds, 2)
        job.error = pop_error(self._error_path(job))
        if code == 0 or (self.n_interruptions and job.has_results):
            job.status = DONE
        else:
            job.status = STOPPED if self.n_interruptions else FAILED
        if job.status == DONE:
            with suppress(UserError):  # the comparison reports a damaged file
                job.score = monitored_score(RunFolder(job.folder))
        self.progress.report_end(job)
        self.table.write()

    def _error_path(self, job: Job) -> Path:
        """Return the path of the file to which a job writes its final error message."""
        return self.table.folder / f".{job.number}.error"

    def _interrupt_jobs(self, processes: JobProcesses) -> None:
        """Interrupt all jobs so that they can be resumed, or kill them at the second signal."""
        self.n_interruptions += 1
        if self.running:
            killed = self.n_interruptions > 1
            action = "killing them" if killed else "these jobs stop and can be resumed; press Ctrl-C again to kill them"
            self.progress.print_line(f"interrupted with {len(self.running)} running: {action}")
        processes.signal("SIGKILL" if self.n_interruptions > 1 else "SIGINT")
        if self.n_interruptions == 1:
            signals.allow_another()  # until here, a second signal ends this process and its jobs


def shared_embeddings(job: Job) -> str | None:
    """Return what determines the embeddings that a job shares with other jobs, as text, or None without such."""
    data, transfer = job.config.get("data") or {}, job.config.get("transfer") or {}
    if transfer.get("train") != "probe":
        return None
    return json.dumps([data.get("source"), job.config.get("feature"), job.config.get("backbone"), transfer])


def job_environment(n_parallel: int, pool: GpuPool) -> dict[str, str]:
    """Return the environment of all jobs, with the script's folder in PYTHONPATH and a share of the cores."""
    environment = dict(os.environ)
    paths = [sys.path[0], *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(str(Path(path).absolute()) for path in paths if path))
    if n_parallel > 1 and not pool.names:  # otherwise the threads of parallel jobs compete for the cores
        environment.setdefault(THREADS, str(max(1, usable_cores() // n_parallel)))
    return environment


def _is_same_path(path: Path, other: Path) -> bool:
    return path.absolute() == other.absolute()
