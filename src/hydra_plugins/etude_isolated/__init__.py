"""Registration of the launcher in `etude.sweeps`, because Hydra finds launchers in `hydra_plugins` only."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher

from etude.sweeps.launcher import create_sweep, run_jobs

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class IsolatedLauncher(Launcher):
    """Launcher that runs each job of a sweep in a separate process.

    Args:
        jobs: Number of jobs that run at the same time; None for the number of GPUs, or 1 without a GPU.
        devices: GPUs to distribute among the jobs; None for all visible GPUs.
        start: Start method, `fork` or `spawn`; None for a method that is safe on this machine.
    """

    def __init__(self, jobs: int | None = None, devices: Sequence[Any] | None = None, start: str | None = None) -> None:
        self.jobs, self.devices, self.start = jobs, devices, start

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepare the sweep. Hydra calls it before the first launch."""
        self.context, self.config = hydra_context, config
        self.sweep = create_sweep(config, self.jobs, self.devices, self.start)
        atexit.register(self.sweep.close)
        self.sweep.prepare_processes()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs. A sweeper calls it once for all jobs, or once for each batch of a search."""
        return run_jobs(self.sweep, job_overrides, initial_job_idx, self.config, self.context)
