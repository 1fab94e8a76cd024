"""Fixtures of complete runs, which are started through train.py in separate processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from tests.end_to_end.fork_server import ForkServer

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return environment variables with one thread for each process, and without keys of services."""
    variables = {k: value for k, value in os.environ.items() if not k.startswith(("WANDB", "ETUDE", "PL_"))}
    return variables | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def fork_server(environment: dict[str, str]) -> Iterator[ForkServer]:
    """Yield a server that starts processes without the time for imports."""
    server = ForkServer(environment)
    yield server
    server.close()


@pytest.fixture(scope="session")
def train(packs: Path, environment: dict[str, str], fork_server: ForkServer) -> Callable[..., Result]:
    """Return a function that runs `python train.py <overrides>` in a folder and waits for its end."""

    def run(folder: Path, *overrides: str, limit: int = 300) -> Result:
        resumes = any(override.startswith("resume=") for override in overrides)
        arguments = [*overrides] if resumes else [f"data.packs={packs}", *overrides]
        arguments.sort(key=lambda argument: not argument.startswith("-"))  # Hydra requires flags before overrides
        return fork_server.run(folder, environment, *arguments, limit=limit)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Result]) -> Path:
    """Return the folder of a short finished run with a label and three scalars, which tests must not change.

    All processes of pytest-xdist share it. The first one that needs it trains it.
    """
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "finished"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            folder.mkdir()
            result = train(folder, "task=joint", "backbone=lstm", "callbacks=best_epoch", "trainer.max_epochs=3")
            assert result.returncode == 0, result.stderr
    (run,) = (folder / "outputs").glob("*_demo_joint_lstm_mel_*")
    return run
