"""Hydra callbacks that compare the runs of a finished sweep, and check output folders before Hydra writes into them."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf, read_write

from etude.config.instantiate import expand_functions
from etude.errors import Refused, RunError, UserError
from etude.evaluation.formatting import register_metrics
from etude.experiment import start
from etude.files import os_errors, ownership
from etude.runs.folder import ENSEMBLE, JOBS, MULTIRUN, RunFolder, find_runs
from etude.sweeps.jobs import FAILED
from etude.sweeps.progress import STATUS, fix_folder
from etude.system.distributed import is_rank_zero

if TYPE_CHECKING:
    from etude.reports.comparison.axes import CompareOptions
    from etude.reports.comparison.runs import ComparedRun
    from etude.reports.comparison.sweep_page import PageOptions
    from etude.reports.comparison.text import Comparison

KEY = "hydra.callbacks.table"  # of this callback in the config
RESERVED = ("compare", "curves", "leaderboard", "maps")  # names of the pages of each sweep
HYDRA_OUTPUTS = ("config.yaml", "hydra.yaml", "overrides.yaml")  # in hydra.output_subdir, if it is set
log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Callback that compares the runs of a sweep after its last job.

    Every run creates this callback, so only its methods import the reports.

    Args:
        tables: Further tables by the name of their files, each with fields of `CompareOptions`:
            `{table2: {rows: [target, backbone], cols: [metric], where: {target: [valence]}}}`.
        maps: Name of a target. Maps are drawn of the best run of each backbone and of the worst of all runs, according
            to the validation scores of this target. None draws no maps.
        page: Fields of `PageOptions` of a page that contains all further tables in their order. None writes no page.
        ensemble: Whether all runs are averaged in the folder `ensemble`.
        leaderboard: Whether to rank the encoders and read-outs of the sweep on a page, and to print this ranking
            instead of the comparison.
    """

    def __init__(
        self,
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        maps: str | None = None,
        page: Mapping[str, Any] | None = None,
        ensemble: bool = False,
        leaderboard: bool = False,
    ) -> None:
        self.tables = {} if tables is None else tables
        self.maps = maps
        self.page = page
        self.ensemble = ensemble
        self.leaderboard = leaderboard

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Check all options before the first job, because Hydra turns the errors of later calls into warnings.

        Raises:
            Refused: An option is invalid.
        """
        expanded = expand_functions({"task": OmegaConf.to_container(config.task)} if "task" in config else {})
        register_metrics((expanded.get("task") or {}).get("targets") or {})
        if self.tables or self.maps or self.page:
            _refuse_on_error(self.check_options)

    def check_options(self) -> None:
        """Check the options of all tables, of the maps and of the page, or raise UserError."""
        if not isinstance(self.tables, Mapping):
            example = "{table2: {rows: [backbone], cols: [metric]}}"
            raise UserError(f"{KEY}.tables: must be a mapping of tables by name, such as {example}; got {self.tables}")
        for name, table in self.tables.items():
            _table_options(name, table)
        if self.maps is not None and not isinstance(self.maps, str):
            raise UserError(f"{KEY}.maps: must be the name of a target, such as genre, or null; got {self.maps}")
        sections = _page_options(self.page, self.tables).sections if self.page else {}
        if unknown := [name for name in sections if name not in self.tables]:
            known = ", ".join(map(str, self.tables)) or "none"
            raise UserError(f"{KEY}.page.sections.{unknown[0]}: is not a table of this sweep; available: {known}")

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Pool the folds, print the comparison of the runs, and write its files, further tables, maps and a page.

        A page that cannot be built, because runs failed or are missing, is reported and omitted.
        """
        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir() or not find_runs(folder):
            return
        if self.ensemble:
            self._average(folder)
        self._compare(folder)
        if not (self.tables or self.maps or self.page):
            return
        from etude.reports.comparison.scores import read_runs  # heavy: numpy

        runs = read_runs(folder)  # after the folds are pooled
        results = {name: self._write_table(folder, runs, name, table) for name, table in self.tables.items()}
        pages = [page for page, _, _ in results.values()]
        pages += [self._draw_maps(folder, runs)] if self.maps else []
        if self.page:
            sections = {name: (comparison, error) for name, (_, comparison, error) in results.items()}
            pages.append(self._write_page(folder, runs, self.page, sections))
        for path in filter(None, pages):
            print(path)  # noqa: T201

    def _average(self, folder: Path) -> None:
        """Average all runs, and print the path of the report. An error is printed, and the sweep then has status 1."""
        from etude.experiment.ensemble import EnsembleOptions, make_ensemble  # heavy: torch

        root = logging.getLogger()
        level = root.level  # Hydra configures the logging of the jobs alone
        root.setLevel(logging.INFO)
        try:
            _check_average(folder)
            if not RunFolder(folder / ENSEMBLE).is_finished:
                print(RunFolder(make_ensemble(EnsembleOptions([folder]))).report_path)  # noqa: T201
        except UserError as error:
            STATUS.exit_status = STATUS.exit_status or 1
            print(f"the runs are not averaged: {error}", file=sys.stderr)  # noqa: T201
        finally:
            root.setLevel(level)

    def _compare(self, folder: Path) -> None:
        """Compare all runs, and print the paths of the written files, or the error."""
        from etude.reports.comparison.compare import compare_folders  # heavy: numpy

        try:
            paths = self._rank(folder) if self.leaderboard else compare_folders([folder])[1]
            for path in paths:
                print(path)  # noqa: T201
        except Exception as error:
            explained = os_errors.to_user_error(error, os_errors.FOLDER_REMEDY)
            if explained is None:
                raise
            print(explained, file=sys.stderr)  # noqa: T201

    def _rank(self, folder: Path) -> list[Path]:
        """Print the leaderboard instead of the comparison, write the files of both, and return their paths."""
        from etude.reports.comparison.axes import CompareOptions, axis_value  # heavy: numpy
        from etude.reports.comparison.compare import compare, write_comparison
        from etude.reports.comparison.leaderboard import build_leaderboards
        from etude.reports.comparison.leaderboard_page import leaderboard_text, write_leaderboard
        from etude.reports.comparison.text import print_comparison

        comparison = compare([folder], CompareOptions(out=folder))
        paths = write_comparison(comparison)
        try:
            boards, remarks = build_leaderboards(comparison)
            remarks += _failures_without_run(folder)
        except UserError as error:
            log.warning("leaderboard: left out: %s", error)
            print_comparison(comparison)
            return paths
        print(leaderboard_text(boards, remarks))  # noqa: T201
        data = ", ".join(dict.fromkeys(axis_value(run, "data") for run in comparison.runs))
        return [*paths, *write_leaderboard(folder, boards, remarks, data)]

    def _write_table(
        self, folder: Path, runs: list[ComparedRun], name: str, table: Mapping[str, Any]
    ) -> tuple[Path | None, Comparison | None, str]:
        """Print a further table and write its files.

        Returns:
            The path of its page and the comparison, both None if there was an error, and the error or "".
        """
        from etude.reports.comparison.compare import compare_runs, write_comparison  # heavy: numpy
        from etude.reports.comparison.text import print_comparison

        try:
            options = replace(_table_options(name, table), out=folder, stem=name)
            comparison = compare_runs(runs, options, tests=False)  # cells are means over seeds
            print(f"\n{name}")  # noqa: T201
            print_comparison(comparison)
            return write_comparison(comparison)[-1], comparison, ""
        except Exception as error:  # of any kind, because the runs are complete without the page
            log.warning("%s: left out: %s", name, error)
            return None, None, str(error)

    def _write_page(
        self,
        folder: Path,
        runs: list[ComparedRun],
        options: Mapping[str, Any],
        results: Mapping[str, tuple[Comparison | None, str]],
    ) -> Path | None:
        """Write the page of all further tables and return its path, or None if there was an error."""
        from etude.reports.comparison.sweep_page import write_sweep_page  # heavy: numpy

        try:
            page = _page_options(options, self.tables)
            sections = [page.section(name, comparison, error) for name, (comparison, error) in results.items()]
            return write_sweep_page(folder, page, sections, runs)
        except Exception as error:  # of any kind, because the runs are complete without the page
            log.warning("page of the sweep: left out: %s", error)
            return None

    def _draw_maps(self, folder: Path, runs: list[ComparedRun]) -> Path | None:
        """Write maps of the embeddings and return the path of the page, or None if there was an error."""
        from etude.reports.comparison.scores import best_and_worst_runs  # heavy: numpy
        from etude.reports.maps.page import MapOptions, draw_maps

        mapped = best_and_worst_runs(runs, str(self.maps))
        try:
            return draw_maps(MapOptions([run.folder for run in mapped], folder)) if mapped else None
        except Exception as error:  # of any kind, because the runs are complete without the page
            log.warning("maps of %s: left out: %s", self.maps, error)
            return None


