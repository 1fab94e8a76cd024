"""Tests of the learning-rate schedule and of the parameters with weight decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from etude.backbones.ast import AST
from etude.backbones.cnn import CNN
from etude.backbones.lstm import LSTM
from etude.training.optimiser import Optimiser

STEPS = 200


def test_rate_increases_during_warm_up_and_decreases_to_zero() -> None:
    optimiser = Optimiser(warmup=0.1)
    rates = [optimiser.factor(step, STEPS) for step in range(STEPS + 1)]
    assert rates[0] == pytest.approx(1 / 21)
    assert rates[9] == pytest.approx(10 / 21)
    assert rates[20] == 1.0
    assert rates[110] == pytest.approx(0.5)
    assert rates[65] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[STEPS - 1] < 1e-3
    assert rates[STEPS] == 0.0
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_without_warm_up_the_first_rate_is_the_highest() -> None:
    assert Optimiser(warmup=0.0).factor(0, STEPS) == 1.0


def test_without_schedule_the_rate_is_constant() -> None:
    rates = [Optimiser(warmup=0.1, schedule="none").factor(step, STEPS) for step in range(20, STEPS + 1)]
    assert set(rates) == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_rates_of_a_very_short_run_are_positive(steps: int) -> None:
    rates = [Optimiser(warmup=0.5).factor(step, steps) for step in range(steps)]
    assert min(rates) > 0
    assert max(rates) <= 1


def test_rate_after_the_last_step_is_zero() -> None:
    assert Optimiser().factor(STEPS + 50, STEPS) == 0.0


@pytest.mark.parametrize(("kind", "maker"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_steps_equal_torch_with_the_rate_of_each_step(kind: str, maker: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    net, reference = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    reference.load_state_dict(net.state_dict())
    configured = Optimiser(kind, lr=0.1, weight_decay=0.3, warmup=0.4).configure(net, steps=5)
    assert configured["lr_scheduler"]["interval"] == "step"
    torch_optimiser = maker(reference.parameters(), lr=0.1, weight_decay=0.3)
    for rate in (0.1 / 3, 0.2 / 3, 0.1, 0.075, 0.025):
        assert configured["optimizer"].param_groups[0]["lr"] == pytest.approx(rate)
        torch_optimiser.param_groups[0]["lr"] = rate
        for module, optimiser in ((net, configured["optimizer"]), (reference, torch_optimiser)):
            optimiser.zero_grad()
            module(torch.ones(1, 3)).square().sum().backward()
            optimiser.step()
        configured["lr_scheduler"]["scheduler"].step()
        torch.testing.assert_close(net.weight, reference.weight)
    assert configured["optimizer"].param_groups[0]["lr"] == 0


def decayed(net: nn.Module) -> dict[str, bool]:
    """Return whether each parameter has weight decay, by name."""
    groups = Optimiser(weight_decay=0.1).configure(net, steps=10)["optimizer"].param_groups
    decay = {id(weight): group["weight_decay"] == 0.1 for group in groups for weight in group["params"]}
    assert all(group["weight_decay"] in (0.1, 0.0) for group in groups)
    return {name: decay[id(weight)] for name, weight in net.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("net", [LSTM(12), CNN(12), AST(12), nn.Linear(8, 1)], ids=lambda net: type(net).__name__)
def test_only_filters_and_matrices_have_weight_decay(net: nn.Module) -> None:
    for name, decays in decayed(net).items():
        if "bias" in name or "norm" in name:
            assert not decays, name
        elif "weight" in name:
            assert decays, name


def test_class_token_has_no_weight_decay() -> None:
    assert not decayed(AST(12))["patches.tokens"]


def test_frozen_parameters_are_excluded() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    assert set(decayed(net)) == {"1.weight", "1.bias"}
    groups = Optimiser().configure(net, steps=10)["optimizer"].param_groups
    assert sum(weight.numel() for group in groups for weight in group["params"]) == 10


def test_unknown_options_raise() -> None:
    with pytest.raises(ValueError, match=r"optim\.kind must be one of adam, adamw, got 'sgd'"):
        Optimiser(kind="sgd")
    with pytest.raises(ValueError, match=r"optim\.schedule must be one of cosine, none, got 'linear'"):
        Optimiser(schedule="linear")
