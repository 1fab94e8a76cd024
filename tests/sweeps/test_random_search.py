"""Tests of the random search, which launches all points at once and tolerates failed jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from hydra_plugins.etude_random import RandomSweeper


class StubLauncher:
    """Launcher whose jobs return the learning rate as their score, and fail with a depth of 2."""

    def __init__(self) -> None:
        self.batches: list[list[list[str]]] = []

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append([list(job) for job in overrides])
        points = [dict(override.split("=") for override in job) for job in overrides]
        failed = JobReturn(status=JobStatus.FAILED, _return_value=ArithmeticError("no"))
        done = JobStatus.COMPLETED
        return [
            failed if point["depth"] == "2" else JobReturn(status=done, _return_value=float(point["lr"]))
            for point in points
        ]


class Context:
    config_loader: Any = None


def search(
    folder: Path, monkeypatch: pytest.MonkeyPatch, n_trials: int, *overrides: str, mode: str = "max"
) -> StubLauncher:
    launcher = StubLauncher()
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: launcher)
    monkeypatch.setattr(RandomSweeper, "validate_batch_is_legal", lambda *_: None)
    sweeper = RandomSweeper(n_trials, 0, mode, "val/score", {"lr": "interval(0.1, 0.9)", "depth": "1,2"})
    context: Any = Context()
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.setup(hydra_context=context, task_function=lambda config: None, config=config)
    sweeper.sweep(list(overrides))
    return launcher


def test_best_trial_that_did_not_fail_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (batch,) = search(tmp_path, monkeypatch, 9, "seed=3").batches
    assert len(batch) == 9 and all(job[-1] == "seed=3" for job in batch)
    points = [dict(override.split("=") for override in job) for job in batch]
    n_failed = sum(point["depth"] == "2" for point in points)
    best = max(float(point["lr"]) for point in points if point["depth"] == "1")
    output = capsys.readouterr().out
    assert 0 < n_failed < 9
    start = f"best of 9 trials, {n_failed} of them without a score: val/score {best:.4g} with lr={best}"
    assert output.startswith(start)
    assert OmegaConf.load(tmp_path / "optimization_results.yaml").best_value == best
    assert (tmp_path / "multirun.yaml").is_file()


def test_command_line_overrides_the_space_and_an_exhausted_space_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (batch,) = search(tmp_path, monkeypatch, 9, "lr=0.5,0.4", mode="min").batches
    assert len(batch) == 4 == len({tuple(job) for job in batch})
    assert "val/score 0.4 with depth=1 lr=0.4" in capsys.readouterr().out


@pytest.mark.parametrize(("n_trials", "overrides"), [(0, ()), (3, ("lr=1", "depth=1")), (3, ("lr=interval(2,1)",))])
def test_impossible_search_has_an_error_message(
    n_trials: int, overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CompactHydraException, match=r"n_trials|search space is empty|lr=interval\(2,1\)"):
        search(tmp_path / "sweep", monkeypatch, n_trials, *overrides)
    assert not (tmp_path / "sweep").exists()
