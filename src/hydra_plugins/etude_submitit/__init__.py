"""Jobs of a sweep by Slurm, or in processes beside one another, by way of hydra-submitit-launcher."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher

from etude.errors import UserError
from etude.sweeps.slurm import JobFunction, devices_per_node, record_failures

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


# our options have the names of submitit's, and Hydra checks them by its types; that is as it should be
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_\w+' is validated")


class LocalLauncher(Launcher):
    """Each job in a process of its own on this machine, all at once. Hydra finds launchers in `hydra_plugins` alone.

    Args:
        settings: Of submitit, as hydra-submitit-launcher takes them.
    """

    theirs = "LocalLauncher"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the first launch."""
        from hydra.errors import CompactHydraException

        try:
            from hydra_plugins.hydra_submitit_launcher import submitit_launcher
        except ImportError as error:
            raise CompactHydraException(
                "hydra/launcher=submitit_...: submitit is not installed: pip install 'etude[submitit]'"
            ) from error
        try:
            settings = self.settings | self.asked(config)
        except UserError as error:
            raise CompactHydraException(str(error)) from error
        self.launcher = getattr(submitit_launcher, self.theirs)(**settings)
        self.launcher.setup(hydra_context=hydra_context, task_function=JobFunction(task_function), config=config)

    def asked(self, config: DictConfig) -> dict[str, Any]:
        """What follows from the config."""
        return {}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by a sweeper, once for all jobs or once for each batch of a search."""
        from hydra.errors import CompactHydraException
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return record_failures(self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx))
        except (FailedJobError, UncompletedJobError) as error:  # sbatch refused it, or it died without a word
            said = (str(error).strip().splitlines() or ["no reason was given"])[-1]
            where = str(self.settings["submitit_folder"]).removesuffix("/%j")
            raise CompactHydraException(f"submitit: {said} (its scripts and logs are in {where})") from error


class SlurmLauncher(LocalLauncher):
    """Each job as one of Slurm's; a job that comes to the end of its time is queued again and goes on in its folder."""

    theirs = "SlurmLauncher"

    def asked(self, config: DictConfig) -> dict[str, Any]:
        """GPUs, processes and machines of the trainer, where nothing else is said."""
        from shutil import which

        from omegaconf import OmegaConf

        if absent := [name for name in ("sbatch", "srun") if which(name) is None]:
            raise UserError(
                f"hydra/launcher=submitit_slurm: there is no {absent[0]} here; start the sweep on a machine of the "
                "cluster that has Slurm, or leave hydra/launcher out"
            )
        trainer: Any = OmegaConf.to_container(config.trainer, resolve=True)
        gpus, tasks = devices_per_node(trainer)
        wanted = {"gpus_per_node": gpus or None, "tasks_per_node": tasks, "nodes": trainer.get("num_nodes", 1)}
        return {key: value for key, value in wanted.items() if self.settings.get(key) in (None, 0)}
