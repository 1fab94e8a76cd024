"""Resumable Optuna search, based on hydra-optuna-sweeper."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from etude.files import atomic, ownership
from etude.sweeps.search import (
    DIRECTION,
    build_sampler,
    finished_trials,
    mark_schema_version,
    remove_overridden,
    requeue_interrupted_trials,
    summarise_trials,
)

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Sweeper for an Optuna study on disk. Hydra finds sweepers in `hydra_plugins` only.

    Args:
        n_trials: Number of trials of the complete study, including existing trials.
        n_jobs: Number of trials that are suggested and launched together.
        seed: Seed of the sampler.
        sampler: Config of an Optuna sampler. It is instantiated here, because a resumed study must not repeat the draws
            of its first trials.
        mode: `max` or `min`, as in the task.
        monitor: Name of the optimised score.
        storage: Address of the study's database.
        study_name: Name of the study in the database.
        max_failure_rate: Maximum share of failed trials in a batch. If more trials fail, the search ends.
        params: The search space as overrides by key. Overrides of the command line take precedence.
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
        """Store the context and check that Optuna is installed. Hydra calls it before the sweep."""
        from hydra.errors import CompactHydraException

        try:
            import hydra_plugins.hydra_optuna_sweeper.optuna_sweeper  # noqa: F401
        except ImportError as error:
            raise CompactHydraException(
                "sweep=optuna_...: Optuna is not installed; install it with pip install 'etude[optuna]', or use a "
                "random search with sweep=random_..."
            ) from error
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until the study has `n_trials`, and print the best one.

        Args:
            arguments: Overrides of the command line.
        """
        import optuna
        from hydra.errors import CompactHydraException
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
        from omegaconf import OmegaConf

        assert self.config is not None and self.hydra_context is not None
        folder = Path(self.config.hydra.sweep.dir)
        ownership.open_folder(folder)  # SQLite does not create the folder of its file
        ownership.check(folder / "search.db")
        ownership.record(folder / "search.db")
        atomic.write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self.config))
        optuna.logging.set_verbosity(logging.WARNING)
        direction = DIRECTION[self.mode]
        mark_schema_version(self.storage)
        study = optuna.create_study(
            storage=self.storage, study_name=self.study_name, direction=direction, load_if_exists=True
        )
        n_existing = requeue_interrupted_trials(study)
        sweeper = OptunaSweeper(
            build_sampler(self.sampler, self.seed + n_existing),
            direction,
            self.storage,
            self.study_name,
            max(self.n_trials - n_existing, 0),
            self.n_jobs,
            self.max_failure_rate,
            None,
            None,
            OmegaConf.create(remove_overridden(self.params or {}, arguments)),
        )
        sweeper.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        sweeper.sweeper.job_idx = n_existing  # so that job numbers equal trial numbers, also after a resume
        try:
            sweeper.sweep(arguments)
        except ValueError as error:
            trials = finished_trials(study)
            scored = any(trial.score is not None for trial in trials)
            summary = summarise_trials(trials, self.mode, self.monitor)
            raise CompactHydraException(f"the search cannot continue: {error}" if scored else summary) from error
        print(summarise_trials(finished_trials(study), self.mode, self.monitor))  # noqa: T201
