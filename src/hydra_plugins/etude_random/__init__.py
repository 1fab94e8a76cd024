"""Random search without additional packages (Bergstra & Bengio, 2012)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from etude.errors import UserError
from etude.sweeps.search import (
    SingleBatchSweeper,
    Trial,
    best_trial,
    job_folder,
    job_score,
    parse_search_space,
    remove_overridden,
    summarise_trials,
    write_best_trial,
)


class RandomSweeper(SingleBatchSweeper):
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

    def sweep(self, arguments: list[str]) -> Any:
        """Launch random points, and print the best one.

        Args:
            arguments: Overrides of the command line.

        Returns:
            The launcher's results of all jobs, in a list.
        """
        from hydra.errors import CompactHydraException

        assert self.hydra_context is not None and self.config is not None
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
        self.validate_batch_is_legal(jobs)
        returns = self.launch(jobs)
        trials = [Trial(point, job_score(job), job_folder(job)) for point, job in zip(points, returns, strict=True)]
        if best := best_trial(trials, self.mode):
            write_best_trial(Path(self.config.hydra.sweep.dir), best, "random")
        print(summarise_trials(trials, self.mode, self.monitor))  # noqa: T201
        return [returns]
