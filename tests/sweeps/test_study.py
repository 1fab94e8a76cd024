"""A study of Optuna that was stopped goes on: its trials count, what was cut off is done again under its own number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from hydra_plugins.etude_optuna import StudySweeper
from hydra_plugins.etude_submitit import LocalLauncher

SPACE = {"lr": "tag(log, interval(1e-4, 1e-2))", "depth": "choice(1,2,3)"}


def returned(value: float | None) -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


class Jobs:
    """In the place of a launcher: a score by the job's number; what has none there ends the sweep."""

    def __init__(self, scores: dict[int, float | None]) -> None:
        self.scores = scores
        self.told: dict[int, tuple[str, ...]] = {}

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        numbers = range(initial_job_idx, initial_job_idx + len(overrides))
        self.told |= {number: tuple(words) for number, words in zip(numbers, overrides, strict=True)}
        if not set(numbers) <= set(self.scores):
            raise KeyboardInterrupt
        return [returned(self.scores[number]) for number in numbers]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Jobs]:
    """A search in a folder; again, it is gone on with."""

    def go(jobs: Jobs, n_trials: int, n_jobs: int = 1, mode: str = "max") -> Jobs:
        monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: jobs)
        sampler = {"_target_": "optuna.samplers.TPESampler", "seed": None}
        storage = f"sqlite:///{tmp_path}/search.db"
        sweeper = StudySweeper(
            n_trials, n_jobs, 0, sampler, mode, "val/score", storage, "search", 1.0, OmegaConf.create(SPACE)
        )
        config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
        context: Any = object()
        sweeper.setup(hydra_context=context, task_function=lambda config: None, config=config)
        sweeper.sweep(["backbone=lstm"])
        return jobs

    return go


def test_a_study_that_was_stopped_goes_on_to_the_trials_that_were_wanted(
    search: Callable[..., Jobs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = Jobs({0: 0.3, 1: None})
    with pytest.raises(KeyboardInterrupt):
        search(stopped, n_trials=4, n_jobs=2)  # 2 and 3 are cut off
    jobs = search(Jobs({number: 0.1 * number for number in (2, 3)}), n_trials=4, n_jobs=2)
    assert sorted(jobs.told) == [2, 3]
    assert [jobs.told[number] for number in (2, 3)] == [stopped.told[number] for number in (2, 3)]
    assert "best of 4 trials, 1 of them without a score: val/score 0.3 with depth=" in capsys.readouterr().out
    results = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert results.best_value == pytest.approx(0.3) and set(results.best_params) == {"lr", "depth"}
    assert search(Jobs({}), n_trials=4).told == {}
    longer = search(Jobs({4: 0.9}), n_trials=5)
    assert list(longer.told) == [4]
    assert longer.told[4] not in {*stopped.told.values(), *jobs.told.values()}  # it draws on, not anew


def test_the_smallest_is_best_where_the_task_says_so(
    search: Callable[..., Jobs], capsys: pytest.CaptureFixture[str]
) -> None:
    search(Jobs({0: 0.3, 1: 0.2, 2: 0.4}), n_trials=3, mode="min")
    assert "best of 3 trials: val/score 0.2 with" in capsys.readouterr().out


def test_a_search_without_any_score_is_a_sentence(search: Callable[..., Jobs]) -> None:
    with pytest.raises(CompactHydraException, match="no best trial: none of 2 trials"):
        search(Jobs({0: None, 1: None}), n_trials=2)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, search: Callable[..., Jobs]) -> None:
    for name in ("hydra_optuna_sweeper", "hydra_submitit_launcher"):
        monkeypatch.setitem(sys.modules, f"hydra_plugins.{name}", None)
        for module in [known for known in sys.modules if known.startswith(f"hydra_plugins.{name}.")]:
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CompactHydraException, match=r"pip install 'etude\[optuna\]'"):
        search(Jobs({}), n_trials=1)
    with pytest.raises(CompactHydraException, match=r"pip install 'etude\[submitit\]'"):
        LocalLauncher().setup(hydra_context=None, task_function=lambda config: None, config=OmegaConf.create())  # type: ignore[arg-type]
