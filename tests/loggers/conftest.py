"""A finished run folder, as the tests of results make it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.synthetic_runs import predictions, write_run

from etude.evaluation import measure
from etude.reports import run_report


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: read it, do not change it."""
    run = write_run(tmp_path_factory.mktemp("tracking") / "a-run", predictions())
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    measure.write(run)
    run_report.write_report(run)
    return run
