"""What a search came to: its best trial, in a line and in optimization_results.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.files.atomic import write_text

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

FILE = "optimization_results.yaml"  # Optuna's sweeper and others of Hydra write one of this name
DIRECTION = {"min": "minimize", "max": "maximize"}


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Args:
        values: What was varied, by key.
        score: The task's monitor on the validation part; none where the run failed.
        folder: The run's, where it is known.
    """

    values: Mapping[str, Any]
    score: float | None
    folder: str | None = None


def score_of(job: JobReturn) -> float | None:
    """What a job returned, where it is a finite number; none where it failed."""
    from hydra.core.utils import JobStatus

    if job.status != JobStatus.COMPLETED:
        return None
    value = job.return_value
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def folder_of(job: JobReturn) -> str | None:
    """Where a job ran."""
    from omegaconf import OmegaConf

    found = OmegaConf.select(job.hydra_cfg, "hydra.runtime.output_dir") if job.hydra_cfg is not None else None
    return str(found) if found else None


def best(trials: Sequence[Trial], mode: str) -> Trial | None:
    """The trial with the largest or the smallest score, the first of equals; none where no run has one.

    Args:
        trials: All of them.
        mode: `max` or `min`, as the task says.
    """
    scored = [trial for trial in trials if trial.score is not None]
    key = (lambda trial: -trial.score) if mode == "max" else (lambda trial: trial.score)
    return min(scored, key=key, default=None)


def say(trials: Sequence[Trial], mode: str, monitor: str) -> str:
    """The best trial, its settings and its folder, in one line."""
    import os

    found = best(trials, mode)
    without = sum(trial.score is None for trial in trials)
    if found is None:
        return f"no best trial: none of {len(trials)} trials came to a {monitor}; their logs say why"
    of = f"{len(trials)} trials" + (f", {without} of them without a score" if without else "")
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in found.values.items()}
    values = " ".join(f"{key}={value}" for key, value in shown.items())
    where = f" ({os.path.relpath(found.folder)})" if found.folder else ""
    return f"best of {of}: {monitor} {found.score:.4g} with {values}{where}"


def write(folder: Path, trial: Trial, name: str) -> None:
    """Keep the best trial as the sweepers of Hydra do.

    Args:
        folder: Of the sweep.
        trial: The best.
        name: Of the sweeper.
    """
    from omegaconf import OmegaConf

    found = {"name": name, "best_params": dict(trial.values), "best_value": trial.score}
    write_text(folder / FILE, OmegaConf.to_yaml(OmegaConf.create(found)))
