"""After a sweep, its folds pooled, and one table over all of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback


class SweepTable(Callback):
    """Hydra calls this when the last job of a multirun has ended."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Pool its folds, collect its runs, print their table and keep it as compare.csv."""
        from etude.results.compare import collect, find, show
        from etude.results.pool import pool

        folder = Path(config.hydra.sweep.dir)
        if folder.is_dir():
            pool(folder, find(folder))
            show(collect([folder]), folder)
