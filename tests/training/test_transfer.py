"""Tests of copied weights, frozen layers and learning rates of layers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from etude.backbones.ast import AST
from etude.backbones.base import layer_indices, parameter_layer_index
from etude.config import instantiate
from etude.data.datamodule import build_datamodule
from etude.errors import UserError
from etude.training import linear_probe
from etude.training.build import LightningData, build_learner
from etude.training.learner import Learner
from etude.training.linear_probe import ProbeStartLearner
from etude.training.optimiser import LinearProbe
from etude.training.transfer import Transfer

Compose = Callable[..., dict[str, Any]]
SMALL = ["backbone=cnn", "backbone.channels=[4,8,8,16]", "data.crop=1", "trainer.max_epochs=3", "logger.csv=null"]


@pytest.fixture
def source(config: Compose, tmp_path: Path) -> Path:
    """Return a checkpoint of a network with changed weights and statistics."""
    composed = config(*SMALL)
    data = build_datamodule(composed)
    data.setup()
    torch.manual_seed(1)
    learner = build_learner(composed, data)
    for key, value in learner.state_dict().items():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
        elif "num_batches" not in key:
            raise AssertionError(key)
    path = tmp_path / "source.ckpt"
    torch.save({"etude": learner.recipe, "state_dict": learner.state_dict()}, path)
    return path


class StopAfter(Callback):
    """Callback that ends training after some epochs without changing max_epochs, which schedules depend on."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def trained(
    config: Compose, *overrides: str, epochs: int = 1, precision: Any = "32-true"
) -> tuple[Learner, dict[str, torch.Tensor]]:
    """Return a network after some epochs of a few steps, and its initial tensors."""
    composed = config(*SMALL, *overrides)
    data = build_datamodule(composed)
    data.setup()
    torch.manual_seed(0)
    learner = build_learner(composed, data)
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    trainer = Trainer(accelerator="cpu", max_epochs=3, limit_train_batches=2, limit_val_batches=1, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      num_sanity_val_steps=0, use_distributed_sampler=False, precision=precision,
                      callbacks=[StopAfter(epochs)])  # fmt: skip
    trainer.fit(learner, LightningData(data))
    return learner, before


