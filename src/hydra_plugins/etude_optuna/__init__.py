"""An Optuna search that can be stopped and gone on with, by way of hydra-optuna-sweeper."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from etude.files import atomic, ownership
from etude.sweeps.search_space import remove_overridden
from etude.sweeps.study import (
    DIRECTION,
    build_sampler,
    finished_trials,
    mark_schema_version,
    requeue_interrupted_trials,
    summarise_trials,
)

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Hydra's sweeper for Optuna, for a study on disk. Hydra finds sweepers in `hydra_plugins` alone.

    Args:
        n_trials: Trials of the whole study: those that it already has count.
        n_jobs: Trials that are asked for, and launched, at a time.
        seed: Of the sampler.
        sampler: Config of an Optuna sampler; it is made here, because a study that goes on has to draw on, not anew.
        mode: `max` or `min`, as the task says.
        monitor: What the score is, in words.
        storage: Address of the study's data base.
        study_name: Its name there.
        max_failure_rate: Share of failed trials of a batch that ends the search.
        params: The space, in the words of the command line, which has the last one.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        seed: int,
        sampler: Mapping[str, Any] | None,
        mode: str,
        monitor: str,
        storage: str,
        study_name: str,
        max_failure_rate: float,
        params: DictConfig | None = None,
    ) -> None:
        self.n_trials, self.n_jobs, self.seed, self.sampler = n_trials, n_jobs, seed, sampler
        self.mode, self.monitor, self.storage, self.study_name = mode, monitor, storage, study_name
        self.max_failure_rate, self.params = max_failure_rate, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the sweep."""
        from hydra.errors import CompactHydraException

        try:
            import hydra_plugins.hydra_optuna_sweeper.optuna_sweeper  # noqa: F401
        except ImportError as error:
            raise CompactHydraException(
                "this search is led by Optuna, which is not installed: pip install 'etude[optuna]', or search at "
                "random with sweep=random_... in the place of sweep=optuna_..."
            ) from error
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Ask, launch and tell until the study has its trials, and say which was best.

        Args:
            arguments: The command line's overrides.
        """
        import optuna
        from hydra.errors import CompactHydraException
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
        from omegaconf import OmegaConf

        assert self.config is not None and self.hydra_context is not None
        folder = Path(self.config.hydra.sweep.dir)
        ownership.open_folder(folder)  # or SQLite has no place for its file
        ownership.check(folder / "search.db")
        ownership.record(folder / "search.db")
        atomic.write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self.config))
        optuna.logging.set_verbosity(logging.WARNING)
        direction = DIRECTION[self.mode]
        mark_schema_version(self.storage)
        study = optuna.create_study(
            storage=self.storage, study_name=self.study_name, direction=direction, load_if_exists=True
        )
        over = requeue_interrupted_trials(study)
        theirs = OptunaSweeper(
            build_sampler(self.sampler, self.seed + over),
            direction,
            self.storage,
            self.study_name,
            max(self.n_trials - over, 0),
            self.n_jobs,
            self.max_failure_rate,
            None,
            None,
            OmegaConf.create(remove_overridden(self.params or {}, arguments)),
        )
        theirs.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        theirs.sweeper.job_idx = over  # so that a job has the number of its trial, in this sitting and the next
        try:
            theirs.sweep(arguments)
        except ValueError as error:
            trials = finished_trials(study)
            scored = any(trial.score is not None for trial in trials)
            said = f"the search cannot go on: {error}" if scored else summarise_trials(trials, self.mode, self.monitor)
            raise CompactHydraException(said) from error
        print(summarise_trials(finished_trials(study), self.mode, self.monitor))  # noqa: T201
