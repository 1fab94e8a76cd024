"""Start or resumption of a run in its folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from etude.config.compose import program_name
from etude.config.instantiate import plain_config, stored_config
from etude.config.overrides import apply_probe_settings
from etude.config.stored import flatten, output_overrides
from etude.errors import UserError
from etude.files import atomic, os_errors, ownership
from etude.files.journal import RUN_LOCK, Lock
from etude.runs.folder import JOBS, MULTIRUN, OUTPUTS, RunFolder, monitored_score
from etude.system import streams
from etude.system.distributed import (
    common_folder_name,
    dated_folders,
    experiment_name,
    folder_name,
    is_rank_zero,
    refuse_process_count,
    refuse_several_processes,
    refuse_stray_ranks,
)
from etude.system.machine import exclude_from_garbage_collection, provide_home, without_garbage_collection

log = logging.getLogger(__name__)
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SWEEP_OUTPUTS = (
    *(MULTIRUN, JOBS, "compare.html", "compare.csv", "compare.md", "compare.tex", "curves.html"),
    *("maps.html", "maps.csv", "maps.json", "search.db", "optimization_results.yaml", "logs/", "pooled/", "ensemble/"),
)
NEW, RESUMABLE, FINISHED = "new", "resumable", "finished"  # states of a run in its folder
FOLDER_KEYS = ("sweep", "resume")  # keys of a config that select the folder of a run and do not describe the run
_locks: dict[str, Any] = {}  # locks of the run folders that this process writes, by absolute path


def prepare(overrides: Sequence[str]) -> None:
    """Set the environment and register resolvers before the overrides of a command are composed.

    Args:
        overrides: Overrides of the command line.

    Raises:
        UserError: `hydra.job.chdir` is set, or `resume` is not a run folder.
    """
    from omegaconf import OmegaConf

    refuse_stray_ranks()
    provide_home()
    # Waiting threads spin by default. With another busy program, an epoch took 42 s, and 0.9 s with sleeping threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for override in overrides:
        bare = override.lstrip("+")
        key, _, value = bare.partition("=")
        if key == "hydra.job.chdir" and value.lower() in ("true", "yes", "on", "1"):
            raise UserError(
                f"{override}: is not supported, because paths in a config are relative to the folder where the command "
                "starts; remove it (a run writes all of its files to the run folder without this option)"
            )
        folder = Path(bare[7:].strip("'"))  # as Hydra reads a name with a blank in it
        if bare.startswith("resume=") and bare != "resume=null" and not RunFolder(folder).config_path.is_file():
            if not bare[7:]:
                raise UserError("resume=: needs a run folder, such as resume=outputs/<run>")
            reason = "it has no config.yaml" if folder.exists() else "it does not exist"
            raise UserError(f"{override}: is not a run folder, {reason}")
    run_folder.cache_clear()
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("experiment_name", experiment_name, replace=True)
    OmegaConf.register_new_resolver("folder_name", lambda name: folder_name(str(name)), replace=True)


def lock_folder(folder: Path, resume: bool) -> None:
    """Check and lock a folder as the output folder of this process's run.

    Args:
        folder: The run's folder, which is created if it is missing.
        resume: Whether the run in the folder is resumed.

    Raises:
        UserError: A file that the run would write exists and is not from Étude, the folder contains another run, or
            another process writes to it.
    """
    key = str(folder.absolute())
    if key in _locks:
        return
    try:
        ownership.open_folder(folder)
        ownership.check_names(folder, OUTPUTS)
        lock = Lock(folder / RUN_LOCK, os.path.relpath(folder))
        lock.acquire()
    except OSError as error:
        raise os_errors.explain(error, folder, os_errors.RUN_REMEDY) or error from error
    _locks[key] = lock
    run = RunFolder(folder)
    if not resume and (run.is_resumable or run.is_finished):
        release(folder)
        path = os.path.relpath(folder)
        if run.is_finished:
            raise UserError(f"{path}: already contains a finished run; choose another folder")
        raise UserError(f"{path}: already contains a run; resume it with resume={path}, or choose another folder")
    if not ownership.created(folder):
        atomic.remove_drafts(folder)


def open_log(folder: Path) -> None:
    """Append log messages to the train.log of a run.

    Hydra removes other handlers when it configures the logging, so this must be called afterwards.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file exists and is not from Étude.
    """
    handlers = logging.getLogger().handlers
    open_files = [handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler)]
    path = RunFolder(folder).log_path
    if str(path.absolute()) in open_files:
        return
    ownership.check(path)
    ownership.record(path)
    new = not path.exists()
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)
    if new:
        ownership.mark_created(path)


def release(folder: Path) -> None:
    """Release the lock of a run's folder."""
    if lock := _locks.pop(str(folder.absolute()), None):
        lock.release()


def resolve_config(composed: Any, folder: Path) -> tuple[dict[str, Any], bool]:
    """Return the plain config of a run, and whether the run in the folder is resumed.

    Args:
        composed: Config that Hydra composed.
        folder: The run's folder, which is removed if the config of a new run is invalid.

    Raises:
        UserError: Values are missing, cannot be resolved, or are invalid. The message lists all of them.
    """
    if is_rank_zero() and str(folder.absolute()) in _locks:
        open_log(folder)
    if composed.get("resume"):
        overrides, run = output_overrides(), RunFolder(folder)
        if run.is_finished:
            remedy = f"transfer=full transfer.init_from={(name := os.path.relpath(folder))}"
            raise UserError(f"resume={name}: this run is finished; to train longer, start from its weights: {remedy}")
        # not in the try block below, because the folder of a resumed run is never removed
        config = stored_config(run.config_path, overrides)
        refuse_process_count(config["trainer"])
        return config, True
    try:
        config = plain_config(apply_probe_settings(composed))
        refuse_process_count(config["trainer"])
        return config, False
    except UserError:
        discard(folder)
        raise