def changed_modules(learner: Learner, before: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of modules with a changed tensor, including running statistics of batch norms."""
    changed = {key for key, value in learner.state_dict().items() if not torch.equal(value, before[key])}
    return {".".join(key.split(".")[:3]) if key.startswith("backbone") else key.split(".")[0] for key in changed}


def test_layers_that_were_not_copied_cannot_be_frozen(source: Path, config: Compose) -> None:
    """Freeze a layer without copied weights, which is refused, and train it, which is allowed."""
    wider = ["backbone.channels=[4,8,8,32]", "transfer.min_copied=0", f"transfer.init_from={source}"]
    data = build_datamodule(config(*SMALL))
    data.setup()
    with pytest.raises(UserError, match=r"weights that match blocks\.3\.conv\.weight, .*probe would freeze"):
        build_learner(config(*SMALL, "transfer=probe", *wider), data)
    learner = build_learner(config(*SMALL, "transfer=last_k", "transfer.last_k=1", *wider), data)
    assert {name for name, p in learner.backbone.named_parameters() if p.requires_grad} == {
        f"blocks.3.{name}" for name in ("conv.weight", "norm.weight", "norm.bias")
    }


BLOCKS = [f"backbone.blocks.{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("overrides", "epochs", "learning"),
    [
        (["transfer=full"], 1, BLOCKS),
        (["transfer=probe"], 1, []),
        (["transfer=probe", "readout.layers=[2,3]", "readout.combine=weighted"], 1, ["readout"]),
        (
            [
                "transfer=probe",
                "readout.layers=[2,3]",
                "readout.combine=weighted",
                "task=multitask",
                "weighting=pcgrad",
            ],
            1,
            ["readout"],
        ),
        (["transfer=last_k"], 1, BLOCKS[2:]),
        (["transfer=last_k", "transfer.last_k=1"], 2, BLOCKS[3:]),
        (["transfer=last_k", "transfer.last_k=9"], 1, BLOCKS),
    ],
)
def test_frozen_layers_are_unchanged(
    config: Compose, source: Path, overrides: list[str], epochs: int, learning: list[str]
) -> None:
    learner, before = trained(config, *overrides, f"transfer.init_from={source}", epochs=epochs)
    assert changed_modules(learner, before) == {"task", *learning}


def test_gradual_unfreezes_one_layer_per_epoch(config: Compose, source: Path) -> None:
    for epochs, learning in ((1, []), (2, BLOCKS[3:]), (3, BLOCKS[2:])):
        learner, before = trained(config, "transfer=gradual", f"transfer.init_from={source}", epochs=epochs)
        assert changed_modules(learner, before) == {"task", *learning}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_initial_heads_are_linear_probes_in_mixed_precision_too(
    config: Compose, source: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(linear_probe, "LinearProbe", partial(LinearProbe, C=(1e-3, 1e-2), class_weights=(None,)))
    options = ["transfer=full", "transfer.head_init=linear_probe", f"transfer.init_from={source}", "optim.lr=0.0"]
    learner, before = trained(config, *options, precision=precision)
    assert isinstance(learner, ProbeStartLearner)
    assert "task" in changed_modules(learner.float(), before)
    checkpoint: dict[str, Any] = {}
    learner.on_save_checkpoint(checkpoint)
    fits, learner.initial_heads = learner.initial_heads, {}
    learner.on_load_checkpoint(checkpoint)
    assert learner.initial_heads == fits and fits["genre"]["penalty"].keys() == {"C"}


def test_rates_decay_from_layer_to_layer(config: Compose, source: Path) -> None:
    constant = ["optim.schedule=none", "optim.warmup=0.0"]
    learner, _ = trained(config, "transfer=full", "transfer.layer_decay=0.5", f"transfer.init_from={source}", *constant)
    rates = {}
    names = {id(p): name for name, p in learner.named_parameters()}
    for group in learner.trainer.optimizers[0].param_groups:
        for p in group["params"]:
            rates[names[id(p)]] = group["lr"] / group["initial_lr"]
    for name, index in parameter_layer_index(learner.backbone).items():
        assert rates[f"backbone.{name}"] == pytest.approx(0.5 ** (4 - index))
    assert all(rate == 1 for name, rate in rates.items() if name.startswith("task"))


@pytest.mark.parametrize(
    ("transfer", "expected"),
    [
        (Transfer("x"), [[1, 1, 1], [1, 1, 1]]),
        (Transfer("x", "probe"), [[0, 0, 0], [0, 0, 0]]),
        (Transfer("x", "last_k", last_k=1), [[0, 0, 1], [0, 0, 1]]),
        (Transfer("x", "last_k", last_k=2, layer_decay=0.5), [[0, 0.25, 0.5], [0, 0.25, 0.5]]),
        (Transfer("x", "gradual"), [[0, 0, 0], [0, 0, 1]]),
        (Transfer("x", "gradual", layer_decay=0.1), [[0, 0, 0], [0, 0, 0.1]]),
    ],
)
def test_multipliers_of_layers_and_epochs(transfer: Transfer, expected: list[list[float]]) -> None:
    for epoch, row in enumerate(expected):
        assert [transfer.multiplier(layer, 3, epoch) for layer in range(3)] == pytest.approx(row)


def test_weights_and_standardisation_are_copied(
    config: Compose, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    composed = config(*SMALL, "transfer=full", f"transfer.init_from={source}", "data.split.seed=5")
    data = build_datamodule(composed)
    data.setup()
    learner, stored = build_learner(composed, data), torch.load(source, weights_only=True)["state_dict"]
    for key, value in learner.state_dict().items():
        if not key.startswith("task."):
            torch.testing.assert_close(value, stored[key], atol=0, rtol=0)
    assert not torch.allclose(learner.standardiser.mean, data.mean)
    count = sum(p.numel() for p in learner.backbone.parameters())
    assert f"all {count:,} weights of the backbone copied" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["transfer=probe"], "there is nothing to transfer; set transfer.init_from"),
        (["transfer=full", "transfer.init_from=nowhere"], "transfer.init_from: nowhere: there is no such folder"),
        (
            ["transfer=full", "transfer.init_from=SOURCE", "feature.front.n_fft=1024"],
            "other frames .*n_fft",
        ),
        (
            ["transfer=full", "transfer.init_from=SOURCE", "backbone=lstm"],
            "0% of the backbone's weights and 0 of its 2 layers can be copied",
        ),
        (["transfer=full", "transfer.train=some"], "transfer.train must be one of full, probe"),
        (["transfer=last_k", "transfer.last_k=0"], "transfer.last_k must be at least 1"),
        (["transfer=full", "transfer.layer_decay=0"], r"transfer.layer_decay must be in \(0, 1\]"),
        (["transfer=full", "transfer.head_init=zero"], "transfer.head_init must be one of random, linear_probe"),
    ],
)
def test_invalid_transfer_raises(config: Compose, source: Path, overrides: list[str], message: str) -> None:
    small = [] if "backbone=lstm" in overrides else SMALL[:2]
    composed = config(*small, *SMALL[2:], *(override.replace("SOURCE", str(source)) for override in overrides))
    data = build_datamodule(config())
    data.setup()
    with pytest.raises(UserError, match=message):
        build_learner(composed, _with_feature(data, composed))


def _with_feature(data: Any, composed: dict[str, Any]) -> Any:
    """Return the data with the config's feature, without reading its frames."""
    data.feature = instantiate.make(composed["feature"])
    return data


def test_network_that_would_be_mostly_random_is_refused(
    config: Compose, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Copy from a network with other kernels, of which all norms fit but no convolution does."""
    caplog.set_level(logging.INFO)
    other = ["backbone.kernel=5", "transfer=full", f"transfer.init_from={source}"]
    data = build_datamodule(config(*SMALL))
    data.setup()
    with pytest.raises(UserError, match=r"of the backbone's weights and 0 of its 4 layers .*transfer\.min_copied=0\.5"):
        build_learner(config(*SMALL, *other), data)
    learner = build_learner(config(*SMALL, *other, "transfer.min_copied=0"), data)
    rows = re.findall(r"layer +(\d): +([\d,]+) of +([\d,]+) weights", caplog.text)
    layers = [[int(cell.replace(",", "")) for cell in row] for row in rows[-4:]]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in learner.backbone.layers()]
    norms = [2 * channels for channels in (4, 8, 8, 16)]
    assert layers == [[i, norm, size] for i, (norm, size) in enumerate(zip(norms, sizes, strict=True), 1)]


def test_embedding_narrower_than_the_outputs_is_warned_about(config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    data = build_datamodule(config(*SMALL))
    data.setup()
    for channels, warned in (("[8,8,8,1]", True), ("[8,8,8,3]", False)):
        caplog.clear()
        build_learner(config(*SMALL, "task=multitask", f"backbone.channels={channels}"), data)
        message = "embedding has only 1 values for 3 outputs (valence 1, energy 1, danceability 1)"
        assert (message in caplog.text) == warned


def test_final_norm_has_the_index_of_the_block_before_it() -> None:
    net = AST(12, depth=3)
    assert layer_indices(net)[:4] == [0, 1, 2, 3]
    assert max(layer_indices(net)) == 3
    assert parameter_layer_index(net)["norm.weight"] == 3
    assert parameter_layer_index(net)["patches.tokens"] == 0
