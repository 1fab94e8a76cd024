"""Tests of the CNN, including padding in training and equality with a network of torch modules."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from etude.audio.frontend_modules import MaskedBatchNorm
from etude.backbones.cnn import CNN

LENGTHS = torch.tensor([33, 1, 48, 17])


def randomised(net: nn.Module) -> nn.Module:
    """Return the network with random parameters and statistics of all norms."""
    for module in net.modules():
        if isinstance(module, MaskedBatchNorm):
            for value, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5),
                                     (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):  # fmt: skip
                nn.init.uniform_(value, low, high)
    return net


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_padding_has_no_influence_in_training() -> None:
    net = randomised(CNN(12, channels=(8, 16), dropout=0.0)).train()
    twin = deepcopy(net)
    x = torch.randn(4, 48, 12)
    longer = torch.cat([x, torch.zeros(4, 19, 12)], dim=1)
    for clip, length in zip(longer, LENGTHS, strict=True):
        clip[length:] = 1e3
    z, same = net(x, LENGTHS), twin(longer, LENGTHS)
    torch.testing.assert_close(same, z, atol=1e-5, rtol=1e-5)
    z.square().sum().backward()
    same.square().sum().backward()
    for (name, weight), twin_weight in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(
            twin_weight.grad, weight.grad, atol=1e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
        )
    for name, value in net.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bins", [4, 37])
def test_pooling_before_relu_equals_pooling_after_relu(bins: int, training: bool) -> None:
    """Compare with convolution, norm, ReLU and pooling in this order, and the mean over time and frequency."""
    net = randomised(CNN(bins, dropout=0.0)).train(training)
    x = torch.randn(3, 48, bins)
    modules: list[nn.Module] = []
    for block in net.blocks:
        norm = nn.BatchNorm2d(len(block.norm.weight))
        norm.load_state_dict(block.norm.state_dict())
        modules += [block.conv, norm, nn.ReLU(), nn.MaxPool2d((2, min(2, bins)))]
        bins = max(1, bins // 2)
    plain = nn.Sequential(*modules).train(training)
    torch.testing.assert_close(net(x, torch.full((3,), 48)), plain(x[:, None]).mean((2, 3)), atol=1e-5, rtol=1e-5)


def test_synchronised_norms_do_not_change_evaluation() -> None:
    """Replace the batch norms of torch as Lightning does for the option sync_batchnorm of `trainer=ddp`."""
    net = randomised(CNN(12, channels=(8, 16))).eval()
    x = torch.randn(4, 48, 12)
    expected = net(x, LENGTHS)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(net)).eval()
    torch.testing.assert_close(synchronised(x, LENGTHS), expected)


def test_each_block_may_have_its_own_kernel() -> None:
    """Compare with convolutions of torch, and check that one number is the same as a list of equal numbers."""
    net = randomised(CNN(12, channels=(8, 16, 4), kernel=(5, 3, 1), dropout=0.0)).eval()
    assert [block.conv.kernel_size for block in net.blocks] == [(5, 5), (3, 3), (1, 1)]
    x = torch.randn(2, 24, 12)
    plain = x[:, None]
    for block in net.blocks:
        norm = nn.BatchNorm2d(len(block.norm.weight)).eval()
        norm.load_state_dict(block.norm.state_dict())
        plain = nn.functional.conv2d(plain, block.conv.weight, padding="same")
        plain = nn.functional.max_pool2d(norm(plain).relu(), 2)
    torch.testing.assert_close(net(x, torch.full((2,), 24)), plain.mean((2, 3)), atol=1e-5, rtol=1e-5)
    single, repeated = CNN(12, channels=(8, 16), kernel=5), CNN(12, channels=(8, 16), kernel=[5, 5])
    repeated.load_state_dict(single.state_dict())


@pytest.mark.parametrize("kernel", [4, 0, [5, 5], [5, 5, 3, 2], "abcd"])
def test_invalid_kernel_raises(kernel: int) -> None:
    with pytest.raises(ValueError, match=r"backbone.kernel must be an odd number or a list of 4 odd numbers"):
        CNN(12, kernel=kernel)
