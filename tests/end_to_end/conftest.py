"""Whole runs through the real entry point, in processes of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.end_to_end.warm import Nest

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """One thread for each process, no key for any service."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "ETUDE", "PL_"))}
    return kept | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def nest(environment: dict[str, str]) -> Iterator[Nest]:
    """Where processes come from that have their imports behind them."""
    made = Nest(environment)
    yield made
    made.end()


@pytest.fixture(scope="session")
def train(packs: Path, environment: dict[str, str], nest: Nest) -> Callable[..., Result]:
    """`python train.py ...` in a folder, to its end."""

    def go(folder: Path, *overrides: str) -> Result:
        shared = [] if any(word.startswith("resume=") for word in overrides) else [f"data.packs={packs}"]
        words = sorted([*shared, *overrides], key=lambda word: not word.startswith("-"))  # Hydra wants its flags first
        return nest.run(folder, environment, *words)

    return go


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Result]) -> Path:
    """The folder of a short joint run: a label and three scalars."""
    folder = tmp_path_factory.mktemp("finished")
    result = train(folder, "task=joint", "backbone=lstm", "callbacks=best_epoch", "trainer.max_epochs=3")
    assert result.returncode == 0, result.stderr
    (run,) = (folder / "outputs").glob("*_joint_lstm_mel")
    return run
