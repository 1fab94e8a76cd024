"""Jobs of a sweep, their table jobs.csv, and rows of overrides that belong together, such as those of one encoder."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.override_errors import format_errors, override_errors
from etude.config.overrides import parse_overrides, quote_value
from etude.errors import UserError
from etude.files.atomic import replacing
from etude.files.journal import Lock
from etude.runs.folder import JOBS, RunFolder, run_of

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

ROWS = "hydra.sweeper.rows"  # of the sweeper in the config
WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
REFUSED = 2  # exit status of a command that the user has to correct


@dataclass
class Job:
    """One run of a sweep.

    Args:
        number: Number of the job in the sweep.
        overrides: Overrides of the job. A resumed sweep matches jobs by their overrides.
        folder: Run folder of the job.
        config: Composed config, plain values.
        flags: Flags of Hydra, such as the folder of further configs.
        extra_overrides: Overrides of Hydra's config, and values that the sweep computes.
        status: One of the statuses above.
        code: Exit status of the process; negative for a signal.
        seconds: Duration of the job.
        score: Monitored score of the task on the validation split.
        error: Error message of the job, or the reason why it cannot start.
        already_finished: Whether the job was finished before this command.
        sweep: Folder of the sweep.
    """

    number: int
    overrides: list[str]
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    extra_overrides: list[str] = field(default_factory=list)
    status: str = WAITING
    code: int | None = None
    seconds: float | None = None
    score: float | None = None
    error: str = ""
    already_finished: bool = False
    sweep: Path | None = None

    @property
    def name(self) -> str:
        """Path of the run folder relative to the folder of the sweep, with slashes."""
        sweep = self.folder.parent if self.sweep is None else self.sweep
        return self.folder.relative_to(sweep).as_posix()

    @property
    def has_results(self) -> bool:
        """Whether all results are on disk. The process may have failed afterwards."""
        return RunFolder(self.folder).is_finished

    @property
    def arguments(self) -> list[str]:
        """Command-line arguments of the job after `train.py`. A job with a checkpoint is resumed."""
        run = RunFolder(self.folder)
        if run.is_resumable and run.config_path.is_file():
            hydra = [override for override in self.extra_overrides if override.startswith("hydra")]
            return [*self.flags, *hydra, f"resume={quote_value(str(self.folder))}"]
        run_dir = f"hydra.run.dir={quote_value(str(self.folder))}"
        return [*self.flags, *self.overrides, *self.extra_overrides, run_dir]

    @property
    def source_folder(self) -> Path | None:
        """Folder of the run that must finish first, or None.

        Its weights initialise the network, or its training clips are left out.
        """
        source = next((path for path in source_paths(self.config).values() if path), None)
        if source is None:
            return None
        path = Path(source)
        return run_of(path) if path.suffix == ".ckpt" else path

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets. Only scores of the same targets are compared."""
        return tuple((self.config.get("task") or {}).get("targets") or ())

    @property
    def failure_reason(self) -> str:
        """Reason why the job did not finish, in one line."""
        if self.code is not None and self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if not self.error and self.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            return f"ended by {signal.Signals(self.code - 128).name}"
        reason = "; ".join(line.strip() for line in self.error.splitlines() if line.strip())
        return reason.replace(":; ", ": ") or f"ended with status {self.code}"


