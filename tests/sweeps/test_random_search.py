"""A search at random launches all of its points at once, and what fails does not end it."""

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


class Jobs:
    """In the place of a launcher: the learning rate is the score, and a depth of 2 fails."""

    def __init__(self) -> None:
        self.batches: list[list[list[str]]] = []

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append([list(words) for words in overrides])
        told = [dict(word.split("=") for word in words) for words in overrides]
        failed = JobReturn(status=JobStatus.FAILED, _return_value=ArithmeticError("no"))
        done = JobStatus.COMPLETED
        return [
            failed if one["depth"] == "2" else JobReturn(status=done, _return_value=float(one["lr"])) for one in told
        ]


class Context:
    config_loader: Any = None


def search(folder: Path, monkeypatch: pytest.MonkeyPatch, n_trials: int, *words: str, mode: str = "max") -> Jobs:
    jobs = Jobs()
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: jobs)
    monkeypatch.setattr(RandomSweeper, "validate_batch_is_legal", lambda *_: None)
    sweeper = RandomSweeper(n_trials, 0, mode, "val/score", {"lr": "interval(0.1, 0.9)", "depth": "1,2"})
    context: Any = Context()
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.setup(hydra_context=context, task_function=lambda config: None, config=config)
    sweeper.sweep(list(words))
    return jobs


def test_the_best_of_what_did_not_fail_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (batch,) = search(tmp_path, monkeypatch, 9, "seed=3").batches
    assert len(batch) == 9 and all(words[-1] == "seed=3" for words in batch)
    told = [dict(word.split("=") for word in words) for words in batch]
    failed = sum(one["depth"] == "2" for one in told)
    best = max(float(one["lr"]) for one in told if one["depth"] == "1")
    said = capsys.readouterr().out
    assert 0 < failed < 9
    assert said.startswith(f"best of 9 trials, {failed} of them without a score: val/score {best:.4g} with lr={best}")
    assert OmegaConf.load(tmp_path / "optimization_results.yaml").best_value == best
    assert (tmp_path / "multirun.yaml").is_file()


def test_the_command_line_has_the_last_word_and_a_space_that_is_used_up_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (batch,) = search(tmp_path, monkeypatch, 9, "lr=0.5,0.4", mode="min").batches
    assert len(batch) == 4 == len({tuple(words) for words in batch})
    assert "val/score 0.4 with depth=1 lr=0.4" in capsys.readouterr().out


@pytest.mark.parametrize(("count", "words"), [(0, ()), (3, ("lr=1", "depth=1")), (3, ("lr=interval(2,1)",))])
def test_what_cannot_be_searched_is_a_sentence(
    count: int, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CompactHydraException, match=r"n_trials|draw from|lr=interval\(2,1\)"):
        search(tmp_path / "sweep", monkeypatch, count, *words)
    assert not (tmp_path / "sweep").exists()
