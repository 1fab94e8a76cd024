"""Fixtures of the tests of data."""

from __future__ import annotations

import pandas as pd
import pytest

from etude.data.sources.demo import collection


@pytest.fixture(scope="module")
def demo_table() -> pd.DataFrame:
    return collection().table


@pytest.fixture
def few_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the number of restarts for tests that do not depend on the quality of a split."""
    monkeypatch.setattr("etude.data.partition.MAX_PLACEMENTS", 1000)
