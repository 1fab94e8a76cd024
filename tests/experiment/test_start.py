"""Tests of the state of a run folder: new, resumable or finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.errors import UserError
from etude.experiment.start import FINISHED, NEW, RESUMABLE, run_state

CONFIG: dict[str, Any] = {"seed": 0, "optim": {"lr": 1e-3}, "transfer": {}, "sweep": {"resume": None}}


def test_state_of_a_folder_follows_its_files_and_config(tmp_path: Path) -> None:
    OmegaConf.save(OmegaConf.create(CONFIG), tmp_path / "config.yaml")
    assert run_state(tmp_path, {"seed": 1}) == NEW  # without a checkpoint, nothing is lost
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert run_state(tmp_path, CONFIG | {"sweep": {"resume": "outputs/here"}}) == RESUMABLE
    (tmp_path / "metrics.json").touch()
    assert run_state(tmp_path, CONFIG) == RESUMABLE  # the report is the last file of a run
    (tmp_path / "report.html").touch()
    assert run_state(tmp_path, CONFIG) == FINISHED
    with pytest.raises(UserError, match=r"another config: optim\.lr; "):
        run_state(tmp_path, CONFIG | {"optim": {"lr": 2e-3}})
