"""Tests of heads, including equality with their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude.config.compose import conf_dir
from etude.config.instantiate import make
from etude.tasks.heads import MLP, Linear

NAMES = sorted(path.stem for path in (conf_dir() / "head").glob("*.yaml"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=NAMES)
def head(config: Callable[..., dict[str, Any]], request: pytest.FixtureRequest) -> nn.Module:
    return make(config(f"head={request.param}")["head"], 24, 5).eval()


def test_outputs_have_shape_b_by_k_and_depend_on_one_clip(head: nn.Module) -> None:
    z = torch.randn(7, 24)
    out = head(z)
    assert out.shape == (7, 5)
    torch.testing.assert_close(torch.cat([head(clip[None]) for clip in z]), out)


def test_every_parameter_and_the_embedding_have_a_gradient(head: nn.Module) -> None:
    z = torch.randn(7, 24, requires_grad=True)
    head(z).square().sum().backward()
    assert (z.grad != 0).any(1).all()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_linear_is_an_affine_map() -> None:
    head, z = Linear(24, 5, dropout=0.9).eval(), torch.randn(7, 24)
    weight, bias = head.parameters()
    torch.testing.assert_close(head(z), z @ weight.T + bias)


def test_linear_drops_units_of_the_embedding_in_training() -> None:
    head = Linear(24, 5, dropout=1.0).train()
    _, bias = head.parameters()
    torch.testing.assert_close(head(torch.randn(7, 24)), bias.expand(7, -1))


def test_norm_of_linear_equals_batch_norm() -> None:
    """Compare with torch's batch norm in training and evaluation. A batch of one clip is valid."""
    z = torch.randn(64, 24) * torch.logspace(-2, 3, 24)
    head, reference = Linear(24, 5, norm=True).train(), nn.BatchNorm1d(24).train()
    affine = head.layers[1]
    for _ in range(3):
        torch.testing.assert_close(head(z), affine(reference(z)))
    torch.testing.assert_close(head.eval()(z), affine(reference.eval()(z)))
    assert head.train()(z[:1]).isfinite().all()


def test_mlp_equals_its_formula() -> None:
    head, z = MLP(24, 5, hidden=16).eval(), torch.randn(7, 24)
    _, _, inner, inner_bias, outer, outer_bias = head.parameters()
    normal = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden = F.gelu(normal @ inner.T + inner_bias)
    assert hidden.shape == (7, 16)
    torch.testing.assert_close(head(z), hidden @ outer.T + outer_bias, atol=1e-5, rtol=1e-5)


def test_mlp_does_not_depend_on_the_scale_of_the_embedding() -> None:
    head, z = MLP(24, 5).eval(), torch.randn(7, 24)
    torch.testing.assert_close(head(100 * z + 3), head(z), atol=1e-3, rtol=1e-3)
