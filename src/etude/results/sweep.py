"""After a sweep, one table over all of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback


class SweepTable(Callback):
    """Hydra calls this when the last job of a multirun has ended."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Collect the runs of the sweep, print their table and keep it as compare.csv."""
        from etude.results.compare import collect, show

        folder = Path(config.hydra.sweep.dir)
        if folder.is_dir():
            show(collect([folder]), folder)
