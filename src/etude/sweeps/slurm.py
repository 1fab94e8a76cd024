"""Jobs of a sweep on a cluster, with submitit."""

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


def devices_per_node(trainer: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of GPUs and processes that a job needs on each node. Each device has one process.

    Args:
        trainer: Config of the trainer. The accelerator `auto` requests a GPU, because Slurm shows a job only the
            requested GPUs.

    Returns:
        Number of GPUs (0 with `accelerator=cpu`), and number of processes.

    Raises:
        UserError: The number of devices depends on the node, which is unknown before the job starts.
    """
    devices = trainer.get("devices", 1)
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 0
    if count < 1:
        raise UserError(
            f"trainer.devices={devices}: Slurm needs a number of devices; add trainer.devices=4, for example"
        )
    return (0 if trainer.get("accelerator") == "cpu" else count), count


def record_failures(jobs: Sequence[JobReturn]) -> Sequence[JobReturn]:
    """Record failed jobs in the exit status, and mark them as completed without a score so that the sweep continues.

    Args:
        jobs: Results of submitit's launcher.
    """
    from hydra.core.utils import JobStatus

    STATUS.started = True
    for job in jobs:
        if job.status == JobStatus.FAILED:
            error = job._return_value
            refused = isinstance(error, UserError) and STATUS.exit_status != 1
            STATUS.exit_status = 2 if refused else 1
            log.error("%s: %s", " ".join(job.overrides or []), error)
            job.status, job.return_value = JobStatus.COMPLETED, None
    return jobs


@dataclass
class JobFunction:
    """Function that the process of a job calls.

    It calls Hydra's task function with the script and environment of the sweep.

    Args:
        function: Function that takes the composed config.
        script: Program of the sweep.
        environment: Environment variables that are copied from the process of the sweep.
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
        overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("sweep.resume=")]
        sys.argv = [self.script, *overrides]  # the record of a run contains the command that repeats it
        try:
            return self.function(config)
        except KeyboardInterrupt as stop:
            if isinstance(stop.__cause__, SystemExit):  # raised by submitit once the job is queued again
                raise stop.__cause__ from None
            raise
