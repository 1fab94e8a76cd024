"""Optuna studies that can be resumed, and the best trial of a search."""

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


AGAIN = "again"  # an attribute of a trial that was cut off, whose values are tried again by a later one


def stamp(storage: str) -> None:
    """Say in a new data base which tables it is going to have.

    Optuna 2.10, the last that hydra-optuna-sweeper takes, says so without a commit, which SQLAlchemy 2 takes back
    (hydra's issue 2562); said beforehand, all else works with it.

    Args:
        storage: Its address.
    """
    import optuna
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    engine = create_engine(storage)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        if context.get_current_revision() is None:
            tables = Path(optuna.__file__).parent / "storages" / "_rdb" / "alembic"
            context.stamp(ScriptDirectory(str(tables)), "head")
    engine.dispose()


def take_up(study: Any) -> int:
    """Make a study ready to go on.

    A sweep that was stopped leaves trials that nobody will ever finish. They are closed, and their values are queued,
    so that the next trials are these very ones, and their runs go on in their folders.

    Args:
        study: An `optuna.Study` that no other process works on.

    Returns:
        How many of its trials are over.
    """
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.trial import TrialState

    over = 0
    for trial in study.get_trials(deepcopy=True):
        if trial.state == TrialState.RUNNING:
            if trial.params:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)  # as it has been since 1.2
                    study.enqueue_trial(trial.params)
            study._storage.set_trial_user_attr(trial._trial_id, AGAIN, True)
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state.is_finished() and not trial.user_attrs.get(AGAIN):
            over += 1
    return over


def seeded(sampler: Mapping[str, Any] | None, seed: int) -> Any:
    """An Optuna sampler of a config, with a seed where it takes one; none leaves the choice to Optuna."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    if sampler is None:
        return None
    node: Any = OmegaConf.to_container(OmegaConf.create(dict(sampler)), resolve=True)
    return instantiate(node | {"seed": seed} if "seed" in node else node)


def trials(study: Any) -> list[Trial]:
    """What a study has tried, without what was cut off and tried again."""
    from optuna.trial import TrialState

    return [
        Trial(trial.params, trial.value if trial.state == TrialState.COMPLETE else None)
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not trial.user_attrs.get(AGAIN)
    ]
