"""Composition of the jobs of a sweep for Hydra's launchers, and jobs on a cluster with submitit.

`scheduler` decides when each job starts on this machine, and `processes` starts it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.compose import current_config
from etude.config.instantiate import plain_config
from etude.config.overrides import apply_probe_settings, parse_overrides, quote_value
from etude.errors import UserError
from etude.experiment.start import FINISHED, run_state
from etude.files import os_errors, ownership
from etude.runs.folder import JOBS, RunFolder, is_sweep, monitored_score
from etude.sweeps.jobs import DONE, Job, JobTable, source_paths
from etude.sweeps.progress import STATUS, reset_status
from etude.sweeps.scheduler import GpuPool, Sweep, check_inputs, visible_gpus
from etude.system.distributed import dated_folders

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


SET_BY_SWEEP = ("hydra.run.dir", "hydra.sweep.dir", "hydra.mode", "hydra.job.num", "hydra.job.id")
START_METHODS = (None, "fork", "spawn")
log = logging.getLogger(__name__)


def create_sweep(config: DictConfig, jobs: int | None, devices: Sequence[Any] | None, start: str | None) -> Sweep:
    """Create the sweep of a config and lock its folder.

    Args:
        config: Config of the sweep, including Hydra's node.
        jobs: Number of parallel jobs.
        devices: GPUs that are assigned to jobs. None uses all visible GPUs.
        start: `fork` or `spawn`. None uses the safe method of the platform.

    Raises:
        UserError: An option of the launcher is invalid, or the folder of the sweep cannot be used.
    """
    if start not in START_METHODS or (start == "fork" and not hasattr(os, "fork")):
        raise UserError(f"hydra.launcher.start: must be fork (not on Windows) or spawn, got {start}")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise UserError(f"hydra.launcher.jobs: must be a whole number of at least 1, got {jobs}")
    if isinstance(devices, str):
        raise UserError(f"hydra.launcher.devices: must be a list such as [0,1], got {devices}")
    folder = Path(str(config.hydra.sweep.dir))
    ownership.open_folder(folder)
    pool = GpuPool(visible_gpus() if devices is None else [str(name) for name in devices])
    n_trials = config.hydra.sweeper.get("n_trials") or 0
    table = JobTable(folder)
    table.lock()
    return Sweep(table, jobs, pool, (start or _default_start_method()) == "fork", n_trials)


def run_jobs(
    sweep: Sweep, overrides: Sequence[Sequence[str]], first_number: int, config: DictConfig, context: HydraContext
) -> list[JobReturn]:
    """Run the jobs that a sweeper requests.

    Args:
        sweep: Sweep of the jobs.
        overrides: Overrides of each job.
        first_number: Number of the first job in the numbering of the sweeper.
        config: Config of the sweep.
        context: Hydra's context.

    Returns:
        A result for each job, in order. Its return value is the score, or None for a failed job.
    """
    jobs = _compose_jobs(sweep, overrides, first_number, config, context)
    STATUS.started = True
    try:
        sweep.run(list({job.number: job for job, _ in jobs}.values()))
    except KeyboardInterrupt:
        STATUS.advice = f"; resume with the same command and sweep.resume={os.path.relpath(sweep.table.folder)}"
        raise
    return [_job_return(job, composed) for job, composed in jobs]


def _compose_jobs(
    sweep: Sweep, overrides: Sequence[Sequence[str]], first_number: int, config: DictConfig, context: HydraContext
) -> list[tuple[Job, DictConfig]]:
    """Compose the jobs and their configs.

    Raises:
        UserError: A job is repeated, two jobs have the same folder, all jobs have the same error, or an input is
            missing.
    """
    jobs: list[tuple[Job, DictConfig]] = []
    by_overrides: dict[tuple[str, ...], tuple[Job, DictConfig]] = {}
    for i, job_overrides in enumerate(overrides):
        key = tuple(sorted(job_overrides))
        if key in by_overrides:
            if not sweep.progress.n_total:
                raise UserError(_repeated_values_message(list(job_overrides), config, context))
            jobs.append(by_overrides[key])  # a search may suggest the same point twice
            continue
        by_overrides[key] = _compose_job(list(job_overrides), first_number + i, config, context, sweep.table)
        jobs.append(by_overrides[key])
        sweep.table.add(jobs[-1][0])
    folders: dict[Path, Job] = {}
    for job, _ in by_overrides.values():
        if (other := folders.setdefault(job.folder, job)) is not job:
            raise UserError(
                f"hydra.sweep.subdir: jobs {other.number} and {job.number} have the same folder, {job.name}; add a "
                "value that differs between jobs, such as ${hydra:job.num} (with debug=... all runs of a task and a "
                "backbone have the same name)"
            )
    errors = [job.error for job, _ in jobs]
    if not STATUS.started and all(errors) and len(set(errors)) == 1:
        raise UserError(errors[0])
    if not STATUS.started:
        check_inputs([job for job, _ in by_overrides.values()])
    return jobs


def _compose_job(
    job_overrides: list[str], number: int, config: DictConfig, context: HydraContext, table: JobTable
) -> tuple[Job, DictConfig]:
    """Compose a job and its config. An existing job with the same overrides keeps its number and folder."""
    from omegaconf import OmegaConf, open_dict

    composed = context.config_loader.load_sweep_config(config, job_overrides)
    task_overrides = [str(override) for override in composed.hydra.overrides.task]
    overrides = [override for override in task_overrides if not override.startswith("sweep.resume=")]
    existing = table.find(overrides)
    number = existing.number if existing else table.free_number(number)
    with open_dict(composed):
        composed.hydra.job.num, composed.hydra.job.id = number, str(number)
        composed.hydra.sweep.dir = str(table.folder)
    with current_config(composed):
        folder = _job_folder(table.folder, str(composed.hydra.sweep.subdir))
        keys = [str(key) for key in composed if key != "hydra"]
        try:
            plain, error_message = plain_config(apply_probe_settings(OmegaConf.masked_copy(composed, keys))), ""
        except UserError as error:
            plain, error_message = {}, str(error)
    hydra_overrides = [str(override) for override in composed.hydra.overrides.hydra]
    extra_overrides = [override for override in hydra_overrides if not override.startswith(SET_BY_SWEEP)]
    extra_overrides += [
        f"hydra.sweep.dir={quote_value(str(table.folder))}",
        f"hydra.job.num={number}",
        f"hydra.job.id='{number}'",
    ]
    if "hydra.mode=MULTIRUN" not in hydra_overrides:  # an experiment is a sweep without -m, but its jobs are runs
        extra_overrides.append("hydra.mode=RUN")
    for key, source in source_paths(plain).items():
        if source and not any(f"{key}=" in override for override in overrides):  # computed by the sweep
            extra_overrides.append(f"{key}={quote_value(source)}")
    flags = ["--run"]  # otherwise Hydra composes once more to find out whether the command is a sweep
    sources = composed.hydra.runtime.config_sources
    flags += [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    job_folder = existing.folder if existing else folder
    job = Job(number, overrides, job_folder, plain, flags, extra_overrides, error=error_message, sweep=table.folder)
    if existing:
        job.already_finished = job.folder.is_dir() and (existing.status == DONE or job.has_results)
        job.seconds = existing.seconds if job.already_finished else None
    elif not error_message:  # another launcher may have run the job
        try:
            job.already_finished = run_state(folder, plain) == FINISHED
        except UserError as error:
            job.error = str(error)
    if job.already_finished:
        job.status, job.code, job.error, job.score = DONE, 0, "", monitored_score(RunFolder(job.folder))
    return job, composed


def _repeated_values_message(job_overrides: list[str], config: DictConfig, context: HydraContext) -> str:
    """Return the error message for a sweep with two equal jobs, which names the repeated values."""
    params = config.hydra.sweeper.get("params") or {}
    overrides = [*config.hydra.overrides.task, *(f"{key}={value}" for key, value in params.items())]
    repeated = []
    for override in parse_overrides([str(override) for override in overrides], context.config_loader):
        if override.is_sweep_override() and not override.is_interval_sweep():
            values = list(override.sweep_string_iterator())
            if names := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
                repeated.append(f"{override.input_line}: contains {', '.join(names)} more than once")
    if not repeated:
        return f"{' '.join(job_overrides)}: two jobs of the sweep have these values; remove one of them"
    return "\n".join(f"{message}; each job of a sweep needs different values" for message in repeated)


def _job_folder(sweep: Path, subdir: str) -> Path:
    """Return the folder of a job.

    Raises:
        UserError: The folder is not inside the folder of the sweep.
    """
    folder = Path(os.path.normpath(sweep / subdir))
    if ".." in Path(subdir).parts or folder == sweep or not folder.is_relative_to(os.path.normpath(sweep)):
        raise UserError(
            f"{subdir}: the folder of a job must be inside the folder of its sweep; remove .. from name= and "
            "hydra.sweep.subdir="
        )
    return folder


def _job_return(job: Job, composed: DictConfig) -> JobReturn:
    """Return the result of a job for the sweeper. A search treats a job without a value as a failed trial."""
    from hydra.core.utils import JobReturn, JobStatus
    from omegaconf import open_dict, read_write

    status = JobStatus.COMPLETED
    with read_write(composed.hydra.runtime), open_dict(composed.hydra.runtime):
        composed.hydra.runtime.output_dir = str(job.folder.absolute())
    return JobReturn(overrides=job.overrides, hydra_cfg=composed, status=status, _return_value=job.score)


def _default_start_method() -> str:
    """Return `spawn` on Windows and on macOS, where numerical libraries do not work after a fork, else `fork`."""
    return "fork" if sys.platform == "linux" else "spawn"


def prepare(overrides: Sequence[str], multirun: bool) -> None:
    """Check the overrides of a sweep and register its resolver before they are composed.

    Args:
        overrides: Overrides of the command.
        multirun: Whether the command has `-m`.

    Raises:
        UserError: An option of a sweep is used without `-m`, or the resumed folder is not the folder of a sweep.
    """
    from omegaconf import OmegaConf

    starts_sweep = multirun or "hydra.mode=MULTIRUN" in overrides
    is_job = any(override.startswith("hydra.sweep.dir=") for override in overrides)
    accepts_sweep = starts_sweep or "hydra.mode=RUN" in overrides  # as in the recorded command of a job
    for override in overrides if starts_sweep or not is_job else ():  # a job repeats the options of its sweep
        if override.startswith("sweep=") and override != "sweep=null" and not accepts_sweep:
            raise UserError(f"{override}: is a sweep; add -m")
        if override.startswith("sweep.resume=") and override != "sweep.resume=null":
            if not starts_sweep:
                raise UserError(f"{override}: resumes a sweep; add -m, as in the command that started the sweep")
            folder = Path(override[13:].strip("'"))
            if not is_sweep(folder):
                raise UserError(f"{override}: is not the folder of a sweep; it has no {JOBS}")
    reset_status()
    sweep_folder.cache_clear()
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


@lru_cache  # the folder of a sweep must not change
def sweep_folder(resume: str | None, outputs: str) -> str:
    """Return the folder of a resumed sweep, or create a new folder that no other sweep uses."""
    if resume:
        return str(resume)
    for folder in dated_folders(outputs, "sweep"):
        try:
            ownership.create_folder(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise os_errors.explain(error, outputs, os_errors.RUN_REMEDY, f"outputs={outputs}") or error from error
        STATUS.folder = folder
        break
    return str(STATUS.folder)


def devices_per_node(trainer: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of GPUs and processes that a job needs on each node. Each device has one process.

    Args:
        trainer: Config of the trainer. The accelerator `auto` requests a GPU, because Slurm shows a job only the
            requested GPUs.

    Returns:
        Number of GPUs (0 with `accelerator=cpu`), and number of processes.

    Raises:
        UserError: The number of devices depends on the node, which is unknown before the job starts.
    """
    devices = trainer.get("devices", 1)
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 0
    if count < 1:
        raise UserError(
            f"trainer.devices={devices}: Slurm needs a number of devices; add trainer.devices=4, for example"
        )
    return (0 if trainer.get("accelerator") == "cpu" else count), count


