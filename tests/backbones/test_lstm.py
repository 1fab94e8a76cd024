"""The dense LSTM is the packed LSTM, and padding is invisible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from etude.backbones.lstm import LSTM, reversal

LENGTHS = torch.tensor([17, 1, 40, 33])


@pytest.fixture
def clips() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 40, 12)


def packed_twin(net: LSTM, bins: int) -> nn.LSTM:
    """torch's own multi-layer LSTM with the same weights."""
    twin = nn.LSTM(bins, net.onward[0].hidden_size, len(net.onward), batch_first=True, bidirectional=net.bidirectional)
    for i in range(len(net.onward)):
        for part, suffix in [(net.onward[i], "")] + ([(net.backward_[i], "_reverse")] if net.bidirectional else []):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(twin, f"{name}_l{i}{suffix}").data.copy_(getattr(part, f"{name}_l0"))
    return twin


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_equals_torch_packed(clips: Tensor, bidirectional: bool, depth: int) -> None:
    net = LSTM(bins=12, hidden=8, depth=depth, bidirectional=bidirectional).eval()
    _, (h, _) = packed_twin(net, 12)(pack_padded_sequence(clips, LENGTHS, batch_first=True, enforce_sorted=False))
    expected = torch.cat([h[-2], h[-1]], dim=-1) if bidirectional else h[-1]
    assert expected.shape[1] == net.dim
    torch.testing.assert_close(net(clips, LENGTHS), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_mean_is_over_the_packed_states(clips: Tensor, bidirectional: bool) -> None:
    net = LSTM(bins=12, hidden=8, bidirectional=bidirectional, readout="mean").eval()
    packed = pack_padded_sequence(clips, LENGTHS, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(packed_twin(net, 12)(packed)[0], batch_first=True)  # zero after each clip
    torch.testing.assert_close(net(clips, LENGTHS), states.sum(1) / LENGTHS[:, None], atol=1e-6, rtol=1e-5)


def test_an_unknown_readout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone\.readout must be last or mean, got 'first'"):
        LSTM(bins=12, readout="first")


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_are_those_of_the_packed_twin(clips: Tensor, bidirectional: bool) -> None:
    net = LSTM(bins=12, hidden=8, bidirectional=bidirectional, dropout=0.0)
    twin, ours, theirs = packed_twin(net, 12), clips.clone().requires_grad_(), clips.clone().requires_grad_()
    net(ours, LENGTHS).square().sum().backward()
    _, (h, _) = twin(pack_padded_sequence(theirs, LENGTHS, batch_first=True, enforce_sorted=False))
    h[-2 if bidirectional else -1 :].square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(net.onward[0].weight_hh_l0.grad, twin.weight_hh_l0.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_is_invisible(clips: Tensor, bidirectional: bool, readout: str) -> None:
    net = LSTM(bins=12, hidden=8, bidirectional=bidirectional, readout=readout).eval()
    noisy = clips.clone()
    for clip, length in zip(noisy, LENGTHS, strict=True):
        clip[length:] = 1e3
    longer = torch.cat([noisy, torch.full((4, 9, 12), -1e3)], dim=1)
    torch.testing.assert_close(net(longer, LENGTHS), net(clips, LENGTHS))


def test_each_clip_is_reversed_within_its_own_length() -> None:
    assert reversal(torch.tensor([3, 1, 4]), 5)[..., 0].tolist() == [
        [2, 1, 0, 3, 4],
        [0, 1, 2, 3, 4],
        [3, 2, 1, 0, 4],
    ]


def test_both_directions_of_a_depth_are_one_layer() -> None:
    net = LSTM(bins=12, hidden=8, depth=3, bidirectional=True)
    weights = [[id(weight) for weight in layer.parameters()] for layer in net.layers()]
    pairs = zip(net.onward, net.backward_, strict=True)
    assert weights == [[id(weight) for part in pair for weight in part.parameters()] for pair in pairs]
