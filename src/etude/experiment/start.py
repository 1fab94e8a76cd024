"""Start or resumption of a run in its folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from etude.config.compose import plain_config as plain
from etude.config.stored import flat, place_overrides, stored_config
from etude.errors import UserError
from etude.files import atomic, os_errors, ownership
from etude.files.lock import RUN, Lock
from etude.runs.folder import JOBS, MULTIRUN, OUTPUTS, RunFolder, monitored_score
from etude.system import streams
from etude.system.distributed import (
    agreed,
    dated,
    first,
    folder_name,
    refuse_process_count,
    refuse_several_processes,
    refuse_stray_ranks,
)
from etude.system.machine import provide_home

log = logging.getLogger(__name__)
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SWEEP_OUTPUTS = (
    *(MULTIRUN, JOBS, "compare.html", "compare.csv", "compare.md", "compare.tex", "latent.html"),
    *("latent.csv", "latent.json", "search.db", "optimization_results.yaml", "logs/", "pooled/"),
)
NEW, BEGUN, FINISHED = "new", "begun", "finished"  # states of a run in its folder
PLACES = ("sweep", "resume")  # keys of a config that say where a run is, and nothing about the run
_locks: dict[str, Any] = {}  # of the run folders that this process writes, by absolute path


def prepare(words: Sequence[str]) -> None:
    """What has to be in place before the words of a command are composed.

    Raises:
        UserError: What is to be resumed is no run.
    """
    from omegaconf import OmegaConf

    refuse_stray_ranks()
    provide_home()
    # Threads that wait for one another spin by default, and beside another busy program they spin through whole time
    # slices: an epoch of the LSTM took 42 s so, and 0.9 s with waiting threads asleep. OpenMP reads this once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "hydra.job.chdir" and value.lower() in ("true", "yes", "on", "1"):
            raise UserError(
                f"{word}: is not supported, because paths in a config are relative to the folder where the command "
                "starts; leave it out, every file of a run is in its folder anyway"
            )
        bare = word.lstrip("+")
        said = Path(bare[7:].strip("'"))  # as Hydra reads a name with a blank in it
        if bare.startswith("resume=") and bare != "resume=null" and not RunFolder(said).config_path.is_file():
            if not bare[7:]:
                raise UserError("resume=: needs a run folder, such as resume=outputs/<run>")
            reason = "it has no config.yaml" if said.exists() else "it does not exist"
            raise UserError(f"{word}: is not a run folder, {reason}")
    run_folder.cache_clear()
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("folder_name", lambda name: folder_name(str(name)), replace=True)


def claim(folder: Path, resume: bool) -> None:
    """Make a folder the output folder of this process's run, checked and locked.

    Args:
        folder: The run's folder; created where it is missing.
        resume: Whether the run in it is continued.

    Raises:
        UserError: A file that the run would write belongs to somebody else, another run is in the folder, or another
            process writes there.
    """
    key = str(folder.absolute())
    if key in _locks:
        return
    try:
        ownership.open_folder(folder)
        ownership.check_names(folder, OUTPUTS)
        lock = Lock(folder / RUN, os.path.relpath(folder))
        lock.acquire()
    except OSError as error:
        raise os_errors.explain(error, folder, os_errors.OTHER_RUN) or error from error
    _locks[key] = lock
    run = RunFolder(folder)
    if not resume and (run.is_resumable or run.is_finished):
        release(folder)
        where = os.path.relpath(folder)
        if run.is_finished:
            raise UserError(f"{where}: holds a run already, which is finished; choose another folder")
        raise UserError(f"{where}: holds a run already; continue it with resume={where}, or choose another folder")
    if not ownership.created(folder):
        atomic.clean(folder)


def open_log(folder: Path) -> None:
    """Append what is logged to the train.log of a run; after Hydra has configured the logging, which ends all others.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file belongs to somebody else.
    """
    known = [one.baseFilename for one in logging.getLogger().handlers if isinstance(one, logging.FileHandler)]
    path = RunFolder(folder).log_path
    if str(path.absolute()) in known:
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
    """Let other processes write into a run's folder again."""
    if lock := _locks.pop(str(folder.absolute()), None):
        lock.release()


def checked(composed: Any, folder: Path) -> tuple[dict[str, Any], bool]:
    """The plain config of a run, and whether it goes on with the run that is in the folder.

    Args:
        composed: What Hydra made.
        folder: The run's folder; it is taken away when the config has faults.

    Raises:
        UserError: Values are missing, cannot be resolved, or do not fit the code; all of them are named.
    """
    if first() and str(folder.absolute()) in _locks:
        open_log(folder)
    if composed.get("resume"):
        overrides, run = place_overrides(), RunFolder(folder)
        if run.is_finished:
            raise UserError(f"resume={os.path.relpath(folder)}: this run is finished; its report is there")
        config = stored_config(run.config_path, overrides)  # first, because the folder of a run is never taken away
        refuse_process_count(config["trainer"])
        return config, True
    try:
        config = plain(composed)
        refuse_process_count(config["trainer"])
        return config, False
    except UserError:
        discard(folder)
        raise


