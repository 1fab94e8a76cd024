"""Fixture of a finished run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.synthetic_runs import predictions, write_run

from etude.reports import run_report
from etude.runs.folder import RunFolder, write_metrics


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which tests must not change."""
    run = RunFolder(write_run(tmp_path_factory.mktemp("tracking") / "a-run", predictions()))
    run.checkpoints_path.mkdir()
    run.best_path.write_bytes(b"weights")
    write_metrics(run)
    run_report.write_report(run)
    return run.path
