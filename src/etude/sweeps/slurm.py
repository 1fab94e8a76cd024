"""Jobs of a sweep on a cluster, by submitit."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etude.errors import UserError
from etude.sweeps.progress import STATUS

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import TaskFunction


log = logging.getLogger(__name__)


def per_node(trainer: Mapping[str, Any]) -> tuple[int, int]:
    """GPUs and processes that a job needs on each machine: a process for each GPU.

    Args:
        trainer: The config's. An accelerator of `auto` asks for a GPU, since a job sees none that it did not ask for.

    Returns:
        GPUs, 0 with `accelerator=cpu`, and processes.

    Raises:
        UserError: The number of devices is left to what a machine has, which nobody knows before the job is there.
    """
    devices = trainer.get("devices", 1)
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 0
    if count < 1:
        raise UserError(f"trainer.devices={devices}: Slurm has to be told how many; add trainer.devices=4, say")
    return (0 if trainer.get("accelerator") == "cpu" else count), count


def taken(jobs: Sequence[JobReturn]) -> Sequence[JobReturn]:
    """Note what failed for the exit status, and make it no end of the sweep: a failed job has no score.

    Args:
        jobs: As submitit's launcher returns them.
    """
    from hydra.core.utils import JobStatus

    STATUS.begun = True
    for job in jobs:
        if job.status == JobStatus.FAILED:
            error = job._return_value
            refused = isinstance(error, UserError) and STATUS.status != 1
            STATUS.status = 2 if refused else 1
            log.error("%s: %s", " ".join(job.overrides or []), error)
            job.status, job.return_value = JobStatus.COMPLETED, None
    return jobs


@dataclass
class Task:
    """What a job's process calls: the entry point of every run, under the command line and the settings of the sweep's.

    Args:
        function: Takes a composed config.
        script: The program that was called.
        environment: Variables that have to be as where the sweep was started.
    """

    function: TaskFunction
    script: str = field(default_factory=lambda: sys.argv[0])
    environment: dict[str, str] = field(
        default_factory=lambda: {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    )

    def __call__(self, config: Any) -> Any:
        """Run a job."""
        from hydra.core.hydra_config import HydraConfig

        os.environ.update(self.environment)
        told = [word for word in HydraConfig.get().overrides.task if not word.startswith("sweep.resume=")]
        sys.argv = [self.script, *told]  # the record of a run says how to run it again
        try:
            return self.function(config)
        except KeyboardInterrupt as stop:
            if isinstance(stop.__cause__, SystemExit):  # submitit's, once the job is queued again
                raise stop.__cause__ from None
            raise
