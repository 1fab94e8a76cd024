"""Fixtures of synthetic run folders and their report."""

from pathlib import Path

import pytest
from tests.reports.report_page import ReportPage, build_report
from tests.synthetic_runs import make_run, run, table, targets  # noqa: F401


@pytest.fixture(scope="module")
def report(run: Path) -> tuple[ReportPage, dict]:  # noqa: F811
    """Report and metrics of the shared run folder."""
    return build_report(run)
