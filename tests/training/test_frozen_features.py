"""Tests that a training with cached frozen-layer outputs equals one without the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from etude.data.datamodule import MusicData, build_datamodule
from etude.embeddings import cache
from etude.errors import UserError
from etude.training.build import LightningData, build_learner
from etude.training.learner import Learner

Compose = Callable[..., dict[str, Any]]
COMPLETE_CLIPS = ["data.crop=null", "augment=none", "task=joint", "head=mlp", "logger.csv=null"]
NETS = {
    "ast": ["backbone=ast", "backbone.depth=3", "backbone.dropout=0.1", "backbone.drop_time=0.5"],
    "lstm": ["backbone=lstm", "backbone.hidden=16", "backbone.depth=3", "backbone.dropout=0.3"],
    "both": ["backbone=lstm", "backbone.hidden=8", "backbone.bidirectional=true", "backbone.readout=attention"],
    "cnn": ["backbone=cnn", "backbone.channels=[4,8,8,16]"],
    "timm": ["backbone=timm"],
    "readout": [
        "backbone=lstm", "backbone.hidden=8", "readout.layers=[1,2]", "readout.pooling=mean_std",
        "readout.combine=weighted",
    ],
}  # fmt: skip
CLIPS = {"train": 6, "val": 4, "test": 4}


@pytest.fixture
def source(config: Compose, net: str, tmp_path: Path) -> str:
    """Return the override that initialises from an untrained network."""
    return transfer(config, tmp_path, *NETS[net])


def transfer(config: Compose, folder: Path, *overrides: str) -> str:
    """Save an untrained network and return the override that initialises from it."""
    composed = config(*COMPLETE_CLIPS, *overrides)
    torch.manual_seed(1)
    learner = build_learner(composed, few(composed))
    torch.save({"etude": learner.recipe, "state_dict": learner.state_dict()}, folder / "source.ckpt")
    return f"transfer.init_from={folder / 'source.ckpt'}"


def few(composed: dict[str, Any]) -> MusicData:
    """Return a few clips of the test data, truncated to different lengths."""
    data = build_datamodule(composed)
    data.setup()
    for split, count in CLIPS.items():
        data.splits[data.rows(split)[count:]] = "none"
    data.pack.lengths = np.random.default_rng(0).integers(40, 300, len(data.splits))
    return data


class Passes(Callback):
    """Callback that counts forward passes of the first layer, and ends the training early."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.count = epochs, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            first = next(m for m in pl_module.backbone.layers()[0].modules() if not list(m.children()))
            first.register_forward_hook(lambda *_: setattr(self, "count", self.count + 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def trained(
    composed: dict[str, Any], folder: Path, epochs: int = 3, resume: Path | None = None
) -> tuple[Learner, dict[str, torch.Tensor], int]:
    """Return a trained network, its outputs on validation and test, and the number of passes of its first layer."""
    data = few(composed)
    torch.manual_seed(0)
    learner = build_learner(composed, data)
    learner.use_cache(cache.build_frozen_cache(learner, data, folder))
    passes, checkpoint = Passes(epochs), ModelCheckpoint(folder / "saved", save_last=True)
    trainer = Trainer(accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False,
                      enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
                      callbacks=[passes, checkpoint])  # fmt: skip
    trainer.fit(learner, LightningData(data), ckpt_path=resume, weights_only=True)
    trainer.test(learner, dataloaders=data.test_dataloader(), verbose=False)
    table = {f"{i}.{key}": value for i, each in learner.tables.items() for key, value in each.items()}
    return learner, table, passes.count


MODES = [*((net, "probe") for net in NETS), *((net, "last_k") for net in ("ast", "lstm", "both", "cnn"))]
QUICK = (
    ("ast", "probe"),
    ("lstm", "last_k"),
    ("readout", "probe"),
)


@pytest.mark.parametrize(
    ("net", "mode"), [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.full) for case in MODES]
)
def test_cached_training_with_single_clips_is_bitwise_equal(
    config: Compose, net: str, mode: str, source: str, tmp_path: Path
) -> None:
    overrides = [*COMPLETE_CLIPS, *NETS[net], source, f"transfer={mode}", "data.batch_size=1", "data.eval_batch_size=1"]
    overrides += ["transfer.last_k=1"] if mode == "last_k" else []
    cached, outputs, passes = trained(config(*overrides, "transfer.cache=true"), tmp_path)
    uncached, expected, uncached_passes = trained(config(*overrides, "transfer.cache=false"), tmp_path)
    assert uncached.cache is None
    torch.testing.assert_close(cached.state_dict(), uncached.state_dict(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0, equal_nan=True)
    assert cached.cache is not None
    assert passes == len(cached.cache.entries) == sum(CLIPS.values())  # once for each clip
    assert uncached_passes == 3 * (CLIPS["train"] + CLIPS["val"]) + CLIPS["val"] + CLIPS["test"]


@pytest.mark.parametrize("net", [pytest.param(net, marks=[] if net == "lstm" else pytest.mark.full) for net in NETS])
def test_cached_training_with_batches_is_equal_within_tolerance(
    config: Compose, net: str, source: str, tmp_path: Path
) -> None:
    overrides = [*COMPLETE_CLIPS, *NETS[net], source, "transfer=probe", "data.batch_size=3", "data.eval_batch_size=3"]
    cached, outputs, _ = trained(config(*overrides, "transfer.cache=true"), tmp_path)
    uncached, expected, _ = trained(config(*overrides, "transfer.cache=false"), tmp_path)
    torch.testing.assert_close(cached.state_dict(), uncached.state_dict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_resumed_training_recomputes_the_cache_and_is_equal(config: Compose, tmp_path: Path) -> None:
    overrides = [
        *COMPLETE_CLIPS,
        *NETS["ast"],
        "transfer=last_k",
        "transfer.last_k=1",
        "transfer.cache=true",
        "data.batch_size=3",
    ]
    composed = config(*overrides, transfer(config, tmp_path, *NETS["ast"]))
    for folder in ("uninterrupted", "interrupted"):
        (tmp_path / folder).mkdir()
    uninterrupted, expected, _ = trained(composed, tmp_path / "uninterrupted")
    trained(composed, tmp_path / "interrupted", epochs=1)
    last = tmp_path / "interrupted" / "saved" / "last.ckpt"
    resumed, outputs, _ = trained(composed, tmp_path / "interrupted", resume=last)
    torch.testing.assert_close(resumed.state_dict(), uninterrupted.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0, equal_nan=True)


REASONS = [
    (["augment=specaugment"], "set augment=none"),
    (["data.crop=1"], "set data.crop=null"),
    (["data.crop=1", "augment=specaugment"], "set augment=none and data.crop=null"),
    (["+data.overfit=4"], "data.overfit memorises a few clips; set it to null"),
    (["transfer=last_k", "transfer.last_k=4"], "transfer.train=last_k keeps none of the 4 layers frozen"),
    (["transfer=last_k", "backbone=timm"], "Timm cannot be split between layers; transfer=probe"),
    (["transfer=last_k", "readout.layers=last"], "a read-out of hidden states can be cached only with transfer=probe"),
    (["backbone=timm", "backbone.dropout=0.5"], "Timm is random in its frozen layers; set its dropouts to 0"),
]


@pytest.mark.parametrize(("overrides", "message"), REASONS)
def test_cache_that_would_change_the_training_is_refused(
    config: Compose, overrides: list[str], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = [override for override in overrides if override.startswith("backbone")] or ["backbone=cnn"]
    overrides = [*COMPLETE_CLIPS, *backbone, "transfer=probe", transfer(config, tmp_path, *backbone), *overrides]
    overrides = [
        override for override in overrides if override != "transfer=probe" or "transfer=last_k" not in overrides
    ]
    composed = config(*overrides)
    data = few(composed)
    learner = build_learner(composed, data)
    with caplog.at_level(logging.INFO):
        assert cache.build_frozen_cache(learner, data, tmp_path) is None
    composed["transfer"]["cache"] = True
    assert caplog.messages[-1].startswith("transfer: frozen layers are recomputed in every epoch: ")
    with pytest.raises(UserError, match=f"^transfer.cache=true: .*{message}"):
        cache.build_frozen_cache(build_learner(composed, data), data, tmp_path)


def test_values_that_are_not_finite_are_named(config: Compose, tmp_path: Path) -> None:
    composed = config(*COMPLETE_CLIPS, "backbone=cnn", "transfer=probe", transfer(config, tmp_path, "backbone=cnn"))
    data = few(composed)
    learner = build_learner(composed, data)
    next(learner.backbone.parameters()).data[0] = float("inf")
    with pytest.raises(UserError, match=r"frozen layers have no finite output for the clip .*; check this"):
        cache.build_frozen_cache(learner, data, tmp_path)
    source = tmp_path / "source.ckpt"
    stored = torch.load(source, weights_only=True)
    name = next(key for key in stored["state_dict"] if key.startswith("backbone."))
    stored["state_dict"][name][0] = float("nan")
    torch.save(stored, source)
    with pytest.raises(UserError, match=f"^transfer.init_from={source}: {name[9:]} .* not finite"):
        build_learner(composed, data)


def test_cache_is_disabled_without_disk_space(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = config(*COMPLETE_CLIPS, "backbone=cnn", "transfer=last_k", transfer(config, tmp_path, "backbone=cnn"))
    data = few(composed)
    learner = build_learner(composed, data)
    size, same = cache.measure_frozen_output(learner, data, 2)
    frames = data.pack.lengths[data.rows("train")[0]]
    assert size == pytest.approx(64 * 32 * (frames // 4) * 4 * data.pack.lengths.sum() / frames)  # C, F, T, bytes
    assert same
    enabled = f"frozen-layer outputs are cached: {len(data.splits)} clips, about"
    for free, message in {size + 1: enabled, size - 1: "GB of free space"}.items():
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        with caplog.at_level(logging.INFO):
            assert (cache.build_frozen_cache(learner, data, tmp_path) is None) == (free < size)
        assert message in caplog.messages[-1]


@pytest.mark.parametrize("mode", ["full", "gradual"])
def test_nothing_is_logged_without_permanently_frozen_layers(
    config: Compose, mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    composed = config(*COMPLETE_CLIPS, "backbone=cnn", f"transfer={mode}", transfer(config, tmp_path, "backbone=cnn"))
    data = few(composed)
    learner = build_learner(composed, data)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert cache.build_frozen_cache(learner, data, tmp_path) is None
    assert not caplog.records
