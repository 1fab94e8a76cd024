"""Test that inference and evaluation predict the same values for a clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from etude.data.datamodule import build_datamodule
from etude.data.sources.demo import collection
from etude.inference.model import Model
from etude.inference.tables import predict_tables
from etude.training.build import build_learner

COUNT = 5
BACKBONES = {
    "lstm": ["backbone=lstm"],
    "lstm with chroma": ["backbone=lstm", "feature=fused", "backbone.bidirectional=true", "head=mlp"],
    "cnn with crops": ["backbone=cnn", "data.eval_crops=3", "data.crop=2.0"],
    "cnn with centre crop": ["backbone=cnn", "data.eval_crops=1", "data.crop=2.0"],
    "ast": ["backbone=ast", "backbone.depth=2", "head=mlp"],
}


@pytest.mark.parametrize("name", BACKBONES)
def test_inference_equals_evaluation(name: str, config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    composed = config("task=joint", *BACKBONES[name])
    data = build_datamodule(composed)
    data.setup()
    data.splits[data.rows("test")[COUNT:]] = "none"
    torch.manual_seed(1)
    learner = build_learner(composed, data)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer.test(learner, data.loader("test"), verbose=False)
    table = learner.tables[0]
    torch.save({"state_dict": learner.state_dict(), "etude": learner.recipe}, tmp_path / "best.ckpt")

    paths = collection().table.set_index("id")["path"]
    ids = data.pack.index["id"].iloc[table["row"].numpy()]
    predictions = predict_tables(Model(tmp_path / "best.ckpt", "cpu"), list(paths[ids]), batch_size=3)
    assert len(predictions.files) == len(predictions.windows) == COUNT and predictions.files["error"].isna().all()
    for target_name, target in learner.task.targets.items():
        expected = target.predict(table[f"out.{target_name}"]).numpy()
        columns = [f"{target_name}.score.{label}" for label in getattr(target, "classes", [])]
        values = predictions.files[columns or [f"{target_name}.pred"]].to_numpy(float)
        np.testing.assert_allclose(values, expected.reshape(values.shape), rtol=0, atol=1e-4)
        assert np.ptp(expected, axis=0).max() > 1e-3  # the clips differ
        if target.kind == "label":
            assert list(predictions.files[f"{target_name}.pred"]) == [target.classes[i] for i in expected.argmax(1)]
    np.testing.assert_allclose(np.stack(predictions.files["embedding"]), table["z"].numpy(), rtol=0, atol=1e-4)
