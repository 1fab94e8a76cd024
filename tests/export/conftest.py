"""Fixtures of export tests, with a small network and checkpoints of all backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inference.conftest import EVALUATION, build_recipe, checkpoint, model  # noqa: F401  # fixtures

from etude.config import instantiate
from etude.training.build import build_from_recipe

StoreCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def store_checkpoint(
    config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> StoreCheckpoint:
    """Return a function that writes the checkpoint of an untrained network from overrides."""

    def store(*overrides: str, **recipe_changes: Any) -> Path:
        recipe = build_recipe(config, EVALUATION | {"frames": 260, "longest": 260}, *overrides) | recipe_changes
        front, columns = instantiate.make(recipe["front"]), slice(*recipe["columns"])
        torch.manual_seed(0)
        network = build_from_recipe(recipe)
        decibel = torch.from_numpy(front.decibel[columns])
        network.standardiser.mean.copy_(torch.where(decibel == 1, -40.0, 0.0))
        network.standardiser.std.copy_(torch.where(decibel == 1, 15.0, 1.0))
        with torch.no_grad():  # initial weights have many equal values
            for key, value in network.backbone.state_dict().items():
                if key.endswith("running_var"):
                    value.uniform_(0.5, 2.0)
                elif value.is_floating_point():
                    value += 0.02 * torch.randn_like(value)
        path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
        torch.save({"state_dict": network.state_dict(), "etude": recipe, "epoch": 0}, path)
        return path

    return store
