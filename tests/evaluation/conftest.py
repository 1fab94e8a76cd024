"""Fixtures of synthetic run folders."""

from tests.synthetic_runs import make_run, run, table, targets  # noqa: F401
