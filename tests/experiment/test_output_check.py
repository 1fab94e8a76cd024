"""Tests that no override disables the check of the output folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.cli.train import main


@pytest.mark.parametrize("override", ["hydra.callbacks={}", "+hydra.callbacks.other=null"])
def test_sweep_without_callbacks_does_not_replace_files_of_the_user(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    (tmp_path / "multirun.yaml").write_text("mine")
    # with hydra/launcher=basic and a target that the data do not have, a started sweep would end immediately
    command = ["-m", override, f"hydra.sweep.dir={tmp_path}", "seed=0", "task=digit", "hydra/launcher=basic"]
    assert main(command) == 2
    assert "multirun.yaml: exists and is not in" in capfd.readouterr().err
    assert (tmp_path / "multirun.yaml").read_text() == "mine"


def test_job_does_not_replace_files_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    path = tmp_path / "0" / ".hydra" / "hydra.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    overrides = ["hydra.output_subdir=.hydra", f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=0", "seed=0"]
    assert main(["-m", "hydra/launcher=basic", "task=digit", *overrides]) == 2
    assert path.read_text() == "mine"
