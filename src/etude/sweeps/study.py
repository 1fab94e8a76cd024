"""Optuna studies that can be resumed, and the best trial of a search."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.files.atomic import write_text

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn


FILE = "optimization_results.yaml"  # the name that Hydra's sweepers use
DIRECTION = {"min": "minimize", "max": "maximize"}


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Args:
        values: Varied values by key.
        score: Monitored score of the task on the validation split; None if the run failed.
        folder: Run folder, or None if it is unknown.
    """

    values: Mapping[str, Any]
    score: float | None
    folder: str | None = None


def job_score(job: JobReturn) -> float | None:
    """Return the score of a job, or None if it failed or its score is not finite."""
    from hydra.core.utils import JobStatus

    if job.status != JobStatus.COMPLETED:
        return None
    value = job.return_value
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def job_folder(job: JobReturn) -> str | None:
    """Return the run folder of a job, or None if it is unknown."""
    from omegaconf import OmegaConf

    folder = OmegaConf.select(job.hydra_cfg, "hydra.runtime.output_dir") if job.hydra_cfg is not None else None
    return str(folder) if folder else None


def best_trial(trials: Sequence[Trial], mode: str) -> Trial | None:
    """Return the trial with the best score, or the first of several equal trials. None if no trial has a score.

    Args:
        trials: All trials.
        mode: `max` or `min`, the mode of the task.
    """
    scored = [trial for trial in trials if trial.score is not None]
    key = (lambda trial: -trial.score) if mode == "max" else (lambda trial: trial.score)
    return min(scored, key=key, default=None)


def summarise_trials(trials: Sequence[Trial], mode: str, monitor: str) -> str:
    """Return the best trial, its values and its folder in one line."""
    best = best_trial(trials, mode)
    n_failed = sum(trial.score is None for trial in trials)
    if best is None:
        return f"no best trial: none of {len(trials)} trials has a {monitor}; the logs contain the reasons"
    count = f"{len(trials)} trials" + (f", {n_failed} of them without a score" if n_failed else "")
    formatted = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in best.values.items()}
    values = " ".join(f"{key}={value}" for key, value in formatted.items())
    folder = f" ({os.path.relpath(best.folder)})" if best.folder else ""
    return f"best of {count}: {monitor} {best.score:.4g} with {values}{folder}"


def write_best_trial(folder: Path, trial: Trial, name: str) -> None:
    """Write the best trial in the format of Hydra's sweepers.

    Args:
        folder: Folder of the sweep.
        trial: The best trial.
        name: Name of the sweeper.
    """
    from omegaconf import OmegaConf

    result = {"name": name, "best_params": dict(trial.values), "best_value": trial.score}
    write_text(folder / FILE, OmegaConf.to_yaml(OmegaConf.create(result)))


REQUEUED = "again"  # user attribute of an interrupted trial whose values are queued for a later trial


def mark_schema_version(storage: str) -> None:
    """Store the schema version in a new database.

    Optuna 2.10 is the last version that hydra-optuna-sweeper supports. It stores the schema version without a commit,
    and SQLAlchemy 2 then rolls it back (hydra issue 2562). If the version is stored beforehand, Optuna works with
    SQLAlchemy 2.

    Args:
        storage: Address of the database.
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


def requeue_interrupted_trials(study: Any) -> int:
    """Close the interrupted trials of a study and queue their values, so that the study can be resumed.

    The next trials then have the same values, and their runs are resumed in their folders.

    Args:
        study: An `optuna.Study` that no other process uses.

    Returns:
        Number of finished trials.
    """
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.trial import TrialState

    n_finished = 0
    for trial in study.get_trials(deepcopy=True):
        if trial.state == TrialState.RUNNING:
            if trial.params:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)  # enqueue_trial, unchanged since Optuna 1.2
                    study.enqueue_trial(trial.params)
            study._storage.set_trial_user_attr(trial._trial_id, REQUEUED, True)
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state.is_finished() and not trial.user_attrs.get(REQUEUED):
            n_finished += 1
    return n_finished


def build_sampler(sampler: Mapping[str, Any] | None, seed: int) -> Any:
    """Return an Optuna sampler, with this seed if its config has a seed. None uses Optuna's default sampler."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    if sampler is None:
        return None
    node: Any = OmegaConf.to_container(OmegaConf.create(dict(sampler)), resolve=True)
    return instantiate(node | {"seed": seed} if "seed" in node else node)


def finished_trials(study: Any) -> list[Trial]:
    """Return the finished trials of a study, without interrupted trials that were queued again."""
    from optuna.trial import TrialState

    return [
        Trial(trial.params, trial.value if trial.state == TrialState.COMPLETE else None)
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not trial.user_attrs.get(REQUEUED)
    ]
