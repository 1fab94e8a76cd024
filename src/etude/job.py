"""One composed config to a run in its folder: what the command line and `etude.run` have in common."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from etude.compose.checked import checked as plain
from etude.errors import UserError
from etude.launch import agreed, dated, first


def prepare(words: Sequence[str]) -> None:
    """What has to be in place before the words of a command are composed.

    Raises:
        UserError: What is to be resumed is no run.
    """
    from omegaconf import OmegaConf

    # Threads that wait for one another spin by default, and beside another busy program they spin through whole time
    # slices: an epoch of the LSTM took 42 s so, and 0.9 s with waiting threads asleep. OpenMP reads this once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for word in words:
        said = Path(word[7:].strip("'"))  # as Hydra reads a name with a blank in it
        if word.startswith("resume=") and word != "resume=null" and not (said / "config.yaml").is_file():
            raise UserError(f"{word}: is not a run folder, it has no config.yaml")
    run_folder.cache_clear()
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def checked(composed: Any, folder: Path) -> tuple[dict[str, Any], bool]:
    """The plain config of a run, and whether it goes on with the run that is in the folder.

    Args:
        composed: What Hydra made.
        folder: The run's folder; it is taken away when the config has faults.

    Raises:
        UserError: Values are missing, cannot be resolved, or do not fit the code; all of them are named.
    """
    if composed.get("resume"):
        return _stored(folder), True  # first of all, because the folder of a run is never taken away
    try:
        return plain(composed), False
    except UserError:
        discard(folder)
        raise


def carry_out(config: dict[str, Any], folder: Path, resume: bool) -> dict[str, Any]:
    """Run a checked config in its folder.

    Returns:
        The content of metrics.json; empty where there is no test, and on all processes but the first.
    """
    from omegaconf import OmegaConf

    from etude.experiment import run  # heavy, and only now needed

    known = [folder / "checkpoints", folder / "trackers.json"]  # there is something, or somebody knows of it
    trained = known[0].is_dir()
    if not first():
        logging.getLogger().setLevel(logging.ERROR)
    if first() and not resume:
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    try:
        return run(config, folder, resume=resume)
    except UserError:
        if not resume and not trained and not any(path.exists() for path in known):
            discard(folder)
        raise


def advice(folder: Path) -> str:
    """How to go on with a run that was stopped, where it left something to go on from."""
    there = (folder / "checkpoints" / "last.ckpt").is_file()
    return f"; go on with: python train.py resume={os.path.relpath(folder)}" if there else ""


def discard(folder: Path) -> None:
    """Take away the folder of a run that never began; one that an earlier run is in stays as it is."""
    silence(folder)
    if first() and not any((folder / name).exists() for name in ("checkpoints", "metrics.json", "trackers.json")):
        shutil.rmtree(folder, ignore_errors=True)


def silence(folder: Path) -> None:
    """Write no more into the logs of a run's folder."""
    home = str(folder.resolve()) + os.sep
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler) and os.path.realpath(handler.baseFilename).startswith(home):
            logging.getLogger().removeHandler(handler)
            handler.close()


@lru_cache  # asked again later in the run, and the answer must not move with the clock
def run_folder(resume: str | None, outputs: str, name: str) -> str:
    """Where a run lives: the folder that is resumed, or a new one named by date."""
    if resume:
        return str(resume)

    def propose() -> str:
        return next(path.name for path in dated(outputs, name) if not path.exists())

    return str(Path(outputs) / agreed(propose, name))


def _stored(folder: Path) -> dict[str, Any]:
    """The config of the run that is resumed."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from etude.build import vet

    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise UserError(f"resume goes on with the run's own config; leave out {' '.join(others)}")
    if (folder / "metrics.json").is_file():
        raise UserError(f"resume={os.path.relpath(folder)}: this run is finished; its report is there")
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(config, dict)
    vet(config)
    return {str(key): value for key, value in config.items()}
