"""A job of a sweep that runs in Hydra's own process or in submitit's, and may have run before in the same folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.compose.stored import finished
from etude.errors import UserError

NEW, BEGUN, FINISHED = "new", "begun", "finished"


def refuse_processes(trainer: Mapping[str, Any]) -> None:
    """Refuse a trainer of several processes, unless Slurm has started them.

    Lightning would start the second process with the whole sweep's command, and each would train another config.

    Args:
        trainer: The config's.

    Raises:
        UserError: It wants several.
    """
    devices = trainer.get("devices", 1)
    alone = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if alone and trainer.get("strategy", "auto") == "auto":
        return
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
        return
    raise UserError(
        "trainer: in a sweep by this launcher each job has one process; leave hydra/launcher out, or take "
        "hydra/launcher=submitit_slurm on a cluster"
    )


def standing(folder: Path, config: Mapping[str, Any]) -> str:
    """How far a run of this config has come in this folder.

    Args:
        folder: The job's.
        config: Its resolved config.

    Returns:
        `new`, `begun` where there is a checkpoint to go on from, or `finished`.

    Raises:
        UserError: A run of another config is there.
    """
    done = finished(folder)
    if not done and not (folder / "checkpoints" / "last.ckpt").is_file():
        return NEW
    from omegaconf import OmegaConf

    path = folder / "config.yaml"
    stored = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None
    if not isinstance(stored, dict) or (other := _differing(_flat(stored), _flat(config))):
        what = f": {', '.join(other[:3])}" if isinstance(stored, dict) else ""
        raise UserError(
            f"{os.path.relpath(folder)}: holds a run of another config{what}; give the sweep another folder by "
            "hydra.sweep.dir=..., or the overrides that it was begun with"
        )
    return FINISHED if done else BEGUN


def _flat(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Values by dotted keys; what says how a sweep is run, and not what, is left out."""
    from etude.results.comparison.axes import flat

    return flat({str(key): value for key, value in config.items() if key not in ("sweep", "resume")})


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in {**one, **other} if one.get(key, ...) != other.get(key, ...)]
