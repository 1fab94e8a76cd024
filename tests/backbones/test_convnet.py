"""Tests of the ConvNet, which equals ConvNetJS's network on digits and uses adaptive pooling for other sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.convnet import AdaptiveMaxPool, ConvNet
from etude.tasks.heads import Linear


def published(net: ConvNet) -> nn.Sequential:
    """Return the layers of the demo as torch modules, with the same weights."""
    return nn.Sequential(
        net.first, nn.ReLU(), nn.MaxPool2d(2, 2), net.second, nn.ReLU(), nn.MaxPool2d(3, 3), nn.Flatten()
    )  # fmt: skip


@pytest.fixture
def digits() -> Tensor:
    return torch.randn(5, 24, 24, generator=torch.Generator().manual_seed(0))


def test_network_with_linear_head_has_5994_weights() -> None:
    net = ConvNet(24)
    assert net.dim == 256
    assert sum(p.numel() for module in (net, Linear(net.dim, 10)) for p in module.parameters()) == 5994


def test_network_on_24_by_24_equals_the_published_one(digits: Tensor) -> None:
    net = ConvNet(24)
    torch.testing.assert_close(net(digits, torch.full((5,), 24)), published(net)(digits[:, None]), atol=1e-6, rtol=1e-6)


def test_gradients_on_24_by_24_equal_the_published_ones(digits: Tensor) -> None:
    net, gradients = ConvNet(24), []
    for z in (net(digits, torch.full((5,), 24)), published(net)(digits[:, None])):
        net.zero_grad()
        z.square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bins", [1, 2, 4, 6, 12, 70])
def test_last_pooling_is_adaptive_over_the_valid_frames(bins: int) -> None:
    lengths = torch.arange(1, 14)
    x = torch.rand(len(lengths), 3, 20, bins)  # values after a clip's end may be larger than those before
    result = AdaptiveMaxPool()(x, lengths)
    assert result.shape == (len(lengths), 3, 4, 4)
    for clip, pooled, length in zip(x, result, lengths, strict=True):
        torch.testing.assert_close(pooled, F.adaptive_max_pool2d(clip[:, :length], (4, 4)))


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_narrow_frames_and_short_clips_have_finite_embeddings(bins: int) -> None:
    z = ConvNet(bins)(torch.randn(3, 3, bins), torch.tensor([1, 2, 3]))
    assert z.shape == (3, 256)
    assert z.isfinite().all()