def _check_average(sweep: Path) -> None:
    """Refuse with UserError to average a sweep if a job failed, or if its ensemble is the mean of other runs."""
    from etude.experiment.ensemble import EnsembleOptions, select_runs  # heavy: torch

    run = RunFolder(sweep / ENSEMBLE)
    for text in _failures_without_run(sweep):
        raise UserError(f"{text}; etude ensemble {sweep} averages the others")
    if run.is_finished:
        members = {Path(row["folder"]).name for row in (run.record.get("ensemble") or {}).get("members", ())}
        if members != {path.name for path in select_runs(EnsembleOptions([sweep]))[0]}:
            raise UserError(f"{run.path} is the mean of other runs; remove it, and resume the sweep")


def _failures_without_run(sweep: Path) -> list[str]:
    """Return a remark for each reason why jobs failed before they created a run folder, with their names."""
    if not (path := sweep / JOBS).is_file():  # of another launcher
        return []
    with path.open(newline="", encoding="utf-8") as file:
        failed = [row for row in csv.DictReader(file) if row["status"] == FAILED]
    names: dict[str, list[str]] = {}
    for row in (row for row in failed if not (sweep / row["folder"]).is_dir()):
        names.setdefault(row["reason"], []).append(row["folder"])
    return [f"{', '.join(jobs)}: failed: {reason}" for reason, jobs in names.items()]


