"""After a sweep, its folds pooled, its runs compared, and what was found kept beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Hydra calls this when the last job of a multirun has ended.

    Args:
        tables: Further tables by the name of their files, each in the words of `compare`:
            `{table2: ["rows=target,backbone", "cols=metric"]}`.
        maps: A target: of the runs that have it, the best of each backbone and the worst of all are mapped, as the
            validation part says. None draws no maps.
    """

    def __init__(self, tables: Mapping[str, Sequence[str]] | None = None, maps: str | None = None) -> None:
        self.tables = {name: [str(word) for word in words] for name, words in (tables or {}).items()}
        self.maps = maps

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Pool its folds, print the comparison of its runs, and write compare.csv, .md, .tex and .html, and the rest.

        What cannot be made, because runs failed or are missing, is said and left out: the sweep itself has ended.
        """
        from etude.results.compare import find, main

        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir() or not find(folder):
            return
        main([str(folder)])
        pages = [self._table(folder, name, words) for name, words in self.tables.items()]
        pages += [self._map(folder)] if self.maps else []
        for page in filter(None, pages):
            print(page)  # noqa: T201

    def _table(self, folder: Path, name: str, words: list[str]) -> Path | None:
        """Print one further table and write its files; its page."""
        from dataclasses import replace

        from etude.results.comparison.build import build
        from etude.results.comparison.scores import gather
        from etude.results.comparison.terminal import show
        from etude.results.comparison.wish import parse
        from etude.results.comparison.write import write

        try:
            wish, _ = parse(words)
            made = build(gather(folder), replace(wish, to=folder, stem=name), tests=False)  # cells are means over seeds
            print(f"\n{name}")  # noqa: T201
            show(made)
            return write(made)[-1]
        except Exception as error:  # the runs are there, whatever a page has against them
            log.warning("%s: left out: %s", name, error)
            return None

    def _map(self, folder: Path) -> Path | None:
        """The page with maps of the embeddings."""
        from etude.results.comparison.scores import gather
        from etude.results.maps.command import latent
        from etude.results.maps.extremes import extremes
        from etude.results.maps.words import Wish

        runs = extremes(gather(folder), str(self.maps))
        try:
            return latent(Wish([run.folder for run in runs], folder)) if runs else None
        except Exception as error:  # the runs are there, whatever a page has against them
            log.warning("maps of %s: left out: %s", self.maps, error)
            return None
