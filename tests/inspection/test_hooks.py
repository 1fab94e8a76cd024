"""Recorded activations are correct, gradients equal finite differences, and the network is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.data.collection import label_target
from etude.inspection.hooks import Trace, inspected_modules, trace
from etude.inspection.layers import dead_units, statistics
from etude.training.build import build_from_recipe, load_learner
from etude.training.learner import Learner

from .conftest import recipe

Config = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def digits(config: Config) -> Learner:
    """Network of the digits reproduction, in double precision and evaluation mode."""
    torch.manual_seed(0)
    plain = config("experiment=reproduction/step7/digits")
    return build_from_recipe(recipe(plain, {"digit": label_target(range(10))})).double().eval()


@pytest.fixture(scope="module")
def image() -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    return torch.rand(1, 24, 24, dtype=torch.float64), {"digit": torch.tensor([3])}


@pytest.fixture(scope="module")
def traced(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> Trace:
    digits.standardiser.forward = lambda x, lengths: x  # type: ignore[method-assign]  # without rounding to float32
    return trace(digits, *image)


def loss(network: Learner, x: Tensor, y: dict[str, Tensor]) -> float:
    """Compute the loss in double precision, which the loss of training is not."""
    with torch.no_grad():
        out = network.task(network.backbone(x, torch.tensor([x.shape[1]])))["digit"]
        return float(nn.functional.cross_entropy(out, y["digit"]))


def test_digits_network_has_layers_of_the_reproduced_work(digits: Learner, traced: Trace) -> None:
    assert sum(weight.numel() for weight in digits.parameters()) == 5994
    assert [(record.module, tuple(record.value.shape[1:])) for record in traced.records] == [
        ("frames", (24, 24)),
        ("Conv2d", (8, 24, 24)),
        ("ReLU", (8, 24, 24)),
        ("MaxPool2d", (8, 12, 12)),
        ("Conv2d", (16, 12, 12)),
        ("ReLU", (16, 12, 12)),
        ("AdaptiveMaxPool", (16, 4, 4)),
        ("input of the heads", (256,)),
        ("Linear", (10,)),
        ("softmax", (10,)),
    ]
    assert [tuple(record.weight.shape) for record in traced.records if record.weight is not None] == [
        (8, 1, 5, 5), (16, 8, 5, 5), (10, 256)]  # fmt: skip
    assert sum(record.parameters for record in traced.records) == 5994
    torch.testing.assert_close(traced.records[-1].value.sum(), torch.tensor(1.0), check_dtype=False)


def test_gradients_equal_finite_differences(
    digits: Learner, image: tuple[Tensor, dict[str, Tensor]], traced: Trace
) -> None:
    x, y = image
    step = 1e-6
    records = {record.name: record for record in traced.records}
    assert traced.loss == pytest.approx(loss(digits, x, y))
    for name, module in (("first", digits.backbone.first), ("second", digits.backbone.second)):
        record = records[f"backbone.{name}"]
        for gradient, weight in ((record.gradient, None), (record.weight_gradient, module.weight)):
            assert gradient is not None
            index = tuple(int(i) for i in torch.unravel_index(gradient.abs().argmax(), gradient.shape))
            losses = []
            for sign in (1, -1):
                if weight is None:  # a hook changes the activation

                    def change_output(
                        _: nn.Module, __: Any, out: Tensor, index: Any = index, sign: int = sign
                    ) -> Tensor:
                        change = torch.zeros_like(out)
                        change[index] = sign * step
                        return out + change

                    hook = module.register_forward_hook(change_output)
                    losses.append(loss(digits, x, y))
                    hook.remove()
                else:
                    with torch.no_grad():
                        weight[index] += sign * step
                        losses.append(loss(digits, x, y))
                        weight[index] -= sign * step
            assert float(gradient[index]) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-4)
    gradient = records["input"].gradient
    assert gradient is not None
    change = torch.zeros_like(x)
    change[0, 11, 13] = step
    slope = (loss(digits, x + change, y) - loss(digits, x - change, y)) / (2 * step)
    assert float(gradient[0, 11, 13]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_loss_of_clip_without_true_label_uses_predicted_class(
    digits: Learner, image: tuple[Tensor, dict[str, Tensor]], traced: Trace
) -> None:
    x, _ = image
    assert traced.unlabelled == []
    unlabelled = trace(digits, x, {"digit": torch.tensor([-1])})
    labelled = trace(digits, x, {"digit": traced.predictions["digit"].argmax(1)})
    assert unlabelled.unlabelled == ["digit"] and unlabelled.losses == {}
    torch.testing.assert_close(unlabelled.records[1].gradient, labelled.records[1].gradient)
    assert unlabelled.loss == pytest.approx(labelled.loss)


def test_dead_units_are_counted(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> None:
    network = deepcopy(digits)
    with torch.no_grad():
        network.backbone.first.bias[[1, 4, 6]] = -1e6  # the output of ReLU is 0
        network.backbone.second.weight[5], network.backbone.second.bias[5] = 0, 0
    rows = {row["name"]: row for row in map(statistics, trace(network, *image).records)}
    assert (rows["backbone.first_relu"]["dead"], rows["backbone.first_relu"]["units"]) == (3, 8)
    assert rows["backbone.second_relu"]["dead"] == 1
    assert rows["embedding"]["dead"] >= 16
    assert rows["backbone.first_relu"]["activation"]["min"] == 0
    assert dead_units(torch.tensor([[[0.0, 1.0], [0.0, 2.0]]])).tolist() == [True, False]  # states over time


def test_trace_leaves_network_unchanged(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> None:
    x, y = image
    before = {name: value.clone() for name, value in digits.state_dict().items()}
    first = digits.backbone(x, torch.tensor([24]))
    trace(digits, x, y)
    torch.testing.assert_close(digits.backbone(x, torch.tensor([24])), first, rtol=0, atol=0)
    for name, value in digits.state_dict().items():
        assert torch.equal(value, before[name])
    for module in digits.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert all(weight.grad is None for weight in digits.parameters())
    assert not digits.training


def test_hooks_are_removed_if_network_fails(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> None:
    with pytest.raises(RuntimeError):
        trace(digits, torch.rand(1, 24, 24, 3, dtype=torch.float64), image[1])
    assert not any(module._forward_hooks for module in inspected_modules(digits).values())


def test_output_of_backward_lstm_is_in_time_order(make_run: Callable[..., Path]) -> None:
    run = make_run("backbone=lstm", "backbone.bidirectional=true", "backbone.hidden=4", "backbone.depth=1")
    network = load_learner(run / "checkpoints" / "best.ckpt")
    x = torch.randn(1, 20, network.recipe["bins"]) * 9 - 40
    records = trace(network, x, {"genre": torch.tensor([0])}).records
    (record,) = (record for record in records if record.name == "backbone.backward_layers.0")
    lstm = network.backbone.backward_layers[0]
    states = lstm(network.standardiser(x, torch.tensor([20])).flip(1))[0].flip(1)
    torch.testing.assert_close(record.value, states)


def test_maps_of_patches_are_joined_in_time(config: Config) -> None:
    """Compare with the maps of each patch; frames after the last complete patch have no values."""
    torch.manual_seed(0)
    plain = config("backbone=musicnn", "backbone.weights=null")
    net = build_from_recipe(recipe(plain, {"genre": label_target(["a", "b"])})).eval()
    x, y = torch.rand(1, 450, 96), {"genre": torch.tensor([0])}
    joined = {record.name: record.value for record in trace(net, x, y).records}
    first, second = (
        {record.name: record.value for record in trace(net, patch, y).records} for patch in x[:, :374].split(187, 1)
    )
    for name, bins in (("front.branches.0.conv", 59), ("front", 1), ("middle.2", 1)):
        value = joined[f"backbone.{name}"]
        assert value.shape[2:] == (450, bins)
        patches = [record[f"backbone.{name}"] for record in (first, second)]
        torch.testing.assert_close(value[:, :, :374], torch.cat(patches, 2), atol=1e-5, rtol=1e-5)
        assert not value[:, :, 374:].any()
    assert joined["backbone.back"].shape == (1, 2, 200)
    assert trace(net, x[:, :50], y).records[1].value.shape[2] == 50
