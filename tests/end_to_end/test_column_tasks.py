"""Tests of runs whose targets are columns of a table without files in conf/task and conf/target."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.data.sources.tables import write_table

import etude
from etude.data.sources.demo import collection

Result = subprocess.CompletedProcess[str]


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """Return overrides for a table of 24 demo clips with labels and scalars."""
    paths = [str(Path(path).relative_to("/")) for path in collection().table["path"][::8][:24]]
    columns = {
        "path": paths,
        "mood": ["happy", "sad"] * 12,
        "my tempo": [60 + 5 * i for i in range(24)],
        "v1.2": [i / 24 for i in range(24)],
    }
    write_table(tmp_path, columns, "clips.csv")
    return ["data=table", "data.source.table=clips.csv", "data.source.audio=/", "data.split.kind=random"]


@pytest.mark.full
def test_run_predicts_columns_of_a_table(tmp_path: Path, table: list[str], train: Callable[..., Result]) -> None:
    result = train(tmp_path, *table, "task=[mood,'my tempo','v1.2']", "debug=fast", "backbone=lstm")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs").glob("*lstm*")
    run = etude.load(folder)
    assert set(run.scores().reset_index()["target"]) == {"mean", "mood", "my tempo", "v1.2"}
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    assert config["choices"]["task"] == "mood+my tempo+v1.2"
    assert list(config["task"]["targets"]) == ["mood", "my tempo", "v1.2"]
    assert config["task"]["targets"]["my tempo"]["_target_"] == "etude.tasks.targets.Scalar"


@pytest.mark.full
def test_sweep_over_columns_of_a_table(tmp_path: Path, table: list[str], train: Callable[..., Result]) -> None:
    result = train(tmp_path, "-m", *table, "task=mood,'my tempo'", "backbone=lstm", "trainer.max_epochs=1")
    assert result.returncode == 0, result.stderr
    paths = sorted((tmp_path / "outputs").glob("*_sweep*/[01]_*/metrics.json"))
    targets = [list(json.loads(path.read_text("utf-8"))["targets"]) for path in paths]
    assert targets == [["mood"], ["my tempo"]]