def run_in_folder(config: dict[str, Any], folder: Path, resume: bool) -> dict[str, Any]:
    """Run a checked config in its folder.

    Returns:
        The content of metrics.json; empty for a run without a test, and on all processes except the first.
    """
    from omegaconf import OmegaConf

    from etude.experiment.stages import run_experiment  # heavy: torch and lightning

    files = RunFolder(folder)
    traces = [files.checkpoints_path, files.trackers_path]  # exist once training or a tracker has started
    trained = files.checkpoints_path.is_dir()
    if is_rank_zero():
        lock_folder(folder, resume)  # in case Hydra's callback was not called, as with another launcher
        open_log(folder)
        if not resume:
            atomic.write_text(files.config_path, OmegaConf.to_yaml(OmegaConf.create(config)))
    else:
        logging.getLogger().setLevel(logging.ERROR)
        ownership.open_folder(folder)
        open_log(folder)
    try:
        return run_experiment(config, folder, resume=resume)
    except UserError:
        if not resume and not trained and not any(path.exists() for path in traces):
            discard(folder)
        raise


def run_state(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the state of the run in a folder.

    Args:
        folder: The run's folder.
        config: The resolved config.

    Returns:
        `new`; `resumable` if there is a checkpoint; or `finished`.

    Raises:
        UserError: The folder contains a run of another config.
    """
    run = RunFolder(folder)
    if not run.is_finished and not run.is_resumable:
        return NEW
    stored = run.config if run.config_path.is_file() else None
    different = [] if stored is None else _different_keys(stored, config)
    if stored is None or different:
        keys = f": {', '.join(different[:3])}" if different else ""
        raise UserError(
            f"{os.path.relpath(folder)}: contains a run of another config{keys}; set another folder of the sweep with "
            "hydra.sweep.dir=..., or use the overrides of the existing run"
        )
    return FINISHED if run.is_finished else RESUMABLE


def _different_keys(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys with different values, without keys that only select a folder."""
    a, b = (flatten({key: value for key, value in c.items() if key not in FOLDER_KEYS}) for c in (config, other))
    return [key for key in {**a, **b} if a.get(key, ...) != b.get(key, ...)]


def run_composed(composed: Any, folder: Path) -> float | None:
    """Run a composed config in its folder, and print its results.

    Jobs of Étude's own launcher are single runs. A multirun job comes from another launcher.

    Args:
        composed: The config as Hydra composed it.
        folder: The run's folder.

    Returns:
        The monitored validation score, which a search optimises; None if there are no results.

    Raises:
        UserError: The config or the data are invalid.
        RunError: Training failed.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config, resume = resolve_config(composed, folder)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        try:
            refuse_several_processes(config["trainer"])
            state = run_state(folder, config)
        except UserError:
            discard(folder)
            raise
        if is_rank_zero():
            lock_folder(folder, resume or state != NEW)
        if state == FINISHED:
            log.info("%s: is finished", os.path.relpath(folder))
            return monitored_score(RunFolder(folder))
        resume = state == RESUMABLE
    if "etude.experiment.stages" not in sys.modules:  # a further job in this process may follow another run
        with without_garbage_collection():
            import etude.experiment.stages  # noqa: F401
        exclude_from_garbage_collection()
    if not run_in_folder(config, folder, resume):
        return None
    from etude.reports.comparison.compare import show  # heavy: numpy
    from etude.reports.comparison.text import log_next_steps

    show([folder])
    log_next_steps(folder)
    return monitored_score(RunFolder(folder))


def resume_advice(folder: Path) -> str:
    """Return the end of a message that explains how to resume a run, or "" if it has no checkpoint."""
    return f"; resume with: {program_name()} resume={os.path.relpath(folder)}" if RunFolder(folder).is_resumable else ""


def discard(folder: Path) -> None:
    """Remove the files that this process wrote for a run that did not start.

    The folder is also removed if this process created it.
    """
    remove_log_handlers(folder)
    if is_rank_zero():
        release(folder)
        run = RunFolder(folder)
        if not any(path.exists() for path in (run.checkpoints_path, run.metrics_path, run.trackers_path)):
            atomic.remove_created(folder)


def discard_all() -> None:
    """Discard the folders of all runs of this process that did not start."""
    for folder in list(_locks):
        discard(Path(folder))


def remove_log_handlers(folder: Path) -> None:
    """Remove the log handlers that write to a run's folder."""
    prefix = str(folder.resolve()) + os.sep
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler) and os.path.realpath(handler.baseFilename).startswith(prefix):
            logging.getLogger().removeHandler(handler)
            handler.close()


def close(folder: Path) -> None:
    """Close the log and release the lock of a run's folder."""
    streams.deliver_now()
    remove_log_handlers(folder)
    release(folder)


def close_all() -> None:
    """Close all run folders of this process, and remove empty ones."""
    for folder in list(_locks):
        close(Path(folder))
    atomic.remove_empty_folders()


@lru_cache  # Hydra resolves it several times in a run, and the result must not change with the clock
def run_folder(resume: str | None, outputs: str, name: str) -> str:
    """Return the resumed folder of a run, or create a new folder that is named by date."""
    if resume:
        return str(resume)

    def create() -> str:
        for path in dated_folders(outputs, name):
            try:
                ownership.create_folder(path)
            except FileExistsError:
                continue
            return path.name
        raise AssertionError  # not reached, because dated_folders never ends

    try:
        return str(Path(str(outputs)) / common_folder_name(create, name))
    except OSError as error:
        raise os_errors.explain(error, outputs, os_errors.RUN_REMEDY, f"outputs={outputs}") or error from error
