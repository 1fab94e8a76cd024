"""Synthetic run folders with one label, three scalars and a clip with a hostile name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

CLASSES = ["ambient", "folk", "jazz", "rock"]
SCALARS = ("valence", "energy", "danceability")
HOSTILE = "<script>alert('clip')</script>"


def predictions(clips: int = 60, groups: int = 6, seed: int = 0) -> pd.DataFrame:
    """Return a table of predictions.

    Half of the clips are in the test split. The class `jazz` is a true class and is never predicted. Every ninth clip
    has no true valence.

    Args:
        clips: Number of clips.
        groups: Number of groups in each split.
        seed: Seed of the random values.
    """
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "id": [f"clip-{i:03d}" for i in range(clips)],
            "group": [f"artist {i % (2 * groups)}" for i in range(clips)],
            "split": ["test" if i % (2 * groups) < groups else "val" for i in range(clips)],
        }
    )
    table.loc[0, "id"] = HOSTILE
    true = rng.integers(0, 4, clips)
    probabilities = rng.dirichlet([0.6] * 4, clips)
    probabilities[np.arange(clips), true] += 0.9
    probabilities[:, 2] = 1e-3
    probabilities /= probabilities.sum(1, keepdims=True)
    names = np.array(CLASSES, dtype=object)
    table["genre.true"] = names[true]
    table["genre.pred"] = names[probabilities.argmax(1)]
    for i, name in enumerate(CLASSES):
        table[f"genre.score.{name}"] = probabilities[:, i]
    table["genre.baseline.constant"] = "rock"
    table["genre.baseline.statistics"] = np.where(rng.random(clips) < 0.5, names[true], "folk")
    for i, name in enumerate(SCALARS):
        value = rng.random(clips)
        table[f"{name}.true"] = value
        table[f"{name}.pred"] = (0.4 + 0.2 * i) * value + 0.3 * rng.random(clips)
        table[f"{name}.baseline.constant"] = 0.47
        table[f"{name}.baseline.statistics"] = 0.5 * value + 0.4 * rng.random(clips)
    table.loc[::9, "valence.true"] = np.nan
    table["embedding"] = list(rng.normal(size=(clips, 8)).astype(np.float32))
    return table


def record(name: str = "2026-11-22_ast_multitask") -> dict:
    """Return the content of record.json, without a checksum."""
    note = "computed from the signal, not rated by listeners"
    scalar = {"kind": "scalar", "low": 0.0, "high": 1.0, "note": note}
    return {
        "name": name,
        "command": "train.py backbone=ast task=multitask",
        "started": "2026-11-22T14:03:11+00:00",
        "seconds": {"train": 431.2, "total": 512.8},
        "git": {"commit": "844e9d2c0ffee844e9d2c0ffee844e9d2c0ffee0", "dirty": True},
        "versions": {"etude": "0.1.0", "torch": "2.9.1", "numpy": "2.4.0"},
        "seed": 7,
        "hardware": {"cpu": "Xeon", "cores": 2, "memory_gb": 8.0, "accelerator": "cpu"},
        "model": {
            "backbone": "ast",
            "head": "linear",
            "task": "multitask",
            "feature": "mel",
            "parameters": 5_512_345,
            "best_epoch": 6,
            "best_score": 0.61,
            "epochs": 12,
            "monitor": "val/score",
        },
        "data": {
            "name": "demo",
            "title": "Demo clips",
            "card": "# Demo clips\n\nSixty clips, **made** by `etude`.\n\n- one\n- <b>two</b>\n\nSee [page](https://example.org).",
            "note": "Too small to rank architectures.",
            "hash": "9f86d081884c7d659a2feaa0c55ad015",
            "clips": 180,
            "seconds": 5400.0,
            "licences": {"CC-BY-4.0": 120, "CC0-1.0": 60},
            "splits": {
                "train": {"clips": 120, "groups": 20},
                "val": {"clips": 30, "groups": 6},
                "test": {"clips": 30, "groups": 6},
            },
            "split_hash": "60303ae22b998861",
        },
        "targets": {"genre": {"kind": "label", "classes": CLASSES, "note": ""}, **dict.fromkeys(SCALARS, scalar)},
    }


def curves(epochs: int = 12) -> pd.DataFrame:
    """Return training curves in the format of Lightning's CSVLogger, a row per call with most cells empty."""
    rows: list[dict] = []
    for epoch in range(epochs):
        step = 10 * (epoch + 1)
        rows.append({"epoch": epoch, "step": step - 1, "lr": 3e-4 * (1 - epoch / epochs)})
        rows.append({"epoch": epoch, "step": step, "train/loss": 2.2 * 0.85**epoch + 0.2})
        val = 2.3 * 0.9**epoch + 0.3 + 0.03 * max(0, epoch - 6)
        score = 0.6 - 0.5 * 0.7**epoch
        rows.append({"epoch": epoch, "step": step, "val/loss": val, "val/score": score, "val/genre/macro_f1": score})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    """Return a table of predictions, which tests must not change."""
    return predictions()


@pytest.fixture(scope="session")
def targets() -> dict:
    """Return the targets of the record."""
    return record()["targets"]


def write_run(folder: Path, table: pd.DataFrame, **changes: object) -> Path:
    """Write a run folder without metrics.json and report.

    Args:
        folder: Folder to create.
        table: Table of predictions.
        **changes: Values of record.json that replace the synthetic ones.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet")
    (folder / "record.json").write_text(json.dumps(record(folder.name) | changes), encoding="utf-8")
    (folder / "config.yaml").write_text("seed: 7\nbackbone:\n  depth: 4\n", encoding="utf-8")
    curves().to_csv(folder / "curves.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame) -> Path:
    """Return a run folder that the tests of a module share, and must not change."""
    return write_run(tmp_path_factory.mktemp("runs") / "2026-11-22_ast_multitask", table)


@pytest.fixture
def make_run(tmp_path: Path, table: pd.DataFrame) -> Callable[..., Path]:
    """Return a function that writes a run folder for one test, with the arguments of `write_run`."""

    def write(name: str = "a-run", table: pd.DataFrame = table, **changes: object) -> Path:
        return write_run(tmp_path / name, table, **changes)

    return write
