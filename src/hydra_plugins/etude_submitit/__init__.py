"""Launchers for jobs on Slurm or in local processes, based on hydra-submitit-launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher

from etude.errors import UserError
from etude.sweeps.launcher import JobFunction, devices_per_node, record_failures

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Launcher that runs all jobs at the same time on this machine. Hydra finds launchers in `hydra_plugins` only.

    Args:
        settings: Options of submitit, as for hydra-submitit-launcher.
    """

    submitit_class = "LocalLauncher"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher of submitit. Hydra calls it before the first launch."""
        from hydra.errors import CompactHydraException

        try:
            from hydra_plugins.hydra_submitit_launcher import submitit_launcher
        except ImportError as error:
            raise CompactHydraException(
                "hydra/launcher=submitit_...: submitit is not installed; install it with pip install 'etude[submitit]'"
            ) from error
        try:
            settings = self.settings | self.settings_from_config(config)
        except UserError as error:
            raise CompactHydraException(str(error)) from error
        self.launcher = getattr(submitit_launcher, self.submitit_class)(**settings)
        self.launcher.setup(hydra_context=hydra_context, task_function=JobFunction(task_function), config=config)

    def settings_from_config(self, config: DictConfig) -> dict[str, Any]:
        """Return the options of submitit that are derived from the config."""
        return {}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs. A sweeper calls it once for all jobs, or once for each batch of a search."""
        from hydra.errors import CompactHydraException
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return record_failures(self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx))
        except (FailedJobError, UncompletedJobError) as error:  # refused by sbatch, or ended without a result
            reason = (str(error).strip().splitlines() or ["no reason was given"])[-1]
            folder = str(self.settings["submitit_folder"]).removesuffix("/%j")
            raise CompactHydraException(f"submitit: {reason} (its scripts and logs are in {folder})") from error


class SlurmLauncher(LocalLauncher):
    """Launcher that runs each job as a Slurm job. At its time limit, a job is queued again to resume in its folder."""

    submitit_class = "SlurmLauncher"

    def settings_from_config(self, config: DictConfig) -> dict[str, Any]:
        """Return the numbers of GPUs, processes and nodes of the trainer, unless they are set."""
        from shutil import which

        from omegaconf import OmegaConf

        if absent := [name for name in ("sbatch", "srun") if which(name) is None]:
            raise UserError(
                f"hydra/launcher=submitit_slurm: {absent[0]} is not installed here; start the sweep on a login "
                "node of the cluster, or remove hydra/launcher"
            )
        trainer: Any = OmegaConf.to_container(config.trainer, resolve=True)
        gpus, tasks = devices_per_node(trainer)
        required = {"gpus_per_node": gpus or None, "tasks_per_node": tasks, "nodes": trainer.get("num_nodes", 1)}
        return {key: value for key, value in required.items() if self.settings.get(key) in (None, 0)}
