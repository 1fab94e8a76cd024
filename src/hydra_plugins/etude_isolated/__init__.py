"""Hydra finds launchers in `hydra_plugins` alone; all that this one does is in `etude.sweeps`."""

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
    """Each job of a sweep in a process of its own.

    Args:
        jobs: How many run at a time; none: as many as there are GPUs, or one on a CPU.
        devices: GPUs to share out; none: all that are visible.
        start: `fork`, `spawn`, or none for what is safe here.
    """

    def __init__(self, jobs: int | None = None, devices: Sequence[Any] | None = None, start: str | None = None) -> None:
        self.jobs, self.devices, self.start = jobs, devices, start

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the first launch."""
        self.context, self.config = hydra_context, config
        self.sweep = create_sweep(config, self.jobs, self.devices, self.start)
        atexit.register(self.sweep.close)
        self.sweep.prepare_processes()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by a sweeper, once for all jobs or once for each batch of a search."""
        return run_jobs(self.sweep, job_overrides, initial_job_idx, self.config, self.context)
