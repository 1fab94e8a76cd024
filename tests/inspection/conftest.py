"""Run folders of small untrained networks, with pack, config, checkpoints and predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from etude.config import instantiate
from etude.data.collection import label_target, scalar_target
from etude.data.pack_writer import write_pack
from etude.training.build import RECIPE_GROUPS, build_from_recipe
from etude.training.learner import Learner

Config = Callable[..., dict[str, Any]]
MakeRun = Callable[..., Path]
CLASSES = ["high", "low"]
HOSTILE_ID = '<script>alert(1)</script> & "$x$"'
IDS = ["one", HOSTILE_ID, *(f"clip{k}" for k in range(4))]


def recipe(config: dict[str, Any], targets: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe that a checkpoint contains, from a config."""
    feature = instantiate.make(config["feature"])
    kept = {k: config.get(k) for k in RECIPE_GROUPS}
    columns = [feature.columns.start, feature.columns.stop]
    return {
        "config": kept,
        "targets": {name: targets[name] for name in config["task"]["targets"]},
        "bins": feature.bins,
        "columns": columns,
        "front": feature.front.to_dict(),
    }


def checkpoint(path: Path, network: Learner, epoch: int) -> None:
    """Write a checkpoint with the entries that an inspection reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network.state_dict(), "etude": network.recipe, "epoch": epoch}, path)


@pytest.fixture(scope="session")
def make_run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Return a function that writes a run folder from overrides.

    The run has a checkpoint of each of some epochs. Its clips are noise, and the id of one contains HTML.
    """

    def make(*overrides: str, epochs: tuple[int, ...] = (1,), frames: int = 50) -> Path:
        folder = tmp_path_factory.mktemp("run")
        plain = config("data=pack", "data.source.path=x", *overrides)
        front = instantiate.make(plain["feature"]).front
        targets = {
            "genre": label_target(CLASSES),
            "valence": scalar_target(),
            "energy": scalar_target(),
            "danceability": scalar_target(),
        }
        table = pd.DataFrame({
            "id": IDS, "group": IDS, "genre": ["low", "high"] * 3, "valence": np.linspace(0.1, 0.9, 6),
            "energy": 0.5, "danceability": [0.2, np.nan, 0.3, 0.4, 0.5, 0.6],
        })  # fmt: skip
        rng = np.random.default_rng(0)
        collection = {"name": "noise", "title": "Noise", "targets": targets, "card": "", "note": "", "extra": {}}
        noise = [rng.normal(-40, 9, (frames, front.bins)) for _ in IDS]
        pack = write_pack(
            folder / "pack", table, noise, {"origin": {"front": front.to_dict(), "collection": collection}}
        )
        plain["data"]["source"]["path"] = str(pack.folder)
        for epoch in epochs:
            torch.manual_seed(epoch)
            network = build_from_recipe(recipe(plain, targets))
            network.standardiser.mean.fill_(-40)
            network.standardiser.std.fill_(9)
            name = "best" if epoch == epochs[-1] else f"history/epoch={epoch - 1:03d}"
            checkpoint(folder / "checkpoints" / f"{name}.ckpt", network, epoch - 1)
        OmegaConf.save(OmegaConf.create(plain), folder / "config.yaml")
        splits = pd.DataFrame({"id": IDS, "split": ["test"] * 4 + ["train", "val"]})
        splits.to_csv(folder / "split.csv", index=False)
        predictions(table, splits, list(plain["task"]["targets"])).to_parquet(folder / "predictions.parquet")
        return folder

    return make


def predictions(table: pd.DataFrame, splits: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return predictions in which `clip0` is the most confident error in genre, and `clip1` the largest in valence."""
    predicted = pd.DataFrame({"id": table["id"], "group": None, "split": splits["split"]})
    for name in names:
        predicted[f"{name}.true"] = table[name]
        if name == "genre":
            high = np.array([0.9, 0.8, 0.95, 0.9, 0.5, 0.5])  # true: low, high, low, high
            predicted[f"{name}.pred"] = np.where(high > 0.5, "high", "low")
            predicted[f"{name}.score.high"], predicted[f"{name}.score.low"] = high, 1 - high
        else:
            predicted[f"{name}.pred"] = table[name] + np.where(table["id"] == "clip1", 0.5, 0.1)
    return predicted
