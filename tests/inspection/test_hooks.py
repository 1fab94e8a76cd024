"""What is shown of a network is what passes there, gradients are finite differences, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.data.collection import label_target
from etude.inspection.hooks import Trace, parts, trace
from etude.inspection.layers import dead, statistics
from etude.training.build import build_from_recipe, load_learner
from etude.training.learner import Learner

from .conftest import recipe

Config = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def digits(config: Config) -> Learner:
    """The network of step 7.1 in double precision, in evaluation."""
    torch.manual_seed(0)
    plain = config("experiment=reproduction/step7/digits")
    return build_from_recipe(recipe(plain, {"digit": label_target(range(10))})).double().eval()


@pytest.fixture(scope="module")
def image() -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    return torch.rand(1, 24, 24, dtype=torch.float64), {"digit": torch.tensor([3])}


@pytest.fixture(scope="module")
def seen(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> Trace:
    digits.standardiser.forward = lambda x, lengths: x  # type: ignore[method-assign]  # in double precision
    return trace(digits, *image)


def loss(network: Learner, x: Tensor, y: dict[str, Tensor]) -> float:
    """In double precision, which the loss that is trained with is not."""
    with torch.no_grad():
        out = network.task(network.backbone(x, torch.tensor([x.shape[1]])))["digit"]
        return float(nn.functional.cross_entropy(out, y["digit"]))


def test_the_digits_network_is_the_one_of_the_source_work(digits: Learner, seen: Trace) -> None:
    assert sum(weight.numel() for weight in digits.parameters()) == 5994
    assert [(point.module, tuple(point.value.shape[1:])) for point in seen.points] == [
        ("frames", (24, 24)),
        ("Conv2d", (8, 24, 24)),
        ("ReLU", (8, 24, 24)),
        ("MaxPool2d", (8, 12, 12)),
        ("Conv2d", (16, 12, 12)),
        ("ReLU", (16, 12, 12)),
        ("AdaptiveMaxPool", (16, 4, 4)),
        ("before the heads", (256,)),
        ("Linear", (10,)),
        ("softmax", (10,)),
    ]
    assert [tuple(point.weight.shape) for point in seen.points if point.weight is not None] == [
        (8, 1, 5, 5), (16, 8, 5, 5), (10, 256)]  # fmt: skip
    assert sum(point.weights for point in seen.points) == 5994
    torch.testing.assert_close(seen.points[-1].value.sum(), torch.tensor(1.0), check_dtype=False)


def test_gradients_are_finite_differences(
    digits: Learner, image: tuple[Tensor, dict[str, Tensor]], seen: Trace
) -> None:
    x, y = image
    step = 1e-6
    shown = {point.name: point for point in seen.points}
    assert seen.loss == pytest.approx(loss(digits, x, y))
    for name, module in (("first", digits.backbone.first), ("second", digits.backbone.second)):
        point = shown[f"backbone.{name}"]
        for gradient, moved in ((point.gradient, None), (point.weight_gradient, module.weight)):
            assert gradient is not None
            place = tuple(int(i) for i in torch.unravel_index(gradient.abs().argmax(), gradient.shape))
            ends = []
            for sign in (1, -1):
                if moved is None:  # an activation is moved on its way on

                    def push(_: nn.Module, __: Any, out: Tensor, place: Any = place, sign: int = sign) -> Tensor:
                        change = torch.zeros_like(out)
                        change[place] = sign * step
                        return out + change

                    hook = module.register_forward_hook(push)
                    ends.append(loss(digits, x, y))
                    hook.remove()
                else:
                    with torch.no_grad():
                        moved[place] += sign * step
                        ends.append(loss(digits, x, y))
                        moved[place] -= sign * step
            assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)
    gradient = shown["input"].gradient
    assert gradient is not None
    change = torch.zeros_like(x)
    change[0, 11, 13] = step
    slope = (loss(digits, x + change, y) - loss(digits, x - change, y)) / (2 * step)
    assert float(gradient[0, 11, 13]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_a_clip_without_a_true_value_is_taken_at_its_word(
    digits: Learner, image: tuple[Tensor, dict[str, Tensor]], seen: Trace
) -> None:
    x, _ = image
    assert seen.assumed == []
    unknown = trace(digits, x, {"digit": torch.tensor([-1])})
    said = trace(digits, x, {"digit": seen.said["digit"].argmax(1)})
    assert unknown.assumed == ["digit"] and unknown.each == {}
    torch.testing.assert_close(unknown.points[1].gradient, said.points[1].gradient)
    assert unknown.loss == pytest.approx(said.loss)


def test_dead_units_are_found_where_they_were_planted(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> None:
    network = deepcopy(digits)
    with torch.no_grad():
        network.backbone.first.bias[[1, 4, 6]] = -1e6  # nothing gets through ReLU
        network.backbone.second.weight[5], network.backbone.second.bias[5] = 0, 0
    rows = {row["name"]: row for row in map(statistics, trace(network, *image).points)}
    assert (rows["backbone.first_relu"]["dead"], rows["backbone.first_relu"]["units"]) == (3, 8)
    assert rows["backbone.second_relu"]["dead"] == 1
    assert rows["embedding"]["dead"] >= 16
    assert rows["backbone.first_relu"]["activation"]["min"] == 0
    assert dead(torch.tensor([[[0.0, 1.0], [0.0, 2.0]]])).tolist() == [True, False]  # states over time


def test_nothing_of_a_trace_is_left_in_the_network(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> None:
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


def test_a_hook_is_gone_when_the_network_fails(digits: Learner, image: tuple[Tensor, dict[str, Tensor]]) -> None:
    with pytest.raises(RuntimeError):
        trace(digits, torch.rand(1, 24, 24, 3, dtype=torch.float64), image[1])
    assert not any(module._forward_hooks for module in parts(digits).values())


def test_a_layer_that_reads_from_the_end_is_shown_in_the_order_of_time(make_run: Callable[..., Path]) -> None:
    run = make_run("backbone=lstm", "backbone.bidirectional=true", "backbone.hidden=4", "backbone.depth=1")
    network = load_learner(run / "checkpoints" / "best.ckpt")
    x = torch.randn(1, 20, network.recipe["bins"]) * 9 - 40
    rows = trace(network, x, {"genre": torch.tensor([0])}).points
    (point,) = (point for point in rows if point.name == "backbone.backward_.0")
    lstm = network.backbone.backward_[0]
    states = lstm(network.standardiser(x, torch.tensor([20])).flip(1))[0].flip(1)
    torch.testing.assert_close(point.value, states)
