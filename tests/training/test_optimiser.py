"""The rate rises, falls and ends where it should, and only matrices and filters are decayed."""

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


def test_the_rate_rises_to_the_end_of_the_warm_up_and_falls_to_nothing() -> None:
    optimiser = Optimiser(warmup=0.1)
    course = [optimiser.factor(step, STEPS) for step in range(STEPS + 1)]
    assert course[0] == pytest.approx(1 / 21)
    assert course[9] == pytest.approx(10 / 21)
    assert course[20] == 1.0
    assert course[110] == pytest.approx(0.5)
    assert course[65] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert course[STEPS - 1] < 1e-3
    assert course[STEPS] == 0.0
    assert course[:21] == sorted(course[:21])
    assert course[20:] == sorted(course[20:], reverse=True)


def test_without_warm_up_it_begins_at_its_highest() -> None:
    assert Optimiser(warmup=0.0).factor(0, STEPS) == 1.0


def test_without_decay_it_stays_there() -> None:
    course = [Optimiser(warmup=0.1, schedule="none").factor(step, STEPS) for step in range(20, STEPS + 1)]
    assert set(course) == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_very_short_run_learns_too(steps: int) -> None:
    course = [Optimiser(warmup=0.5).factor(step, steps) for step in range(steps)]
    assert min(course) > 0
    assert max(course) <= 1


def test_past_the_last_step_it_stays_at_nothing() -> None:
    assert Optimiser().factor(STEPS + 50, STEPS) == 0.0


@pytest.mark.parametrize(("kind", "maker"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_steps_are_torchs_with_the_rate_of_each_step(kind: str, maker: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    made = Optimiser(kind, lr=0.1, weight_decay=0.3, warmup=0.4).configure(ours, steps=5)
    assert made["lr_scheduler"]["interval"] == "step"
    plain = maker(theirs.parameters(), lr=0.1, weight_decay=0.3)
    for rate in (0.1 / 3, 0.2 / 3, 0.1, 0.075, 0.025):
        assert made["optimizer"].param_groups[0]["lr"] == pytest.approx(rate)
        plain.param_groups[0]["lr"] = rate
        for net, optimiser in ((ours, made["optimizer"]), (theirs, plain)):
            optimiser.zero_grad()
            net(torch.ones(1, 3)).square().sum().backward()
            optimiser.step()
        made["lr_scheduler"]["scheduler"].step()
        torch.testing.assert_close(ours.weight, theirs.weight)
    assert made["optimizer"].param_groups[0]["lr"] == 0


def decayed(net: nn.Module) -> dict[str, bool]:
    """Which parameters are decayed, by name."""
    groups = Optimiser(weight_decay=0.1).configure(net, steps=10)["optimizer"].param_groups
    decay = {id(weight): group["weight_decay"] == 0.1 for group in groups for weight in group["params"]}
    assert all(group["weight_decay"] in (0.1, 0.0) for group in groups)
    return {name: decay[id(weight)] for name, weight in net.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("net", [LSTM(12), CNN(12), AST(12), nn.Linear(8, 1)], ids=lambda net: type(net).__name__)
def test_filters_and_matrices_are_decayed_and_biases_and_norms_are_not(net: nn.Module) -> None:
    for name, decays in decayed(net).items():
        if "bias" in name or "norm" in name:
            assert not decays, name
        elif "weight" in name:
            assert decays, name


def test_the_class_token_is_a_vector_and_not_decayed() -> None:
    assert not decayed(AST(12))["patches.tokens"]


def test_what_is_frozen_is_left_out() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    assert set(decayed(net)) == {"1.weight", "1.bias"}
    groups = Optimiser().configure(net, steps=10)["optimizer"].param_groups
    assert sum(weight.numel() for group in groups for weight in group["params"]) == 10


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"optim\.kind must be one of adam, adamw, got 'sgd'"):
        Optimiser(kind="sgd")
    with pytest.raises(ValueError, match=r"optim\.schedule must be one of cosine, none, got 'linear'"):
        Optimiser(schedule="linear")