def _table_options(name: str, table: Any) -> CompareOptions:
    """Return the options of a further table, or raise UserError with its key."""
    from etude.reports.comparison.axes import options_from_config  # heavy: numpy
    from etude.reports.comparison.sweep_page import check_page_name

    try:
        check_page_name(name, RESERVED)
        return options_from_config(table)
    except UserError as error:
        raise UserError(f"{KEY}.tables.{name}: {error}") from error


def _page_options(page: Any, tables: Mapping[str, Any]) -> PageOptions:
    """Return the options of the page, or raise UserError with the key of the invalid one."""
    from etude.reports.comparison.sweep_page import check_page_name, page_from_config  # heavy: numpy

    try:
        options = page_from_config(page)
    except UserError as error:
        raise UserError(f"{KEY}.{error}") from error
    try:
        check_page_name(options.name, (*RESERVED, *tables))
    except UserError as error:
        raise UserError(f"{KEY}.page.name: {error}") from error
    return options


class OutputCheck(Callback):
    """Callback that refuses an output folder in which a file of another program would be overwritten.

    `run_hydra` calls it before all callbacks of the config, so that no override can disable it.
    """

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Create, check and lock the folder of a run.

        Raises:
            Refused: The folder cannot be used.
        """
        if (path := _resolve(config, "hydra.run.dir")) is None or not is_rank_zero():
            return
        folder = Path(path)
        _refuse_on_error(start.lock_folder, folder, bool(config.get("resume")))
        if config.hydra.output_subdir:
            _refuse_on_error(check_third_party, folder / config.hydra.output_subdir, HYDRA_OUTPUTS)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Resolve the values of the sweeper, such as the folds of a table, and create and check the folder of a sweep.

        Raises:
            Refused: The values cannot be resolved, or the folder cannot be used.
        """
        if params := _resolve(config, "hydra.sweeper.params"):
            with read_write(config.hydra.sweeper):
                config.hydra.sweeper.params = params
        if path := _resolve(config, "hydra.sweep.dir"):
            _refuse_on_error(check_third_party, Path(path), (MULTIRUN,), start.SWEEP_OUTPUTS)
            fix_folder(config.hydra, path)


def check_third_party(folder: Path, names: Sequence[str], more: Sequence[str] = ()) -> None:
    """Check files that another library will write, and record them as files of this run.

    Args:
        folder: The output folder, which is created if it is missing.
        names: Files that the library writes.
        more: Further files to check, which Étude writes later.

    Raises:
        UserError: A file exists that Étude did not write, or the folder cannot be written.
    """
    try:
        ownership.open_folder(folder)
        ownership.check_names(folder, (*names, *more))
        for name in names:
            ownership.record(folder / name)
            if not (folder / name).exists():
                ownership.mark_created(folder / name)
    except OSError as error:
        raise os_errors.explain(error, folder, os_errors.RUN_REMEDY) or error from error


def _resolve(config: Any, key: str) -> Any:
    """Return a plain value of a composed config, or None if it cannot be resolved. Hydra then reports the error."""
    HydraConfig.instance().set_config(config)  # as Hydra does next; names of runs refer to the selected options
    try:
        value = OmegaConf.select(config, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError | RunError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise Refused(cause) from error
        return None


def _refuse_on_error(function: Callable[..., None], *args: Any) -> None:
    """Call a function and raise Refused for its errors."""
    try:
        function(*args)
    except (UserError, RunError) as error:
        raise Refused(error) from error