def run_in_folder(config: dict[str, Any], folder: Path, resume: bool) -> dict[str, Any]:
    """Run a checked config in its folder.

    Returns:
        The content of metrics.json; empty where there is no test, and on all processes but the first.
    """
    from omegaconf import OmegaConf

    from etude.experiment.stages import run  # heavy: torch and lightning

    files = RunFolder(folder)
    known = [files.checkpoints_path, files.trackers_path]  # there is something, or somebody knows of it
    trained = known[0].is_dir()
    if first():
        claim(folder, resume)  # where Hydra's callback was not asked, as by another launcher
        open_log(folder)
        if not resume:
            atomic.write_text(files.config_path, OmegaConf.to_yaml(OmegaConf.create(config)))
    else:
        logging.getLogger().setLevel(logging.ERROR)
        ownership.open_folder(folder)
        open_log(folder)
    try:
        return run(config, folder, resume=resume)
    except UserError:
        if not resume and not trained and not any(path.exists() for path in known):
            discard(folder)
        raise


def run_state(folder: Path, config: Mapping[str, Any]) -> str:
    """Return whether a folder holds a run of a config, and whether that is finished.

    Args:
        folder: The run's folder.
        config: The resolved config.

    Returns:
        `new`; `begun` where there is a checkpoint to resume from; or `finished`.

    Raises:
        UserError: The folder holds a run of another config.
    """
    run = RunFolder(folder)
    if not run.is_finished and not run.is_resumable:
        return NEW
    stored = run.config if run.config_path.is_file() else None
    different = [] if stored is None else _different_keys(stored, config)
    if stored is None or different:
        keys = f": {', '.join(different[:3])}" if different else ""
        raise UserError(
            f"{os.path.relpath(folder)}: holds a run of another config{keys}; give the sweep another folder by "
            "hydra.sweep.dir=..., or the overrides that it was begun with"
        )
    return FINISHED if run.is_finished else BEGUN


def _different_keys(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys with different values, without those that only say where a run is."""
    values = [flat({key: value for key, value in one.items() if key not in PLACES}) for one in (config, other)]
    return [key for key in {**values[0], **values[1]} if values[0].get(key, ...) != values[1].get(key, ...)]


def run_composed(composed: Any, folder: Path) -> float | None:
    """Run a composed config in its folder, and print its results.

    A job of a multirun arrives here only from a launcher other than Étude's own, whose jobs are plain runs.

    Args:
        composed: The config as Hydra composed it.
        folder: The run's folder.

    Returns:
        The score on the validation split that a search optimises; None where there are no results.

    Raises:
        UserError: The config or the data have to be corrected.
        RunError: Training failed.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config, resume = checked(composed, folder)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        try:
            refuse_several_processes(config["trainer"])
            state = run_state(folder, config)
        except UserError:
            discard(folder)
            raise
        if first():
            claim(folder, resume or state != NEW)
        if state == FINISHED:
            log.info("%s: is finished", os.path.relpath(folder))
            return monitored_score(RunFolder(folder))
        resume = state == BEGUN
    if not run_in_folder(config, folder, resume):
        return None
    from etude.reports.comparison.compare import show  # heavy: numpy

    show([folder])
    log.info("report: %s", os.path.relpath(RunFolder(folder).report_path))
    return monitored_score(RunFolder(folder))


def advice(folder: Path) -> str:
    """How to go on with a run that was stopped, where it left something to go on from."""
    return f"; go on with: python train.py resume={os.path.relpath(folder)}" if RunFolder(folder).is_resumable else ""


def discard(folder: Path) -> None:
    """Remove what this process wrote into the folder of a run that never began, and the folder if it created that."""
    silence(folder)
    if first():
        release(folder)
        run = RunFolder(folder)
        if not any(path.exists() for path in (run.checkpoints_path, run.metrics_path, run.trackers_path)):
            atomic.discard(folder)


def discard_all() -> None:
    """Discard what this process wrote into the folders of runs that never began, as `discard` does."""
    for folder in list(_locks):
        discard(Path(folder))


def silence(folder: Path) -> None:
    """Write no more into the logs of a run's folder."""
    home = str(folder.resolve()) + os.sep
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler) and os.path.realpath(handler.baseFilename).startswith(home):
            logging.getLogger().removeHandler(handler)
            handler.close()


def close(folder: Path) -> None:
    """End the writing of this process into a run's folder."""
    streams.deliver_now()
    silence(folder)
    release(folder)


def close_all() -> None:
    """End the writing of this process into all run folders, and remove those in which no run began."""
    for folder in list(_locks):
        close(Path(folder))
    atomic.remove_empty_folders()


@lru_cache  # asked again later in the run, and the answer must not move with the clock
def run_folder(resume: str | None, outputs: str, name: str) -> str:
    """Where a run lives: the folder that is resumed, or a new one named by date, which this call creates."""
    if resume:
        return str(resume)

    def create() -> str:
        for path in dated(outputs, name):
            try:
                ownership.create_folder(path)
            except FileExistsError:
                continue
            return path.name
        raise AssertionError  # the names do not end

    try:
        return str(Path(str(outputs)) / agreed(create, name))
    except OSError as error:
        raise os_errors.explain(error, outputs, os_errors.OTHER_RUN, f"outputs={outputs}") or error from error
