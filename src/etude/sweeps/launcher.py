"""Composition of the jobs of a sweep for the launchers of Hydra.

`scheduler` decides when each job starts, and `processes` starts it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.compose import current_config, plain_config
from etude.config.overrides import parse_overrides, quote_value
from etude.errors import UserError
from etude.experiment.start import FINISHED, run_state
from etude.files import os_errors, ownership
from etude.runs.folder import JOBS, MULTIRUN, RunFolder, monitored_score
from etude.sweeps.jobs import DONE, Job, JobTable
from etude.sweeps.progress import STATUS, forget
from etude.sweeps.scheduler import Pool, Sweep, visible
from etude.system.distributed import dated_folders

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext
    from omegaconf import DictConfig


OURS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.mode", "hydra.job.num", "hydra.job.id")
STARTS = (None, "fork", "spawn")


def begin(config: DictConfig, jobs: int | None, devices: Sequence[Any] | None, start: str | None) -> Sweep:
    """The sweep of a config, before its first job.

    Args:
        config: Of the sweep, with Hydra's own part.
        jobs: How many run at a time.
        devices: GPUs to share out; none: all that are visible.
        start: `fork` or `spawn`; none: what is safe here.

    Raises:
        UserError: The launcher's settings, or what is in the sweep's folder, have to be mended.
    """
    if start not in STARTS or (start == "fork" and not hasattr(os, "fork")):
        raise UserError(f"hydra.launcher.start: must be fork (not on Windows) or spawn, got {start}")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise UserError(f"hydra.launcher.jobs: must be a whole number of at least 1, got {jobs}")
    if isinstance(devices, str):
        raise UserError(f"hydra.launcher.devices: must be a list such as [0,1], got {devices}")
    folder = Path(str(config.hydra.sweep.dir))
    ownership.open_folder(folder)
    pool = Pool(visible() if devices is None else [str(name) for name in devices])
    trials = config.hydra.sweeper.get("n_trials") or 0
    ledger = JobTable(folder)
    ledger.lock()
    return Sweep(ledger, jobs, pool, (start or _safest()) == "fork", trials)


def launch(
    sweep: Sweep, overrides: Sequence[Sequence[str]], first: int, config: DictConfig, context: HydraContext
) -> list[JobReturn]:
    """Run what a sweeper asks for.

    Args:
        sweep: Of which these are jobs.
        overrides: Of each job.
        first: The number that the sweeper has for the first.
        config: Of the sweep.
        context: Hydra's.

    Returns:
        For each job, in order, its score as the return value; none of a job that failed.
    """
    composed = _composed(sweep, overrides, first, config, context)
    STATUS.begun = True
    try:
        sweep.run(list({job.number: job for job, _ in composed}.values()))
    except KeyboardInterrupt:
        STATUS.advice = f"; go on with the same command and sweep.resume={os.path.relpath(sweep.ledger.folder)}"
        raise
    return [_return(job, whole) for job, whole in composed]


def _composed(
    sweep: Sweep, overrides: Sequence[Sequence[str]], first: int, config: DictConfig, context: HydraContext
) -> list[tuple[Job, DictConfig]]:
    """Jobs with their configs; a sweep of which none can run, for one and the same reason, is refused."""
    made: list[tuple[Job, DictConfig]] = []
    known: dict[tuple[str, ...], tuple[Job, DictConfig]] = {}
    for place, told in enumerate(overrides):
        key = tuple(sorted(told))
        if key in known:
            if not sweep.board.total:
                raise UserError(_repeated(list(told), config, context))
            made.append(known[key])  # a search may suggest one point twice
            continue
        known[key] = _job(list(told), first + place, config, context, sweep.ledger)
        made.append(known[key])
        sweep.ledger.put(made[-1][0])
    folders: dict[Path, Job] = {}
    for job, _ in known.values():
        if (other := folders.setdefault(job.folder, job)) is not job:
            raise UserError(
                f"hydra.sweep.subdir: jobs {other.number} and {job.number} have one folder, {job.name}; it needs a "
                "part that differs, such as ${hydra:job.num} (debug=... gives all runs of a task and backbone one name)"
            )
    reasons = [job.reason for job, _ in made]
    if not STATUS.begun and all(reasons) and len(set(reasons)) == 1:
        raise UserError(reasons[0])
    return made


def _job(
    told: list[str], number: int, config: DictConfig, context: HydraContext, ledger: JobTable
) -> tuple[Job, DictConfig]:
    """A job: the one that is known by these overrides, or a new one."""
    from omegaconf import OmegaConf, open_dict

    whole = context.config_loader.load_sweep_config(config, told)
    words = [str(word) for word in whole.hydra.overrides.task if not str(word).startswith("sweep.resume=")]
    known = ledger.known(words)
    number = known.number if known else ledger.number(number)
    with open_dict(whole):
        whole.hydra.job.num, whole.hydra.job.id = number, str(number)
        whole.hydra.sweep.dir = str(ledger.folder)
    with current_config(whole):
        folder = _inside(ledger.folder, str(whole.hydra.sweep.subdir))
        try:
            plain, fault = plain_config(OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])), ""
        except UserError as error:
            plain, fault = {}, str(error)
    settings = [str(word) for word in whole.hydra.overrides.hydra if not str(word).startswith(OURS)]
    settings += [
        f"hydra.sweep.dir={quote_value(str(ledger.folder))}",
        f"hydra.job.num={number}",
        f"hydra.job.id='{number}'",
    ]
    begun_from = (plain.get("transfer") or {}).get("init_from")
    if begun_from and not any("transfer.init_from=" in word for word in words):  # filled in by the sweep
        settings.append(f"transfer.init_from={quote_value(str(begun_from))}")
    flags = ["--run"]  # or Hydra composes once more, to see whether it is a sweep
    flags += [
        f"--config-dir={one.path}" for one in whole.hydra.runtime.config_sources if one.provider == "command-line"
    ]
    there = known.folder if known else folder
    job = Job(number, words, there, plain, flags, settings, reason=fault, sweep=ledger.folder)
    if known:
        job.found = job.folder.is_dir() and (known.status == DONE or job.measured)
        job.seconds = known.seconds if job.found else None
    elif not fault:  # another launcher may have run it
        try:
            job.found = run_state(folder, plain) == FINISHED
        except UserError as error:
            job.reason = str(error)
    if job.found:
        job.status, job.code, job.reason, job.score = DONE, 0, "", monitored_score(RunFolder(job.folder))
    return job, whole


def _repeated(told: list[str], config: DictConfig, context: HydraContext) -> str:
    """Return the sentence for a sweep that contains one job twice, with the values that are repeated."""
    params = config.hydra.sweeper.get("params") or {}
    words = [*config.hydra.overrides.task, *(f"{key}={value}" for key, value in params.items())]
    said = []
    for override in parse_overrides([str(word) for word in words], context.config_loader):
        if override.is_sweep_override() and not override.is_interval_sweep():
            values = list(override.sweep_string_iterator())
            twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
            said += [f"{override.input_line}: {', '.join(twice)} stands there more than once"] if twice else []
    if not said:
        return f"{' '.join(told)}: two jobs of the sweep have these values; leave one out"
    return "\n".join(f"{one}; each job of a sweep needs values of its own" for one in said)


def _inside(sweep: Path, subdir: str) -> Path:
    """Return the folder of a job, which has to lie below that of its sweep.

    Raises:
        UserError: It does not.
    """
    folder = Path(os.path.normpath(sweep / subdir))
    if ".." in Path(subdir).parts or folder == sweep or not folder.is_relative_to(os.path.normpath(sweep)):
        raise UserError(
            f"{subdir}: a job's folder has to be below that of the sweep; use no .. in name= and hydra.sweep.subdir="
        )
    return folder


def _return(job: Job, whole: DictConfig) -> JobReturn:
    """What a sweeper hears of a job: a failed one has no value, which a search takes for a failure of that trial."""
    from hydra.core.utils import JobReturn, JobStatus
    from omegaconf import open_dict, read_write

    status = JobStatus.COMPLETED
    with read_write(whole.hydra.runtime), open_dict(whole.hydra.runtime):
        whole.hydra.runtime.output_dir = str(job.folder.absolute())
    return JobReturn(overrides=job.overrides, hydra_cfg=whole, status=status, _return_value=job.score)


def _safest() -> str:
    """On macOS a forked process may not use its libraries for numbers, and Windows has no fork."""
    return "fork" if sys.platform == "linux" else "spawn"


def prepare(words: Sequence[str], multirun: bool) -> None:
    """What has to be in place before the words of a command are composed.

    Args:
        words: Overrides.
        multirun: Whether they make a sweep.

    Raises:
        UserError: A sweep is meant and -m was not said, or what is to be gone on with is no sweep.
    """
    from omegaconf import OmegaConf

    many = multirun or "hydra.mode=MULTIRUN" in words
    place = any(word.startswith("hydra.sweep.dir=") for word in words)
    for word in words if many or not place else ():  # a job of a sweep is told its place, and what its sweep was told
        if word.startswith("sweep=") and word != "sweep=null" and not many:
            raise UserError(f"{word}: is a sweep; add -m")
        if word.startswith("sweep.resume=") and word != "sweep.resume=null":
            if not many:
                raise UserError(f"{word}: goes on with a sweep; say its command again, with -m")
            folder = Path(word[13:].strip("'"))
            if not any((folder / name).is_file() for name in (JOBS, MULTIRUN)):
                raise UserError(f"{word}: is not the folder of a sweep, it has no {JOBS}")
    forget()
    sweep_folder.cache_clear()
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


@lru_cache  # one sweep has one folder
def sweep_folder(resume: str | None, outputs: str) -> str:
    """The folder that is gone on with, or a new one that no other sweep can have."""
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
