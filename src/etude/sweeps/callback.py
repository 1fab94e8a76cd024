"""Hydra callback that compares the runs of a finished sweep."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from etude.files import os_errors
from etude.runs.folder import find_runs

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Callback that compares the runs of a sweep after its last job.

    Every run creates this callback, so only its methods import the reports.

    Args:
        tables: Further tables by the name of their files, each with fields of `CompareOptions`:
            `{table2: {rows: [target, backbone], cols: [metric], where: {target: [valence]}}}`.
        maps: Name of a target. Maps are drawn of the best run of each backbone and of the worst of all runs, according
            to the validation scores of this target. None draws no maps.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, Any]] | None = None, maps: str | None = None) -> None:
        self.tables = dict(tables or {})
        self.maps = maps

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Pool the folds, print the comparison of the runs, and write its files, the further tables and the maps.

        A page that cannot be built, because runs failed or are missing, is reported and omitted.
        """
        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir() or not find_runs(folder):
            return
        self._compare(folder)
        pages = [self._write_table(folder, name, table) for name, table in self.tables.items()]
        pages += [self._draw_maps(folder)] if self.maps else []
        for path in filter(None, pages):
            print(path)  # noqa: T201

    def _compare(self, folder: Path) -> None:
        """Compare all runs, and print the paths of the written files, or the error."""
        from etude.reports.comparison.compare import compare_folders  # heavy: numpy

        try:
            for path in compare_folders([folder])[1]:
                print(path)  # noqa: T201
        except Exception as error:
            explained = os_errors.to_user_error(error, os_errors.FOLDER_REMEDY)
            if explained is None:
                raise
            print(explained, file=sys.stderr)  # noqa: T201

    def _write_table(self, folder: Path, name: str, table: Mapping[str, Any]) -> Path | None:
        """Print a further table, write its files and return the path of its page, or None if there was an error."""
        from etude.reports.comparison.axes import options_from_config  # heavy: numpy
        from etude.reports.comparison.compare import compare_runs, write_comparison
        from etude.reports.comparison.scores import read_runs
        from etude.reports.comparison.text import print_comparison

        try:
            options = replace(options_from_config(table), out=folder, stem=name)
            comparison = compare_runs(read_runs(folder), options, tests=False)  # cells are means over seeds
            print(f"\n{name}")  # noqa: T201
            print_comparison(comparison)
            return write_comparison(comparison)[-1]
        except Exception as error:  # of any kind, because the runs are complete without the page
            log.warning("%s: left out: %s", name, error)
            return None

    def _draw_maps(self, folder: Path) -> Path | None:
        """Write maps of the embeddings and return the path of the page, or None if there was an error."""
        from etude.reports.comparison.scores import best_and_worst_runs, read_runs  # heavy: numpy
        from etude.reports.maps.page import MapOptions, draw_maps

        runs = best_and_worst_runs(read_runs(folder), str(self.maps))
        try:
            return draw_maps(MapOptions([run.folder for run in runs], folder)) if runs else None
        except Exception as error:  # of any kind, because the runs are complete without the page
            log.warning("maps of %s: left out: %s", self.maps, error)
            return None
