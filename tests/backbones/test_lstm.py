"""Tests of the LSTM, including equality of dense and packed computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from etude.backbones import lstm
from etude.backbones.lstm import LSTM, READOUTS, Attention, reversed_indices
from etude.config.instantiate import make

LENGTHS = torch.tensor([17, 1, 40, 33, 5, 5, 28, 40, 12, 39, 2])  # more clips than one group


@pytest.fixture
def clips() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(len(LENGTHS), 40, 12)


def packed_twin(net: LSTM, bins: int) -> nn.LSTM:
    """Return torch's multi-layer LSTM with the same weights."""
    twin = nn.LSTM(
        bins,
        net.forward_layers[0].hidden_size,
        len(net.forward_layers),
        batch_first=True,
        bidirectional=net.bidirectional,
    )
    for i in range(len(net.forward_layers)):
        for layer, suffix in [(net.forward_layers[i], "")] + (
            [(net.backward_layers[i], "_reverse")] if net.bidirectional else []
        ):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(twin, f"{name}_l{i}{suffix}").data.copy_(getattr(layer, f"{name}_l0"))
    return twin


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_embedding_equals_packed_lstm_of_torch(clips: Tensor, bidirectional: bool, depth: int, packed: bool) -> None:
    net = LSTM(bins=12, hidden=8, depth=depth, bidirectional=bidirectional, packed=packed).eval()
    _, (h, _) = packed_twin(net, 12)(pack_padded_sequence(clips, LENGTHS, batch_first=True, enforce_sorted=False))
    expected = torch.cat([h[-2], h[-1]], dim=-1) if bidirectional else h[-1]
    assert expected.shape[1] == net.dim
    torch.testing.assert_close(net(clips, LENGTHS), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_mean_readout_equals_mean_over_packed_states(clips: Tensor, bidirectional: bool) -> None:
    net = LSTM(bins=12, hidden=8, bidirectional=bidirectional, readout="mean").eval()
    packed = pack_padded_sequence(clips, LENGTHS, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(packed_twin(net, 12)(packed)[0], batch_first=True)  # zero after each clip
    torch.testing.assert_close(net(clips, LENGTHS), states.sum(1) / LENGTHS[:, None], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_attention_readout_equals_weighted_mean_over_packed_states(clips: Tensor, bidirectional: bool) -> None:
    net = LSTM(bins=12, hidden=8, bidirectional=bidirectional, readout="attention").eval()
    inner, bias, outer = net.attention.parameters()
    packed = pack_padded_sequence(clips, LENGTHS, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(packed_twin(net, 12)(packed)[0], batch_first=True)
    expected = []
    for clip, length in zip(states, LENGTHS, strict=True):
        h = clip[:length]
        share = (torch.tanh(h @ inner.T + bias) @ outer[0]).exp()
        expected.append((share[:, None] * h).sum(0) / share.sum())
    torch.testing.assert_close(net(clips, LENGTHS), torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_attention_with_equal_scores_is_the_mean(clips: Tensor) -> None:
    attention = Attention(12)
    nn.init.zeros_(attention.score[-1].weight)
    mean = torch.stack([clip[:length].mean(0) for clip, length in zip(clips, LENGTHS, strict=True)])
    torch.testing.assert_close(attention(clips, LENGTHS), mean)


def test_unknown_readout_raises() -> None:
    with pytest.raises(ValueError, match=r"backbone\.readout must be last, mean or attention, got 'first'"):
        LSTM(bins=12, readout="first")


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_packed_and_dense_computation_are_equal(clips: Tensor, depth: int, bidirectional: bool, readout: str) -> None:
    embeddings, gradients = [], []
    for packed in (False, True):
        torch.manual_seed(1)
        net = LSTM(12, 8, depth, bidirectional, dropout=0.0, readout=readout, packed=packed)
        x = clips.clone().requires_grad_()
        z = net(x, LENGTHS)
        z.square().sum().backward()
        embeddings.append(z)
        gradients.append({"x": x.grad} | {name: p.grad for name, p in net.named_parameters()})
    torch.testing.assert_close(embeddings[0], embeddings[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())


def test_cpu_packs_only_on_request(clips: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    pack = lstm.pack_padded_sequence
    monkeypatch.setattr(lstm, "pack_padded_sequence", lambda *a, **k: calls.append(1) or pack(*a, **k))
    LSTM(12, depth=3)(clips, LENGTHS)
    assert not calls
    LSTM(12, depth=3, packed=True)(clips, LENGTHS)
    assert len(calls) == 3


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_equal_those_of_packed_lstm(clips: Tensor, bidirectional: bool, packed: bool) -> None:
    net = LSTM(bins=12, hidden=8, bidirectional=bidirectional, dropout=0.0, packed=packed)
    twin, x, twin_x = packed_twin(net, 12), clips.clone().requires_grad_(), clips.clone().requires_grad_()
    net(x, LENGTHS).square().sum().backward()
    _, (h, _) = twin(pack_padded_sequence(twin_x, LENGTHS, batch_first=True, enforce_sorted=False))
    h[-2 if bidirectional else -1 :].square().sum().backward()
    torch.testing.assert_close(x.grad, twin_x.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(net.forward_layers[0].weight_hh_l0.grad, twin.weight_hh_l0.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_padding_does_not_change_embedding(clips: Tensor, packed: bool, bidirectional: bool, readout: str) -> None:
    net = LSTM(bins=12, hidden=8, bidirectional=bidirectional, readout=readout, packed=packed).eval()
    noisy = clips.clone()
    for clip, length in zip(noisy, LENGTHS, strict=True):
        clip[length:] = 1e3
    longer = torch.cat([noisy, torch.full((len(LENGTHS), 9, 12), -1e3)], dim=1)
    torch.testing.assert_close(net(longer, LENGTHS), net(clips, LENGTHS))


def test_reversed_indices_keep_padding_in_place() -> None:
    assert reversed_indices(torch.tensor([3, 1, 4]), 5)[..., 0].tolist() == [
        [2, 1, 0, 3, 4],
        [0, 1, 2, 3, 4],
        [3, 2, 1, 0, 4],
    ]


def test_both_directions_form_one_layer() -> None:
    net = LSTM(bins=12, hidden=8, depth=3, bidirectional=True)
    weights = [[id(weight) for weight in layer.parameters()] for layer in net.layers()]
    pairs = zip(net.forward_layers, net.backward_layers, strict=True)
    assert weights == [[id(weight) for layer in pair for weight in layer.parameters()] for pair in pairs]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_learned_readout_belongs_to_the_last_layer(bidirectional: bool) -> None:
    net = LSTM(bins=12, hidden=8, depth=3, bidirectional=bidirectional, readout="attention")
    layers = [list(layer.parameters()) for layer in net.layers()]
    assert len(layers) == 3
    assert {id(p) for p in net.attention.parameters()} <= {id(p) for p in layers[-1]}
    assert sorted(id(p) for layer in layers for p in layer) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "depth", "hidden"), [("reproduction/table1/lstm_mel", 8, 256), ("reproduction/table2/lstm_valence", 2, 64)]
)
def test_reproduction_experiments_have_the_published_sizes(
    config: Callable[..., dict[str, Any]], name: str, depth: int, hidden: int
) -> None:
    composed = config(f"experiment={name}")
    net = make(composed["backbone"], 128)
    assert [layer.hidden_size for layer in net.forward_layers] == [hidden] * depth
    assert (net.readout, net.dim) == ("last", 2 * hidden)  # bidirectional
    assert (composed["optim"]["kind"], composed["optim"]["lr"], composed["optim"]["schedule"]) == ("adam", 1e-4, "none")
