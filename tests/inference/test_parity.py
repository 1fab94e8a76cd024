"""A clip has the numbers that evaluation gave it in training, whatever the backbone."""

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
from etude.inference.tables import predicted
from etude.training.build import build_learner

COUNT = 5
KINDS = {
    "lstm": ["backbone=lstm"],
    "lstm of both": ["backbone=lstm", "feature=fused", "backbone.bidirectional=true", "head=mlp"],
    "cnn in crops": ["backbone=cnn", "data.eval_crops=3", "data.crop=2.0"],
    "cnn in the middle": ["backbone=cnn", "data.eval_crops=1", "data.crop=2.0"],
    "ast": ["backbone=ast", "backbone.depth=2", "head=mlp"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_has_the_numbers_of_evaluation(kind: str, config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    composed = config("task=joint", *KINDS[kind])
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
    found = predicted(Model(tmp_path / "best.ckpt", "cpu"), list(paths[ids]), batch=3)
    assert len(found.files) == len(found.windows) == COUNT and found.files["error"].isna().all()
    for name, target in learner.task.targets.items():
        want = target.predict(table[f"out.{name}"]).numpy()
        columns = [f"{name}.score.{one}" for one in getattr(target, "classes", [])] or [f"{name}.pred"]
        got = found.files[columns].to_numpy(float)
        np.testing.assert_allclose(got, want.reshape(got.shape), rtol=0, atol=1e-4)
        assert np.ptp(want, axis=0).max() > 1e-3  # clips differ in it
        if target.kind == "label":
            assert list(found.files[f"{name}.pred"]) == [target.classes[i] for i in want.argmax(1)]
    np.testing.assert_allclose(np.stack(found.files["embedding"]), table["z"].numpy(), rtol=0, atol=1e-4)
