"""Random search without additional packages (Bergstra & Bengio, 2012)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from etude.errors import UserError
from etude.files import atomic, ownership
from etude.sweeps.search import (
    Trial,
    best_trial,
    job_folder,
    job_score,
    parse_search_space,
    remove_overridden,
    summarise_trials,
    write_best_trial,
)

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class RandomSweeper(Sweeper):
    """Sweeper that launches random points of a search space. Hydra finds sweepers in `hydra_plugins` only.

    Args:
        n_trials: Number of points. In a smaller space, all points are launched.
        seed: Seed of the random points. Equal seeds give equal points.
        mode: `max` or `min`, for the best score.
        monitor: Name of the compared score.
        params: The search space as overrides by key. Overrides of the command line take precedence.
    """

    def __init__(
        self, n_trials: int, seed: int, mode: str, monitor: str, params: Mapping[str, Any] | None = None
    ) -> None:
        self.n_trials, self.seed, self.mode, self.monitor, self.params = n_trials, seed, mode, monitor, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the context and create the launcher. Hydra calls it before the sweep."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch random points, and print the best one.

        Args:
            arguments: Overrides of the command line.

        Returns:
            The launcher's results of all jobs, in a list.
        """
        from hydra.errors import CompactHydraException
        from omegaconf import OmegaConf

        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        params = remove_overridden(self.params, arguments)
        overrides = [*(f"{key}={value}" for key, value in params.items()), *arguments]
        try:
            if self.n_trials < 1:
                raise UserError(f"hydra.sweeper.n_trials: must be at least 1, got {self.n_trials}")
            space = parse_search_space(overrides, self.hydra_context.config_loader)
            if not space.varied:
                raise UserError("the search space is empty; add a key such as optim.lr=interval(1e-4,1e-2)")
        except UserError as error:
            raise CompactHydraException(str(error)) from error
        points = list(islice(space.sample_points(self.seed), self.n_trials))
        fixed = [f"{key}={value}" for key, value in space.fixed.items()]
        jobs = [[*(f"{key}={value}" for key, value in point.items()), *fixed] for point in points]
        folder = Path(self.config.hydra.sweep.dir)
        self.validate_batch_is_legal(jobs)
        ownership.open_folder(folder)
        atomic.write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self.config))
        returns = self.launcher.launch(jobs, initial_job_idx=0)
        trials = [Trial(point, job_score(job), job_folder(job)) for point, job in zip(points, returns, strict=True)]
        if best := best_trial(trials, self.mode):
            write_best_trial(folder, best, "random")
        print(summarise_trials(trials, self.mode, self.monitor))  # noqa: T201
        return [returns]
