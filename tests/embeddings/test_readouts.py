"""Tests of hidden states against hooks, and of read-outs against their formulas, one clip at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from etude.backbones.ast import AST
from etude.backbones.base import Backbone
from etude.backbones.cnn import CNN
from etude.backbones.convnet import ConvNet
from etude.backbones.efficientat import EfficientAT
from etude.backbones.lstm import LSTM
from etude.backbones.timm_backbone import Timm
from etude.embeddings.readouts import Readout, layer_numbers, layer_statistics, pool_states
from etude.errors import UserError

LENGTHS = torch.tensor([40, 1, 23])
NUMPY: dict[str, list[Callable[..., Any]]] = {
    "mean": [np.mean],
    "mean_std": [np.mean, np.std],
    "mean_max": [np.mean, np.max],
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 40, 12)


@pytest.fixture
def lstm() -> LSTM:
    return LSTM(12, hidden=6, depth=3).eval()


def recorded(modules: list[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    """Return the outputs of modules, recorded by hooks, with feature maps (1, C, T, F) averaged over the bins."""
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, inputs, out: outputs.append(out if isinstance(out, Tensor) else out[0]))
        for module in modules
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return [out.mean(3).transpose(1, 2) if out.ndim == 4 else out for out in outputs]


NETS: dict[str, tuple[Callable[[], Backbone], Callable[[Any], list[nn.Module]]]] = {
    "cnn": (lambda: CNN(64, [4, 8, 8]), lambda net: list(net.blocks)),
    "convnet": (lambda: ConvNet(64), lambda net: [net.first_pool, net.second_relu]),
    "efficientat": (lambda: EfficientAT(64, width=0.1), lambda net: list(net.features)),
    "lstm": (lambda: LSTM(64, hidden=6, depth=3), lambda net: list(net.forward_layers)),
}


@pytest.mark.parametrize("name", NETS)
def test_hidden_states_are_the_outputs_of_the_layers(name: str) -> None:
    build, modules = NETS[name]
    net, x = build().eval(), torch.randn(1, 128, 64)
    states = net.hidden_states(x, torch.tensor([128]))
    expected = recorded(modules(net), lambda: net(x, torch.tensor([128])))
    assert len(states) == len(expected) + 1
    for (values, lengths), output in zip(states, [x, *expected], strict=True):
        assert int(lengths) == values.shape[1]
        torch.testing.assert_close(values, output)


def test_hidden_states_of_transformer_are_means_of_patch_columns() -> None:
    net, x, lengths = AST(64, depth=3).eval(), torch.randn(1, 128, 64), torch.tensor([128])
    patches, *blocks, normed = recorded(
        [net.patches, *net.blocks, net.norm],
        lambda: net.norm(net.blocks[2](net.blocks[1](net.blocks[0](net.patches(x, lengths).tokens)))),
    )
    states = net.hidden_states(x, lengths)
    assert [values.shape for values, _ in states] == [(1, 12, net.dim)] * 4  # (128 - 16) // 10 + 1 columns
    for (values, count), tokens in zip(states, [patches, *blocks[:2], normed], strict=True):
        torch.testing.assert_close(values, tokens[:, 1:].reshape(1, 12, 5, -1).mean(2))  # without the class token
        assert int(count) == 12


def test_mean_of_last_state_of_transformer_is_its_mean_embedding() -> None:
    net, x, lengths = AST(64, depth=2, pool="mean").eval(), torch.randn(2, 128, 64), torch.tensor([128, 60])
    torch.testing.assert_close(Readout(net, 64, "last")(net, x, lengths), net(x, lengths))


def test_hidden_states_of_timm_network_equal_its_intermediate_features() -> None:
    net, x = Timm(64).eval(), torch.randn(1, 160, 64)
    with torch.no_grad():
        states = net.hidden_states(x, torch.tensor([160]))
        _, *stages = net.net.forward_intermediates(x.transpose(1, 2)[:, None], intermediates_only=True)
    assert len(stages) == 4
    for (values, count), stage in zip(states[-4:], stages, strict=True):
        torch.testing.assert_close(values, stage.mean(2).transpose(1, 2))
        assert int(count) == values.shape[1]


def test_timm_network_with_another_layout_has_no_hidden_states() -> None:
    net = Timm(64, model="mambaout_femto")
    with pytest.raises(UserError, match=r"^backbone\.model=mambaout_femto: has layers without feature maps over time"):
        Readout(net, 64, "last")
    assert Readout(net, 64).dim == net.dim


def test_dropped_patches_in_training_raise_user_error(x: Tensor) -> None:
    net = AST(12, depth=1, drop_patches=0.2)
    readout = Readout(net, 12, "last")
    with pytest.raises(UserError, match=r"^backbone\.drop_patches=0\.2: a read-out .* set backbone\.drop_patches=0"):
        readout(net, x, LENGTHS)
    assert readout(net.eval(), x, LENGTHS).shape == (3, net.dim)


def test_dropped_rows_and_columns_leave_complete_columns() -> None:
    net = AST(64, depth=1, drop_time=0.5, drop_frequency=0.3).train()
    states = net.hidden_states(torch.randn(2, 128, 64), torch.tensor([128, 61]))
    assert [counts.tolist() for _, counts in states] == [[6, 2], [6, 2]]  # half of 12 and of 5 columns


# poolings


@pytest.mark.parametrize("pooling", NUMPY)
def test_pooling_equals_numpy_for_each_clip_and_ignores_padding(pooling: str, x: Tensor) -> None:
    for clip, n in zip(x, LENGTHS, strict=True):
        clip[n:] = torch.nan
    pooled = pool_states(x, LENGTHS, pooling)
    for clip, n, values in zip(x, LENGTHS, pooled, strict=True):
        expected = np.concatenate([function(clip[:n].numpy(), axis=0) for function in NUMPY[pooling]])
        np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", NUMPY)
def test_gradients_are_finite_for_one_frame_and_constant_states(pooling: str) -> None:
    states = torch.stack([torch.randn(5, 4), torch.ones(5, 4), torch.full((5, 4), torch.nan)])
    states[2, 0] = 2.0
    states.requires_grad_()
    pooled = pool_states(states, torch.tensor([5, 5, 1]), pooling)
    pooled.square().sum().backward()
    assert states.grad is not None and states.grad.isfinite().all()
    if pooling == "mean_std":
        assert (pooled[1:, 4:] == 0).all()


def test_pooling_of_half_precision_is_in_single_precision() -> None:
    states = torch.full((1, 4096, 1), 0.1, dtype=torch.bfloat16)
    pooled = pool_states(states, torch.tensor([4096]), "mean")
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, states[:, 0].float())
    assert pool_states(states.double(), torch.tensor([4096]), "mean").dtype == torch.float64


# selection and combination of layers


@pytest.mark.parametrize("layers", [None, "last", "middle", "all", [2, 0]])
def test_values_that_are_selected_from_the_statistics_of_all_layers_equal_the_pooled_ones(
    layers: Any, lstm: LSTM, x: Tensor
) -> None:
    frames, lengths = x[2:, :23], LENGTHS[2:]
    statistics = layer_statistics(lstm, frames, lengths)
    assert statistics.shape == (1, lstm.dim + 3 * (12 + 3 * lstm.dim))
    for pooling in NUMPY if layers is not None else ["mean"]:
        readout = Readout(lstm, 12, layers, pooling)
        assert torch.equal(readout.select(statistics), readout.pool(lstm, frames, lengths))


def test_default_is_the_embedding_of_the_backbone(lstm: LSTM, x: Tensor) -> None:
    readout = Readout(lstm, 12)
    assert readout.dim == lstm.dim
    assert not list(readout.parameters())
    assert torch.equal(readout(lstm, x, LENGTHS), lstm(x, LENGTHS))


@pytest.mark.parametrize("pooling", NUMPY)
def test_concatenation_is_in_the_order_of_the_list(pooling: str, lstm: LSTM, x: Tensor) -> None:
    readout = Readout(lstm, 12, [-1, 0], pooling)
    assert readout.layers == [3, 0]
    assert readout.dim == (6 + 12) * len(NUMPY[pooling])
    states = lstm.hidden_states(x, LENGTHS)
    expected = [pool_states(*states[layer], pooling) for layer in (3, 0)]
    torch.testing.assert_close(readout(lstm, x, LENGTHS), torch.cat(expected, dim=1))
    assert Readout(lstm, 12, "all").layers == [0, 1, 2, 3]


def test_weighted_sum_begins_as_the_mean_and_has_softmax_weights(lstm: LSTM, x: Tensor) -> None:
    readout = Readout(lstm, 12, [1, 2, 3], "mean_std", "weighted")
    assert readout.dim == 12
    states = lstm.hidden_states(x, LENGTHS)
    pooled = torch.stack([pool_states(*state, "mean_std") for state in states[1:]])
    torch.testing.assert_close(readout(lstm, x, LENGTHS), pooled.mean(0))
    assert readout.weights is not None
    with torch.no_grad():
        readout.weights.copy_(torch.tensor([0.5, -1.0, 2.0]).log_softmax(0) + 7)
    expected = torch.einsum("l,lbd->bd", torch.tensor([0.5, -1.0, 2.0]).softmax(0), pooled)
    torch.testing.assert_close(readout(lstm, x, LENGTHS), expected)
    readout(lstm, x, LENGTHS).square().sum().backward()
    assert (readout.weights.grad != 0).all()


def test_read_out_leaves_modes_and_random_numbers_unchanged() -> None:
    net, state = CNN(12, [4, 8]).train(), torch.get_rng_state()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Readout(net, 12, "all")
    assert all(module.training for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(dict(net.state_dict()), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "first"}, r"readout\.layers must be null, last, middle, all or a list of numbers .* got 'first'"),
        ({"layers": []}, r"readout\.layers must be null, last, middle, all or a list of numbers .* got \[\]"),
        ({"layers": 3}, r"readout\.layers must be null, last, middle, all or a list of numbers .* got 3"),
        ({"layers": [1, 4]}, r"readout\.layers: the backbone has 3 layers, .* from -4 to 3 .* got 4"),
        ({"layers": [True]}, r"readout\.layers: the backbone has 3 layers, .* got True"),
        ({"layers": [1.5]}, r"readout\.layers: the backbone has 3 layers, .* got 1\.5"),
        ({"layers": [3, -1]}, r"readout\.layers must contain each layer once, got \[3, -1\]"),
        ({"layers": "last", "pooling": "max"}, r"readout\.pooling must be mean, mean_std or mean_max, got 'max'"),
        ({"layers": "last", "combine": "sum"}, r"readout\.combine must be concat or weighted, got 'sum'"),
        ({"pooling": "mean_std"}, r"readout\.pooling=mean_std has no effect .* set readout\.layers=last"),
        ({"combine": "weighted"}, r"readout\.combine=weighted has no effect .* set readout\.layers=last"),
        (
            {"layers": "all", "combine": "weighted"},
            r"readout\.combine=weighted requires layers of equal width.* 12 \(layer 0\), 6 \(layer 1\)",
        ),
    ],
    ids=str,
)
def test_invalid_option_raises_value_error(options: dict[str, Any], message: str, lstm: LSTM) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Readout(lstm, 12, **options)


def test_backbone_without_hidden_states_raises_value_error() -> None:
    class Embedding(Backbone):
        dim = 4

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return x[:, 0, :4]

    assert Readout(Embedding(), 12).dim == 4
    with pytest.raises(ValueError, match=r"^readout\.layers: Embedding has no hidden states; use readout\.layers=null"):
        Readout(Embedding(), 12, "last")


def test_negative_numbers_count_from_the_last_layer() -> None:
    assert layer_numbers([-1, -4, 1], 4) == [3, 0, 1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "the backbone's own"),
        ({"layers": "last"}, "means of layer 3"),
        ({"layers": "all", "pooling": "mean_std"}, "means and standard deviations of layers 0 to 3"),
        ({"layers": [0, 2], "pooling": "mean_max"}, "means and maxima of layers 0, 2"),
        ({"layers": [1, 2], "combine": "weighted"}, "means of layers 1, 2, summed with learned weights"),
    ],
)
def test_description_names_layers_and_statistics(options: dict[str, Any], text: str, lstm: LSTM) -> None:
    assert Readout(lstm, 12, **options).describe() == text


@pytest.mark.parametrize(("count", "middle"), [(1, 0), (2, 1), (4, 2), (6, 3), (13, 6)])
def test_middle_layer_is_half_of_the_layers(count: int, middle: int) -> None:
    assert layer_numbers("middle", count) == [middle]
