"""Sweepers that launch all jobs at once, and searches: spaces in Hydra's override grammar, studies, the best trial."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from etude.config.overrides import parse_overrides
from etude.errors import UserError
from etude.files.atomic import write_text
from etude.files.ownership import open_folder
from etude.runs.folder import MULTIRUN

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


FILE = "optimization_results.yaml"  # the name that Hydra's sweepers use
DIRECTION = {"min": "minimize", "max": "maximize"}
DIGITS = 4  # of a sampled number; more digits only make names longer


class SingleBatchSweeper(Sweeper):
    """Base class of sweepers that launch all of their jobs at once."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the context and create the launcher. Hydra calls it before the sweep."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def launch(self, jobs: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        """Write the config of the sweep to its folder, and launch the jobs, which are lists of overrides."""
        from omegaconf import OmegaConf

        assert self.config is not None and self.launcher is not None
        folder = Path(self.config.hydra.sweep.dir)
        open_folder(folder)
        write_text(folder / MULTIRUN, OmegaConf.to_yaml(self.config))
        return self.launcher.launch(jobs, initial_job_idx=0)


@dataclass(frozen=True)
class Choice:
    """Finite set of equally likely values.

    Args:
        values: Values as on a command line.
    """

    values: tuple[str, ...]

    @property
    def size(self) -> float:
        """Number of values."""
        return len(self.values)

    def sample(self, random: Random) -> str:
        """Sample a value."""
        return random.choice(self.values)


@dataclass(frozen=True)
class Interval:
    """Closed interval of numbers. If both ends are integers, as in int(interval(1,9)), integers are sampled.

    Args:
        low: Smallest value.
        high: Largest value.
        log: Whether the logarithm is sampled uniformly, so that each power of ten is equally likely.
    """

    low: float
    high: float
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether integers are sampled."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """Number of values, which is infinite for real numbers."""
        return self.high - self.low + 1 if self.is_integer else math.inf

    def sample(self, random: Random) -> str:
        """Sample a number, rounded to few digits."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.is_integer else (self.low, self.high)
        value = math.exp(random.uniform(math.log(low), math.log(high))) if self.log else random.uniform(low, high)
        if self.is_integer:
            return str(min(max(round(value), int(self.low)), int(self.high)))
        return repr(min(max(float(f"{value:.{DIGITS}g}"), float(self.low)), float(self.high)))


@dataclass(frozen=True)
class SearchSpace:
    """Varied and fixed values of a search.

    Args:
        varied: Distribution of each varied value by key.
        fixed: Fixed values by key.
    """

    varied: dict[str, Choice | Interval]
    fixed: dict[str, str]

    @property
    def size(self) -> float:
        """Number of points, which is infinite if a value is a real number."""
        return math.prod(dimension.size for dimension in self.varied.values())

    def sample_points(self, seed: int) -> Iterator[dict[str, str]]:
        """Yield different random points. If the space is finite, the last point ends the iteration.

        The first points do not depend on the number of points, so that a search can be extended.
        """
        random = Random(seed)
        seen: set[tuple[str, ...]] = set()
        while len(seen) < self.size:
            point = {key: dimension.sample(random) for key, dimension in self.varied.items()}
            if (values := tuple(point.values())) not in seen:
                seen.add(values)
                yield point


def remove_overridden(params: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Remove keys below an overridden key. An override of `data.crop` also determines `data.crop.seconds`.

    Args:
        params: The space by key.
        overrides: Overrides of the command line.
    """
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return {key: value for key, value in params.items() if not any(str(key).startswith(f"{k}.") for k in keys)}


def parse_search_space(overrides: Sequence[str], loader: Any = None) -> SearchSpace:
    """Parse overrides into a search space. The last override of a key is used.

    Args:
        overrides: Overrides such as `optim.lr=tag(log, interval(1e-4, 1e-2))`.
        loader: Hydra's config loader, for a glob over the options of a group.

    Raises:
        UserError: A range or an interval is empty.
    """
    varied: dict[str, Choice | Interval] = {}
    fixed: dict[str, str] = {}
    for override in parse_overrides(overrides, loader):
        key = override.get_key_element()
        varied.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = override.get_value_element_as_str()
        elif override.is_interval_sweep():
            value: Any = override.value()
            low, high, log = value.start, value.end, "log" in value.tags
            if low is None or high is None or not low <= high or (log and low <= 0):
                reason = "a logarithm needs an interval above 0" if log and (low or 0) <= 0 else "contains no number"
                raise UserError(f"{override.input_line}: {reason}; give it as interval(low, high)")
            varied[key] = Interval(low, high, log)
        else:
            values = tuple(dict.fromkeys(override.sweep_string_iterator()))
            if not values:
                raise UserError(f"{override.input_line}: contains no value; give at least one")
            varied[key] = Choice(values)
    return SearchSpace(varied, fixed)


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Args:
        values: Varied values by key.
        score: Monitored score of the task on the validation split; None if the run failed.
        folder: Run folder, or None if it is unknown.
    """

    values: Mapping[str, Any]
    score: float | None
    folder: str | None = None


def job_score(job: JobReturn) -> float | None:
    """Return the score of a job, or None if it failed or its score is not finite."""
    from hydra.core.utils import JobStatus

    if job.status != JobStatus.COMPLETED:
        return None
    value = job.return_value
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def job_folder(job: JobReturn) -> str | None:
    """Return the run folder of a job, or None if it is unknown."""
    from omegaconf import OmegaConf

    folder = OmegaConf.select(job.hydra_cfg, "hydra.runtime.output_dir") if job.hydra_cfg is not None else None
    return str(folder) if folder else None


def best_trial(trials: Sequence[Trial], mode: str) -> Trial | None:
    """Return the trial with the best score, or the first of several equal trials. None if no trial has a score.

    Args:
        trials: All trials.
        mode: `max` or `min`, the mode of the task.
    """
    scored = [trial for trial in trials if trial.score is not None]
    key = (lambda trial: -trial.score) if mode == "max" else (lambda trial: trial.score)
    return min(scored, key=key, default=None)


def summarise_trials(trials: Sequence[Trial], mode: str, monitor: str) -> str:
    """Return the best trial, its values and its folder in one line."""
    best = best_trial(trials, mode)
    n_failed = sum(trial.score is None for trial in trials)
    if best is None:
        return f"no best trial: none of {len(trials)} trials has a {monitor}; the logs contain the reasons"
    count = f"{len(trials)} trials" + (f", {n_failed} of them without a score" if n_failed else "")
    formatted = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in best.values.items()}
    values = " ".join(f"{key}={value}" for key, value in formatted.items())
    folder = f" ({os.path.relpath(best.folder)})" if best.folder else ""
    return f"best of {count}: {monitor} {best.score:.4g} with {values}{folder}"


def write_best_trial(folder: Path, trial: Trial, name: str) -> None:
    """Write the best trial in the format of Hydra's sweepers.

    Args:
        folder: Folder of the sweep.
        trial: The best trial.
        name: Name of the sweeper.
    """
    from omegaconf import OmegaConf

    result = {"name": name, "best_params": dict(trial.values), "best_value": trial.score}
    write_text(folder / FILE, OmegaConf.to_yaml(OmegaConf.create(result)))


REQUEUED = "again"  # user attribute of an interrupted trial whose values are queued for a later trial


def mark_schema_version(storage: str) -> None:
    """Store the schema version in a new database.

    Optuna 2.10 is the last version that hydra-optuna-sweeper supports. It stores the schema version without a commit,
    and SQLAlchemy 2 then rolls it back (hydra issue 2562). If the version is stored beforehand, Optuna works with
    SQLAlchemy 2.

    Args:
        storage: Address of the database.
    """
    import optuna
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    engine = create_engine(storage)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        if context.get_current_revision() is None:
            tables = Path(optuna.__file__).parent / "storages" / "_rdb" / "alembic"
            context.stamp(ScriptDirectory(str(tables)), "head")
    engine.dispose()


def requeue_interrupted_trials(study: Any) -> int:
    """Close the interrupted trials of a study and queue their values, so that the study can be resumed.

    The next trials then have the same values, and their runs are resumed in their folders.

    Args:
        study: An `optuna.Study` that no other process uses.

    Returns:
        Number of finished trials.
    """
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.trial import TrialState

    n_finished = 0
    for trial in study.get_trials(deepcopy=True):
        if trial.state == TrialState.RUNNING:
            if trial.params:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)  # enqueue_trial, unchanged since Optuna 1.2
                    study.enqueue_trial(trial.params)
            study._storage.set_trial_user_attr(trial._trial_id, REQUEUED, True)
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state.is_finished() and not trial.user_attrs.get(REQUEUED):
            n_finished += 1
    return n_finished


def build_sampler(sampler: Mapping[str, Any] | None, seed: int) -> Any:
    """Return an Optuna sampler, with this seed if its config has a seed. None uses Optuna's default sampler."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    if sampler is None:
        return None
    node: Any = OmegaConf.to_container(OmegaConf.create(dict(sampler)), resolve=True)
    return instantiate(node | {"seed": seed} if "seed" in node else node)


def finished_trials(study: Any) -> list[Trial]:
    """Return the finished trials of a study, without interrupted trials that were queued again."""
    from optuna.trial import TrialState

    return [
        Trial(trial.params, trial.value if trial.state == TrialState.COMPLETE else None)
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not trial.user_attrs.get(REQUEUED)
    ]
