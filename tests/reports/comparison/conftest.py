"""Sweeps of synthetic runs whose predictions are known: two targets, two backbones, two features, two seeds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from etude.runs.folder import RunFolder
from etude.runs.results import write_metrics

CLASSES = ["folk", "jazz", "rock"]
TARGETS: dict[str, Any] = {
    "genre": {"kind": "label", "classes": CLASSES, "note": ""},
    "valence": {"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""},
}
GROUPS, CLIPS = 16, 96


def clips(seed: int = 0, right: float = 0.5, noise: float = 0.3, split: int = 0) -> pd.DataFrame:
    """Predictions of the same clips: `seed` moves what is predicted, `split` the clips; a third is validation."""
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


def run(folder: Path, table: pd.DataFrame, config: dict[str, Any] | None = None, **about: Any) -> Path:
    """A finished run of a table; `about` is its backbone, feature, task, seed, name and split."""
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet")
    model = {key: about.get(key, "x") for key in ("backbone", "feature", "head", "task")}
    names = [name for name in TARGETS if f"{name}.true" in table]
    record = {"name": about.get("name", folder.name), "seed": about.get("seed", 0), "model": model}
    record |= {"data": {"name": "made", "labels": "l", "hash": "h", "split_hash": about.get("split", "s")}}
    record |= {"seconds": {"total": 61.0, "train": 60.0}, "targets": {name: TARGETS[name] for name in names}}
    (folder / "record.json").write_text(json.dumps(record), "utf-8")
    base = {"seed": record["seed"], "name": record["name"], "task": {"targets": {key: {} for key in names}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(base | (config or {})), "utf-8")
    write_metrics(RunFolder(folder))
    return folder


@pytest.fixture(scope="session")
def make() -> Callable[..., Path]:
    return run


@pytest.fixture(scope="session")
def table_of() -> Callable[..., pd.DataFrame]:
    return clips


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sweep over backbone, feature and seed; read it, do not change it."""
    sweep = tmp_path_factory.mktemp("grid")
    skill = {("lstm", "mel"): 0.2, ("lstm", "fused"): 0.3, ("cnn", "mel"): 0.7, ("cnn", "fused"): 0.8}
    job = 0
    for (backbone, feature), right in skill.items():
        for seed in (0, 1):
            config = {"optim": {"lr": 0.1 if backbone == "cnn" else 0.01}, "choices": {"backbone": backbone}}
            about = {"backbone": backbone, "feature": feature, "seed": seed, "name": f"{backbone}_{feature}"}
            run(sweep / f"{job}_{backbone}_{feature}", clips(10 * job + seed, right, 1.2 - right), config, **about)
            job += 1
    yield sweep
