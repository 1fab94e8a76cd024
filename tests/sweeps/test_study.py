"""Tests of Optuna studies that are resumed. Interrupted trials are repeated under their own numbers."""

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


def make_return(value: float | None) -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


class StubLauncher:
    """Launcher with a score by job number. A job without an entry interrupts the sweep."""

    def __init__(self, scores: dict[int, float | None]) -> None:
        self.scores = scores
        self.overrides: dict[int, tuple[str, ...]] = {}

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        numbers = range(initial_job_idx, initial_job_idx + len(overrides))
        self.overrides |= {number: tuple(job) for number, job in zip(numbers, overrides, strict=True)}
        if not set(numbers) <= set(self.scores):
            raise KeyboardInterrupt
        return [make_return(self.scores[number]) for number in numbers]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StubLauncher]:
    """Function that runs a search in a folder. A second call resumes it."""

    def run_search(launcher: StubLauncher, n_trials: int, n_jobs: int = 1, mode: str = "max") -> StubLauncher:
        monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: launcher)
        sampler = {"_target_": "optuna.samplers.TPESampler", "seed": None}
        storage = f"sqlite:///{tmp_path}/search.db"
        sweeper = StudySweeper(
            n_trials, n_jobs, 0, sampler, mode, "val/score", storage, "search", 1.0, OmegaConf.create(SPACE)
        )
        config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
        context: Any = object()
        sweeper.setup(hydra_context=context, task_function=lambda config: None, config=config)
        sweeper.sweep(["backbone=lstm"])
        return launcher

    return run_search


def test_stopped_study_is_resumed_up_to_its_number_of_trials(
    search: Callable[..., StubLauncher], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = StubLauncher({0: 0.3, 1: None})
    with pytest.raises(KeyboardInterrupt):
        search(stopped, n_trials=4, n_jobs=2)  # 2 and 3 are interrupted
    resumed = search(StubLauncher({number: 0.1 * number for number in (2, 3)}), n_trials=4, n_jobs=2)
    assert sorted(resumed.overrides) == [2, 3]
    assert [resumed.overrides[number] for number in (2, 3)] == [stopped.overrides[number] for number in (2, 3)]
    assert "best of 4 trials, 1 of them without a score: val/score 0.3 with depth=" in capsys.readouterr().out
    results = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert results.best_value == pytest.approx(0.3) and set(results.best_params) == {"lr", "depth"}
    assert search(StubLauncher({}), n_trials=4).overrides == {}
    extended = search(StubLauncher({4: 0.9}), n_trials=5)
    assert list(extended.overrides) == [4]
    # the random draws continue and do not start again
    assert extended.overrides[4] not in {*stopped.overrides.values(), *resumed.overrides.values()}


def test_smallest_score_is_best_with_mode_min(
    search: Callable[..., StubLauncher], capsys: pytest.CaptureFixture[str]
) -> None:
    search(StubLauncher({0: 0.3, 1: 0.2, 2: 0.4}), n_trials=3, mode="min")
    assert "best of 3 trials: val/score 0.2 with" in capsys.readouterr().out


def test_search_without_any_score_has_an_error_message(search: Callable[..., StubLauncher]) -> None:
    with pytest.raises(CompactHydraException, match="no best trial: none of 2 trials"):
        search(StubLauncher({0: None, 1: None}), n_trials=2)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, search: Callable[..., StubLauncher]) -> None:
    for name in ("hydra_optuna_sweeper", "hydra_submitit_launcher"):
        monkeypatch.setitem(sys.modules, f"hydra_plugins.{name}", None)
        for module in [loaded for loaded in sys.modules if loaded.startswith(f"hydra_plugins.{name}.")]:
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CompactHydraException, match=r"pip install 'etude\[optuna\]'"):
        search(StubLauncher({}), n_trials=1)
    with pytest.raises(CompactHydraException, match=r"pip install 'etude\[submitit\]'"):
        LocalLauncher().setup(hydra_context=None, task_function=lambda config: None, config=OmegaConf.create())  # type: ignore[arg-type]