def source_paths(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the paths of other runs in a config, by key."""
    nodes = {"transfer": "init_from", "data": "leave_out"}
    values = {f"{group}.{key}": (config.get(group) or {}).get(key) for group, key in nodes.items()}
    return {key: None if value is None else str(value) for key, value in values.items()}


COLUMNS = ("number", "folder", "status", "code", "seconds", "score", "reason", "overrides")
STATUS_WHEN_READ = {RUNNING: STOPPED, WAITING: STOPPED}  # the process of the sweep that wrote the file has ended


class JobTable:
    """Table of all jobs of a sweep, including the jobs of earlier commands.

    Args:
        folder: Folder of the sweep.

    Raises:
        UserError: The existing file is not a table of jobs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[Job] = []
        path = folder / JOBS
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    self.jobs = [self._read_job(row) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise UserError(
                    f"{path}: is not a table of jobs; remove it to start the sweep from the beginning"
                ) from error

    def lock(self) -> None:
        """Lock the folder of the sweep until this process ends.

        Raises:
            UserError: Another process runs this sweep.
        """
        self._lock = Lock(self.folder / f".{JOBS}.lock", os.path.relpath(self.folder))
        self._lock.acquire()

    def _read_job(self, row: dict[str, str]) -> Job:
        """Return the job of a row.

        Raises:
            ValueError: A value is invalid, or the folder is not inside the folder of the sweep.
        """
        overrides = json.loads(row["overrides"])
        status = STATUS_WHEN_READ.get(row["status"], row["status"])
        folder = Path(row["folder"])
        if not isinstance(overrides, list) or status not in (DONE, FAILED, STOPPED):
            raise ValueError
        if folder.is_absolute() or ".." in folder.parts or not folder.parts:
            raise ValueError
        return Job(
            int(row["number"]),
            [str(override) for override in overrides],
            self.folder / folder,
            status=status,
            code=int(row["code"]) if row["code"] else None,
            seconds=float(row["seconds"]) if row["seconds"] else None,
            score=float(row["score"]) if row["score"] else None,
            sweep=self.folder,
        )

    def find(self, overrides: Iterable[str]) -> Job | None:
        """Return the job with the same overrides in any order, or None."""
        key = sorted(overrides)
        return next((job for job in self.jobs if sorted(job.overrides) == key), None)

    def free_number(self, preferred: int) -> int:
        """Return the preferred number for a new job, or the next free number if another job has it."""
        taken = {job.number for job in self.jobs}
        return preferred if preferred not in taken else max(taken) + 1

    def add(self, job: Job) -> None:
        """Add a job, and replace an existing job with the same number."""
        others = [other for other in self.jobs if other.number != job.number]
        self.jobs = sorted([*others, job], key=lambda job: job.number)

    def write(self) -> None:
        """Write jobs.csv atomically."""
        with replacing(self.folder / JOBS) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for job in self.jobs:
                row: list[object] = [job.number, job.name, job.status, job.code, job.seconds, job.score]
                row += [job.failure_reason if job.status == FAILED else "", json.dumps(job.overrides)]
                table.writerow(["" if value is None else value for value in row])


def rows_key(sweeper: DictConfig) -> str:
    """Return the config key of the rows, to which the config of the sweeper may refer, as `${sweep.encoders}`."""
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(sweeper._get_node("rows")))
    return reference[1] if reference else ROWS


@dataclass(frozen=True)
class RowJob:
    """Job of a row, with the name of the row and the overrides of the job."""

    row: str
    overrides: list[str]


def combine_rows(
    rows: Mapping[str, Any],
    params: Mapping[str, Any],
    arguments: Sequence[str],
    name_key: str | None = None,
    loader: Any = None,
    source: str = ROWS,
) -> list[RowJob]:
    """Return the jobs of all combinations of rows with the values of the other keys.

    A row replaces the values in `params` of its keys and of the groups of its keys. The values of the first key vary
    slowest and the rows fastest, so that jobs that run at the same time have different rows.

    Args:
        rows: Overrides of each row in one text, by the name of the row. None leaves a row out.
        params: Values of other keys. Overrides of the command line take precedence.
        arguments: Overrides of the command line.
        name_key: Config key that contains the name of the row in each job.
        loader: Hydra's config loader, for a glob over the options of a group.
        source: Config key of the rows, for error messages.

    Raises:
        UserError: There is no row, a row is invalid or repeated, or the command line sets a key of a row.
    """
    if not isinstance(rows, Mapping):
        raise UserError(f"{source}: must be a mapping of rows by name, such as {{small: backbone=cnn}}; got {rows}")
    parsed = {
        str(name): _parse_row(f"{source}.{name}", text, loader) for name, text in rows.items() if text is not None
    }
    if not parsed:
        raise UserError(f"{source}: contains no row; add one, such as \"+{source}.small='backbone=cnn'\"")
    _refuse_equal_rows(parsed, source)
    given = {override.get_key_element(): _values(override) for override in parse_overrides(list(arguments), loader)}
    # jobs do not depend on the other rows, so that a resumed sweep finds them if rows were added or removed
    given = {key: values for key, values in given.items() if not f"{key.lstrip('+~')}.".startswith(f"{source}.")}
    for name, row in parsed.items():
        if shared := [key for key in row if key in given]:
            both = f"{given[shared[0]][0]}: the row {name} of this sweep sets {shared[0]} too"
            raise UserError(f"{both}; remove it, or leave the row out with {source}.{name}=null")
    texts = [f"{key}={value}" for key, value in params.items()]
    varied = {override.get_key_element(): _values(override) for override in parse_overrides(texts, loader)}
    varied = {key: given.get(key, values) for key, values in varied.items()} | given
    jobs: dict[tuple[str, ...], RowJob] = {}
    for combination in product(*varied.values()):
        for name, row in parsed.items():
            values = zip(varied, combination, strict=True)
            overrides = [value for key, value in values if key in given or not _is_replaced(key, row)]
            overrides += [*row.values(), *([f"{name_key}={quote_value(name, 'str')}"] if name_key else [])]
            jobs.setdefault(tuple(overrides), RowJob(name, overrides))  # a row may replace values that vary
    for alternatives in varied.values():
        if twice := [value for value in alternatives if alternatives.count(value) > 1]:
            raise UserError(f"{twice[0]}: is in the sweep more than once; each job of a sweep needs different values")
    return list(jobs.values())


def check_rows(jobs: Sequence[RowJob], config: DictConfig, loader: Any, source: str = ROWS) -> None:
    """Compose the first job of each row.

    Args:
        jobs: Jobs of all rows.
        config: Config of the sweep, including Hydra's node.
        loader: Hydra's config loader.
        source: Config key of the rows, for error messages.

    Raises:
        UserError: A row cannot be composed.
    """
    sources = config.hydra.runtime.config_sources
    folder = next((source.path for source in sources if source.provider == "command-line"), None)
    for job in {job.row: job for job in reversed(jobs)}.values():
        try:
            loader.load_sweep_config(config, job.overrides)
        except Exception as error:  # of any type, see Composer.compose
            if messages := override_errors(job.overrides, folder=folder, error=error):
                raise UserError(f"{source}.{job.row}: {format_errors(messages)}") from error
            raise


def _parse_row(key: str, text: Any, loader: Any) -> dict[str, str]:
    """Return the overrides of a row by key.

    Raises:
        UserError: The text is not a list of overrides with one value each.
    """
    from hydra.errors import HydraException  # heavy: hydra

    example = "such as 'backbone=cnn optim.lr=1e-3'"
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{key}: must be a text of overrides, {example}; got {text!r}")
    try:
        overrides = parse_overrides(shlex.split(text), loader)
    except (ValueError, HydraException) as error:
        raise UserError(f"{key}: {text!r} is not a text of overrides, {example}") from error
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{key}: {override.input_line} has several values; write a row for each of them")
        if override.is_hydra_override() or override.key_or_group in ("sweep", "resume"):
            raise UserError(f"{key}: {override.input_line} cannot differ between jobs; remove it from the row")
    return {override.get_key_element(): str(override.input_line) for override in overrides}


def _refuse_equal_rows(rows: Mapping[str, Mapping[str, str]], source: str) -> None:
    """Raise UserError if two rows have the same overrides."""
    names: dict[frozenset[str], str] = {}
    for name, row in rows.items():
        if (first := names.setdefault(frozenset(row.values()), name)) != name:
            raise UserError(f"{source}: {first} and {name} have the same overrides; remove one of them")


def _values(override: Override) -> list[str]:
    """Return an override for each of its values.

    Raises:
        UserError: The override is an interval, which only a search can sample.
    """
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: an interval needs a search, such as sweep=random_cnn; list the values")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _is_replaced(key: str, row: Mapping[str, str]) -> bool:
    """Return whether a row sets a key, or a key inside it."""
    return any(given.lstrip("+~") == key or given.lstrip("+~").startswith(f"{key}.") for given in row)
