"""Registration of the sweeper for rows of overrides, because Hydra finds sweepers in `hydra_plugins` only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from etude.errors import UserError
from etude.files import atomic, ownership
from etude.runs.folder import MULTIRUN
from etude.sweeps.jobs import check_rows, combine_rows, rows_key

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class RowSweeper(Sweeper):
    """Sweeper that combines rows of overrides with the values of the other keys.

    Args:
        rows: Overrides of each row in one text, by the name of the row. None leaves a row out.
        name_key: Config key that contains the name of the row in each job. None adds no key.
        params: Values of other keys. Rows and overrides of the command line take precedence.
    """

    def __init__(
        self,
        rows: Mapping[str, str | None],
        name_key: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.rows, self.name_key, self.params = rows, name_key, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the context and create the launcher. Hydra calls it before the sweep."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the jobs of all rows.

        Args:
            arguments: Overrides of the command line.

        Returns:
            The launcher's results of all jobs, in a list.
        """
        from hydra.errors import CompactHydraException
        from omegaconf import OmegaConf

        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        source = rows_key(self.config.hydra.sweeper)
        try:
            jobs = combine_rows(self.rows, self.params, arguments, self.name_key, loader, source)
            check_rows(jobs, self.config, loader, source)
        except UserError as error:
            raise CompactHydraException(str(error)) from error
        folder = Path(self.config.hydra.sweep.dir)
        ownership.open_folder(folder)
        atomic.write_text(folder / MULTIRUN, OmegaConf.to_yaml(self.config))
        return [self.launcher.launch([job.overrides for job in jobs], initial_job_idx=0)]
