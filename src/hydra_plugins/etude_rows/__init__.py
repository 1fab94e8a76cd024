"""Registration of the sweeper for rows of overrides, because Hydra finds sweepers in `hydra_plugins` only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.errors import UserError
from etude.sweeps.jobs import check_rows, combine_rows, rows_key
from etude.sweeps.search import SingleBatchSweeper


class RowSweeper(SingleBatchSweeper):
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

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the jobs of all rows.

        Args:
            arguments: Overrides of the command line.

        Returns:
            The launcher's results of all jobs, in a list.
        """
        from hydra.errors import CompactHydraException

        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        source = rows_key(self.config.hydra.sweeper)
        try:
            jobs = combine_rows(self.rows, self.params, arguments, self.name_key, loader, source)
            check_rows(jobs, self.config, loader, source)
        except UserError as error:
            raise CompactHydraException(str(error)) from error
        return [self.launch([job.overrides for job in jobs])]