def record_failures(jobs: Sequence[JobReturn]) -> Sequence[JobReturn]:
    """Record failed jobs in the exit status, and mark them as completed without a score so that the sweep continues.

    Args:
        jobs: Results of submitit's launcher.
    """
    from hydra.core.utils import JobStatus

    STATUS.started = True
    for job in jobs:
        if job.status == JobStatus.FAILED:
            error = job._return_value
            refused = isinstance(error, UserError) and STATUS.exit_status != 1
            STATUS.exit_status = 2 if refused else 1
            log.error("%s: %s", " ".join(job.overrides or []), error)
            job.status, job.return_value = JobStatus.COMPLETED, None
    return jobs


@dataclass
class JobFunction:
    """Function that the process of a job calls.

    It calls Hydra's task function with the script and environment of the sweep.

    Args:
        function: Function that takes the composed config.
        script: Program of the sweep.
        environment: Environment variables that are copied from the process of the sweep.
    """

    function: TaskFunction
    script: str = field(default_factory=lambda: sys.argv[0])
    environment: dict[str, str] = field(
        default_factory=lambda: {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    )

    def __call__(self, config: Any) -> Any:
        """Run a job."""
        from hydra.core.hydra_config import HydraConfig

        os.environ.update(self.environment)
        overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("sweep.resume=")]
        sys.argv = [self.script, *overrides]  # the record of a run contains the command that repeats it
        try:
            return self.function(config)
        except KeyboardInterrupt as stop:
            if isinstance(stop.__cause__, SystemExit):  # raised by submitit once the job is queued again
                raise stop.__cause__ from None
            raise
