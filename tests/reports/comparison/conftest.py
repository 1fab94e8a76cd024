"""Synthetic runs with known predictions of two targets, and a sweep over two backbones, two features and two seeds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from etude.runs.folder import RunFolder, write_metrics

CLASSES = ["folk", "jazz", "rock"]
TARGETS: dict[str, Any] = {
    "genre": {"kind": "label", "classes": CLASSES, "note": ""},
    "valence": {"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""},
}
ALL_TARGETS = TARGETS | dict.fromkeys(("energy", "danceability"), TARGETS["valence"])
GROUPS, CLIPS = 16, 96


def clips(seed: int = 0, right: float = 0.5, noise: float = 0.3, split: int = 0) -> pd.DataFrame:
    """Return predictions, a third of them of the validation split.

    Args:
        seed: Seed of the predictions.
        right: Probability of the true class instead of a random one.
        noise: Standard deviation of the error of valence.
        split: Seed of the clips and their true values.
    """
    fixed, rng = np.random.default_rng(100 + split), np.random.default_rng(seed)
    table = pd.DataFrame({"id": [f"s{split}-{i:03d}" for i in range(CLIPS)]})
    table["group"] = [f"artist {i % GROUPS}" for i in range(CLIPS)]
    table["split"] = np.where(np.arange(CLIPS) % 3 == 0, "val", "test")
    names = np.array(CLASSES, dtype=object)
    true = fixed.integers(0, 3, CLIPS)
    table["genre.true"], value = names[true], fixed.random(CLIPS)
    table["genre.pred"] = names[np.where(rng.random(CLIPS) < right, true, rng.integers(0, 3, CLIPS))]
    table["genre.baseline.constant"], table["genre.baseline.linear"] = "rock", names[fixed.integers(0, 3, CLIPS)]
    table["valence.true"], table["valence.pred"] = value, value + noise * rng.normal(size=CLIPS)
    table["valence.baseline.constant"], table["valence.baseline.linear"] = 0.5, value + fixed.normal(size=CLIPS)
    return table


def write_finished_run(
    folder: Path, table: pd.DataFrame, config: dict[str, Any] | None = None, **properties: Any
) -> Path:
    """Write a finished run with given predictions. `properties` are backbone, feature, task, seed, name and split."""
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet")
    model = {key: properties.get(key, "x") for key in ("backbone", "feature", "head", "task")}
    names = [name for name in ALL_TARGETS if f"{name}.true" in table]
    record = {"name": properties.get("name", folder.name), "seed": properties.get("seed", 0), "model": model}
    record |= {"data": {"name": "made", "labels": "l", "hash": "h", "split_hash": properties.get("split", "s")}}
    record |= {"seconds": {"total": 61.0, "train": 60.0}, "targets": {name: ALL_TARGETS[name] for name in names}}
    (folder / "record.json").write_text(json.dumps(record), "utf-8")
    base = {"seed": record["seed"], "name": record["name"], "task": {"targets": {key: {} for key in names}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(base | (config or {})), "utf-8")
    write_metrics(RunFolder(folder))
    return folder


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    return write_finished_run


@pytest.fixture(scope="session")
def make_table() -> Callable[..., pd.DataFrame]:
    return clips


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sweep over backbone, feature and seed, which tests must not change."""
    sweep = tmp_path_factory.mktemp("grid")
    accuracy = {("lstm", "mel"): 0.2, ("lstm", "fused"): 0.3, ("cnn", "mel"): 0.7, ("cnn", "fused"): 0.8}
    job = 0
    for (backbone, feature), right in accuracy.items():
        for seed in (0, 1):
            config = {"optim": {"lr": 0.1 if backbone == "cnn" else 0.01}, "choices": {"backbone": backbone}}
            properties = {"backbone": backbone, "feature": feature, "seed": seed, "name": f"{backbone}_{feature}"}
            table = clips(10 * job + seed, right, 1.2 - right)
            write_finished_run(sweep / f"{job}_{backbone}_{feature}", table, config, **properties)
            job += 1
    yield sweep
