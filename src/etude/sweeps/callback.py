"""Hydra callback that compares the runs of a finished sweep."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from etude.evaluation.metrics import PRIMARY
from etude.files import os_errors
from etude.reports.comparison.axes import value
from etude.reports.comparison.compare import build, compare_folders, parse_options, write
from etude.reports.comparison.runs import ComparedRun
from etude.reports.comparison.scores import gather
from etude.reports.comparison.text import print_comparison
from etude.reports.maps import page
from etude.runs.folder import find_runs


def extremes(runs: Sequence[ComparedRun], target: str) -> list[ComparedRun]:
    """The best run of each backbone, the best of them first, and the worst of all runs, by the validation part.

    Args:
        runs: Runs in any state; those without a validation score of the target, and pooled ones, are left out.
        target: Name of a target.
    """
    scores = {run.folder: score for run in runs if not run.pooled and (score := _validated(run, target)) is not None}
    ranked = sorted((run for run in runs if run.folder in scores), key=lambda run: -scores[run.folder])
    best = {value(run, "backbone"): run for run in reversed(ranked)}  # the last to be entered stays
    chosen = [run for run in ranked if run in best.values()] + ranked[-1:]
    return list({run.folder: run for run in chosen}.values())


def _validated(run: ComparedRun, target: str) -> float | None:
    """The score that leads a target, on the validation part."""
    known = run.metrics.get(target, {})
    leading = known.get("primary") or PRIMARY.get(known.get("kind"), "")
    return known.get("splits", {}).get("val", {}).get("scores", {}).get(leading, {}).get("value")


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
        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir() or not find_runs(folder):
            return
        self._compare(folder)
        pages = [self._table(folder, name, words) for name, words in self.tables.items()]
        pages += [self._map(folder)] if self.maps else []
        for path in filter(None, pages):
            print(path)  # noqa: T201

    def _compare(self, folder: Path) -> None:
        """Compare all runs, and print the paths of the files; print the error where that is impossible."""
        try:
            for path in compare_folders([folder]):
                print(path)  # noqa: T201
        except Exception as error:
            explained = os_errors.readable(error, os_errors.OTHER_FOLDER)
            if explained is None:
                raise
            print(explained, file=sys.stderr)  # noqa: T201

    def _table(self, folder: Path, name: str, words: list[str]) -> Path | None:
        """Print one further table and write its files; its page."""
        try:
            wish, _ = parse_options(words)
            made = build(gather(folder), replace(wish, to=folder, stem=name), tests=False)  # cells are means over seeds
            print(f"\n{name}")  # noqa: T201
            print_comparison(made)
            return write(made)[-1]
        except Exception as error:  # the runs are there, whatever a page has against them
            log.warning("%s: left out: %s", name, error)
            return None

    def _map(self, folder: Path) -> Path | None:
        """The page with maps of the embeddings."""
        runs = extremes(gather(folder), str(self.maps))
        try:
            return page.draw_maps(page.MapOptions([run.folder for run in runs], folder)) if runs else None
        except Exception as error:  # the runs are there, whatever a page has against them
            log.warning("maps of %s: left out: %s", self.maps, error)
            return None
