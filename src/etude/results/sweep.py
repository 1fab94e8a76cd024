"""After a sweep, its folds pooled, its runs compared, and what was found kept beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback


class SweepTable(Callback):
    """Hydra calls this when the last job of a multirun has ended."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Pool its folds, print the comparison of its runs, and write compare.csv, .md, .tex and .html."""
        from etude.results.compare import find, main

        folder = Path(config.hydra.sweep.dir)
        if folder.is_dir() and find(folder):
            main([str(folder)])
