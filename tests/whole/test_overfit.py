"""Every backbone can learn every task by heart: what cannot do that has a fault."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.build import conf_dir
from etude.run import run


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize("task", options("task"))
@pytest.mark.parametrize("backbone", options("backbone"))
def test_every_backbone_overfits_every_task(
    backbone: str, task: str, config: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    small = ["debug=overfit", "data.overfit=6", "data.crop=1.0"]
    assert run(config(f"backbone={backbone}", f"task={task}", *small), tmp_path) == {}
    (said,) = [record.args for record in caplog.records if "learned by heart" in record.msg]
    assert isinstance(said, tuple)
    assert said[1] < (0.05 if task in ("genre", "joint") else 0.002)  # scalars: their variance is .03 each
    assert not (tmp_path / "metrics.json").exists()  # judged on its own training clips: no number to show
