"""A job of a sweep in Hydra's own process: one process, and what ran in its folder before is gone on with or kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.errors import UserError
from etude.sweeps.launcher import BEGUN, FINISHED, NEW, refuse_processes, standing

CONFIG: dict[str, Any] = {"seed": 0, "optim": {"lr": 1e-3}, "transfer": {}, "sweep": {"resume": None}}


@pytest.mark.parametrize("trainer", [{}, {"devices": 1}, {"devices": [3], "strategy": "auto"}])
def test_one_process_is_taken(trainer: dict[str, Any]) -> None:
    refuse_processes(trainer)


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": -1, "strategy": "ddp"}, {"strategy": "fsdp"}])
def test_several_are_slurms_to_start(trainer: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")  # also of a shell that asked for two, in which nothing starts them
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    with pytest.raises(UserError, match=r"trainer: .* one process"):
        refuse_processes(trainer)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    refuse_processes(trainer)


def test_how_far_a_run_has_come(tmp_path: Path) -> None:
    OmegaConf.save(OmegaConf.create(CONFIG), tmp_path / "config.yaml")
    assert standing(tmp_path, {"seed": 1}) == NEW  # nothing was learned yet, nothing is lost
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert standing(tmp_path, CONFIG | {"sweep": {"resume": "outputs/here"}}) == BEGUN
    (tmp_path / "metrics.json").touch()
    assert standing(tmp_path, CONFIG) == BEGUN  # the report is the last file of a run
    (tmp_path / "report.html").touch()
    assert standing(tmp_path, CONFIG) == FINISHED
    with pytest.raises(UserError, match=r"another config: optim\.lr; "):
        standing(tmp_path, CONFIG | {"optim": {"lr": 2e-3}})
