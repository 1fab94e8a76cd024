"""Tests of the command, the reason of an unknown commit and the training in the record of a run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from etude.experiment import provenance


def test_reason_is_missing_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state() == {"commit": None, "dirty": None, "reason": "git is not installed"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep=encoders", "readout=all", "sweep.resume=outputs/a"], "sweep=encoders readout=all hydra.mode=RUN"),
        (["experiment=small_ensemble", "backbone=cnn"], "experiment=small_ensemble backbone=cnn hydra.mode=RUN"),
        (["+sweep.encoders.a=backbone=cnn", "~sweep.encoders.b"], "+sweep.encoders.a=backbone=cnn '~sweep.encoders.b'"),
    ],
)
def test_command_of_a_job_repeats_its_run(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Options of `sweep` and `experiment` can set keys of the run. Only Hydra's own keys are those of the sweep."""
    monkeypatch.setenv(provenance.ERROR_FILE, str(tmp_path / "error"))
    monkeypatch.setattr("sys.argv", ["train.py", "--run", *arguments, "hydra.mode=RUN", "hydra/launcher=basic"])
    assert provenance.command_line().split(maxsplit=2)[2] == expected


def test_command_of_an_ensemble_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/etude", "ensemble", "outputs/my sweep", "--weights"])
    assert provenance.command_line() == "etude ensemble 'outputs/my sweep' --weights"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.TimeoutExpired("git", 10), "git did not finish in 10 s"),
        (PermissionError(13, "Permission denied"), "git cannot be started: Permission denied"),
        (
            subprocess.CalledProcessError(
                128, "git", stderr="fatal: detected dubious ownership in repository at '/x'\n"
            ),
            "detected dubious ownership in repository at '/x'",
        ),
        (subprocess.CalledProcessError(1, "git", stderr=""), "git ended with status 1"),
    ],
)
def test_reason_is_the_error_of_git(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.git_state() == {"commit": None, "dirty": None, "reason": reason}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_reason_is_missing_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_state()["reason"].startswith("not a git repository")


@pytest.mark.parametrize(("monitors", "expected"), [([], None), (["train/loss"], None), (["val/score"], "val/score")])
def test_early_stopping_by_validation_is_recorded(monitors: list[str], expected: str | None) -> None:
    """A training that validation scores end has selected its last epoch by them."""
    stopping = [SimpleNamespace(monitor=monitor) for monitor in monitors]
    checkpoint = SimpleNamespace(best_model_path="", best_model_score=None, monitor=None)
    trainer: Any = SimpleNamespace(checkpoint_callback=checkpoint, early_stopping_callbacks=stopping, current_epoch=3)
    learner: Any = torch.nn.Linear(2, 1)
    learner.recipe = {"config": {"backbone": {"weights": "msd"}}}
    learner.readout = SimpleNamespace(weights=None, dim=2, describe=lambda: "the backbone's own")
    summary = provenance.summarise_training(trainer, learner)
    assert summary["monitor"] is None and summary["stopped_by"] == expected
    assert (summary["parameters"], summary["trainable"], summary["weights"], summary["dim"]) == (3, 3, "msd", 2)
