"""On a digit the network is ConvNetJS's, weight by weight; elsewhere its last pooling is torch's adaptive one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.convnet import AdaptiveMaxPool, ConvNet
from etude.tasks.heads import Linear


def published(net: ConvNet) -> nn.Sequential:
    """The demo's layers by torch, with the same weights."""
    return nn.Sequential(
        net.first, nn.ReLU(), nn.MaxPool2d(2, 2), net.second, nn.ReLU(), nn.MaxPool2d(3, 3), nn.Flatten()
    )  # fmt: skip


@pytest.fixture
def digits() -> Tensor:
    return torch.randn(5, 24, 24, generator=torch.Generator().manual_seed(0))


def test_with_a_linear_head_for_ten_digits_it_has_5994_weights() -> None:
    net = ConvNet(24)
    assert net.dim == 256
    assert sum(p.numel() for part in (net, Linear(net.dim, 10)) for p in part.parameters()) == 5994


def test_on_24_by_24_it_is_the_published_network(digits: Tensor) -> None:
    net = ConvNet(24)
    torch.testing.assert_close(net(digits, torch.full((5,), 24)), published(net)(digits[:, None]), atol=1e-6, rtol=1e-6)


def test_and_so_are_its_gradients(digits: Tensor) -> None:
    net, pulled = ConvNet(24), []
    for z in (net(digits, torch.full((5,), 24)), published(net)(digits[:, None])):
        net.zero_grad()
        z.square().sum().backward()
        pulled.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(pulled[0], pulled[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bins", [1, 2, 4, 6, 12, 70])
def test_the_last_pooling_is_adaptive_over_each_clips_own_frames(bins: int) -> None:
    lengths = torch.arange(1, 14)
    x = torch.rand(len(lengths), 3, 20, bins)  # what stands after a clip's end may be larger than what is in it
    got = AdaptiveMaxPool()(x, lengths)
    assert got.shape == (len(lengths), 3, 4, 4)
    for clip, pooled, length in zip(x, got, lengths, strict=True):
        torch.testing.assert_close(pooled, F.adaptive_max_pool2d(clip[:, :length], (4, 4)))


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_the_narrowest_frames_and_the_shortest_clips_have_an_embedding(bins: int) -> None:
    z = ConvNet(bins)(torch.randn(3, 3, bins), torch.tensor([1, 2, 3]))
    assert z.shape == (3, 256)
    assert z.isfinite().all()
