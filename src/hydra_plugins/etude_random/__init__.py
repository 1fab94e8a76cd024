"""Random search without any extra package (Bergstra & Bengio, 2012)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from etude.errors import UserError
from etude.files import atomic, ownership
from etude.sweeps.search_space import parse_search_space, remove_overridden
from etude.sweeps.study import Trial, best_trial, job_folder, job_score, summarise_trials, write_best_trial

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class RandomSweeper(Sweeper):
    """Draws points of a space at random and launches them all at once. Hydra finds sweepers in `hydra_plugins` alone.

    Args:
        n_trials: How many points; of a smaller space all of them.
        seed: Of the draws: the same seed gives the same points.
        mode: `max` or `min`: which score is the best.
        monitor: What the score is, in words.
        params: The space, in the words of the command line, which has the last one.
    """

    def __init__(
        self, n_trials: int, seed: int, mode: str, monitor: str, params: Mapping[str, Any] | None = None
    ) -> None:
        self.n_trials, self.seed, self.mode, self.monitor, self.params = n_trials, seed, mode, monitor, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the sweep."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Draw, launch, and say which was best.

        Args:
            arguments: The command line's overrides.

        Returns:
            What the launcher returned of all jobs.
        """
        from hydra.errors import CompactHydraException
        from omegaconf import OmegaConf

        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        words = [*(f"{key}={value}" for key, value in remove_overridden(self.params, arguments).items()), *arguments]
        try:
            if self.n_trials < 1:
                raise UserError(f"hydra.sweeper.n_trials: must be at least 1, got {self.n_trials}")
            space = parse_search_space(words, self.hydra_context.config_loader)
            if not space.varied:
                raise UserError("a random search needs something to draw from: add optim.lr=interval(1e-4,1e-2)")
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
        if found := best_trial(trials, self.mode):
            write_best_trial(folder, found, "random")
        print(summarise_trials(trials, self.mode, self.monitor))  # noqa: T201
        return [returns]
