"""An Optuna study that was stopped is gone on with: its trials count, and what was cut off is done first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.search.best import Trial

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
