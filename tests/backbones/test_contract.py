"""Tests of the interface that every backbone in conf/backbone must satisfy."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from tests.backbone_names import WITHOUT_CHECKPOINT
from torch import Tensor, nn

from etude.backbones.base import Backbone, layer_indices, parameter_layer_index
from etude.backbones.cnn import CNN
from etude.backbones.efficientat import EfficientAT
from etude.backbones.timm_backbone import Timm
from etude.config.instantiate import make
from etude.embeddings.cache import forward_from_split, forward_to_split
from etude.embeddings.readouts import hidden_widths

CASES = [(name, bins) for name in WITHOUT_CHECKPOINT for bins in (12, 128, 140)] + [("hf", 1)]
SMALLER = {"ast": ["backbone.depth=4"]}  # all blocks are equal
LENGTHS = torch.tensor([61, 1, 100, 34])


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(
    config: Callable[..., dict[str, Any]], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Backbone, Tensor]:
    """Return a network in evaluation mode with randomly changed weights, and a batch (B, T, F)."""
    name, bins = request.param
    smaller = SMALLER.get(name, [])
    if name == "hf":
        from tests.backbones.checkpoints import save_checkpoint  # imports transformers

        folder = tmp_path_factory.mktemp("checkpoint")
        save_checkpoint(folder, "short", do_normalize=False)  # a normalised clip of one sample would be 0
        smaller = [f"backbone.model={folder}", "backbone.weights=null"]
    torch.manual_seed(0)
    net = make(config(f"backbone={name}", *smaller)["backbone"], bins)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value += 0.05 * torch.randn_like(value)
    return net.eval(), torch.randn(len(LENGTHS), int(LENGTHS.max()), bins)


def embed(net: Backbone, x: Tensor, lengths: Tensor = LENGTHS) -> Tensor:
    with torch.no_grad():
        return net(x, lengths)


def padded(x: Tensor, value: float, more: int) -> Tensor:
    """Return the batch with other padding values and `more` additional padding frames."""
    x = nn.functional.pad(x, (0, 0, 0, more))
    for clip, length in zip(x, LENGTHS, strict=True):
        clip[length:] = value
    return x


def test_embedding_has_shape_b_by_dim(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    z = embed(net, x)
    assert z.shape == (len(x), net.dim)
    assert z.dtype == torch.float32
    assert z.isfinite().all()


def valid_states(net: Backbone, x: Tensor, lengths: Tensor = LENGTHS) -> list[list[Tensor]]:
    """Return the valid hidden states (T_l, D_l) of each layer and clip, or skip a network that does not define them."""
    if not net.splittable and type(net).hidden_states is Backbone.hidden_states:
        pytest.skip("only the embedding is defined")
    with torch.no_grad():
        states = net.hidden_states(x, lengths)
    for values, counts in states:
        assert values.ndim == 3 and values.shape[0] == counts.shape[0] == len(x)
        assert counts.dtype == torch.int64 and counts.min() >= 1 and counts.max() <= values.shape[1]
    return [[clip[:count] for clip, count in zip(*state, strict=True)] for state in states]


def test_every_layer_has_a_hidden_state(case: tuple[Backbone, Tensor]) -> None:
    """State 0 is the input embedding, which can be the first layer."""
    net, x = case
    widths, layers = [clips[0].shape[1] for clips in valid_states(net, x)], layer_indices(net)[-1] + 1
    assert len(widths) == net.steps + 1 if net.splittable else len(widths) in (layers, layers + 1)
    assert hidden_widths(net, x.shape[2]) == widths


@pytest.mark.parametrize(("value", "more"), [(1e3, 27)])
def test_padding_and_other_clips_do_not_change_hidden_states(
    case: tuple[Backbone, Tensor], value: float, more: int
) -> None:
    net, x = case
    together = valid_states(net, padded(x, value, more))
    for clip, length in enumerate(LENGTHS.tolist()):
        separate = valid_states(net, x[clip : clip + 1, :length], LENGTHS[clip : clip + 1])
        for of_batch, of_clip in zip(together, separate, strict=True):
            torch.testing.assert_close(of_batch[clip], of_clip[0], atol=5e-5, rtol=1e-4)


def test_one_pass_computes_the_embedding_and_the_hidden_states_of_a_clip(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    if not net.splittable:
        pytest.skip("the network is run twice")
    with torch.no_grad():
        for clip, length in enumerate(LENGTHS.tolist()):
            frames, lengths = x[clip : clip + 1, :length], LENGTHS[clip : clip + 1]
            z, states = net.forward_with_states(frames, lengths)
            assert torch.equal(z, net(frames, lengths))
            for (values, counts), (expected, n) in zip(states, net.hidden_states(frames, lengths), strict=True):
                assert torch.equal(values, expected) and torch.equal(counts, n)


def test_mean_of_last_hidden_state_is_the_embedding(case: tuple[Backbone, Tensor]) -> None:
    """Compare the networks whose embedding is defined as the mean over time and frequency."""
    net, x = case
    if not (isinstance(net, CNN | EfficientAT | Timm) or getattr(net, "readout", None) == "mean"):
        pytest.skip("the embedding has another definition")
    means = torch.stack([clip.mean(0) for clip in valid_states(net, x)[-1]])
    torch.testing.assert_close(means, embed(net, x), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("value", "more"), [(-1e3, 0), (0.0, 1), (1e3, 27)])
def test_padding_does_not_change_embedding(case: tuple[Backbone, Tensor], value: float, more: int) -> None:
    net, x = case
    torch.testing.assert_close(embed(net, padded(x, value, more)), embed(net, padded(x, 0.0, 0)), atol=2e-5, rtol=1e-5)


def test_clip_changes_only_its_own_embedding(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    before = embed(net, x)
    for clip, length in enumerate(LENGTHS.tolist()):
        other = x.clone()
        other[clip, max(0, length - 32) : length] += 3
        moved = (embed(net, other) - before).abs().amax(1)
        assert moved[clip] > 1e-4
        assert moved[torch.arange(len(x)) != clip].max() < 2e-5


def test_embedding_does_not_depend_on_other_clips(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    separate = [embed(net, clip[None, :length], length[None]) for clip, length in zip(x, LENGTHS, strict=True)]
    torch.testing.assert_close(embed(net, x), torch.cat(separate), atol=2e-5, rtol=1e-5)


def test_embeddings_do_not_depend_on_the_order_of_a_batch(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(embed(net, x[order], LENGTHS[order]), embed(net, x)[order], atol=2e-5, rtol=1e-5)


def test_clips_of_one_frame_have_distinct_embeddings(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    z = embed(net, x[:, :1], torch.ones(len(x), dtype=torch.int64))
    assert z.isfinite().all()
    assert torch.pdist(z).min() > 1e-4


def test_every_parameter_has_a_gradient(case: tuple[Backbone, Tensor]) -> None:
    net, x = deepcopy(case[0]), case[1]
    torch.manual_seed(1)
    z = net(x, LENGTHS)
    (z * torch.randn_like(z)).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_layers_are_listed_in_execution_order(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    layers, executed = net.layers(), []
    modules_of_net = set(net.modules())
    for index, layer in enumerate(layers):
        modules = [m for m in layer.modules() if m in modules_of_net and next(m.parameters(), None) is not None]
        assert modules, f"layer {index} is not a module of the network"
        for module in modules:
            module._probe = module.register_forward_hook(lambda *_, index=index: executed.append(index))
    embed(net, x)
    for layer in layers:
        for module in layer.modules():
            if hasattr(module, "_probe"):
                module._probe.remove()
    assert executed == sorted(executed)
    assert set(executed) == set(range(len(layers)))
    listed = [id(weight) for layer in layers for weight in layer.parameters()]
    assert len(listed) == len(set(listed))
    # tokens and positional embeddings are not modules
    own_parameters = {id(weight) for weight in net._parameters.values()}
    assert {id(weight) for weight in net.parameters()} - own_parameters == set(listed)


def split_indices(net: Backbone) -> dict[int, int]:
    """Return the step index of each split by the number of layers before it, up to the split after all layers."""
    layers = layer_indices(net)[-1] + 1
    if not net.splittable:
        return {layers: net.steps}
    return {layers - net.steps + index: index for index in range(net.steps + 1)}


def after_split(net: Backbone, index: int, x: Tensor) -> Tensor:
    """Return embeddings of clips that are processed separately, without padding, up to a split."""
    separate = [forward_to_split(net, index, clip[None, :length]) for clip, length in zip(x, LENGTHS, strict=True)]
    return forward_from_split(net, index, [values for values, _ in separate], torch.tensor([n for _, n in separate]))


def test_every_layer_except_possibly_the_first_has_a_step(case: tuple[Backbone, Tensor]) -> None:
    net = case[0]
    assert not net.splittable or layer_indices(net)[-1] + 1 - net.steps in (0, 1)


def test_split_does_not_change_embedding(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    for index in split_indices(net).values():
        with torch.no_grad():
            torch.testing.assert_close(after_split(net, index, x), embed(net, x), atol=2e-5, rtol=1e-5)


def test_split_after_frozen_layers_does_not_change_training(case: tuple[Backbone, Tensor]) -> None:
    net, x = deepcopy(case[0]), case[1]
    layer_index = parameter_layer_index(net)
    for frozen, index in list(split_indices(net).items())[1::4]:
        net.train()
        for depth, layer in zip(layer_indices(net), net.layers(), strict=True):
            layer.train(depth >= frozen)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(layer_index[name] >= frozen)
        results = []
        for embedding in (net, lambda x, _, index=index: after_split(net, index, x)):
            torch.manual_seed(2)  # equal random numbers after the split, because nothing before it is random
            net.zero_grad()
            z = embedding(x, LENGTHS)
            if z.requires_grad:
                z.square().mean().backward()
            gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
            results.append((z.detach(), gradients))
        assert set(gradients) == {name for name, depth in layer_index.items() if depth >= frozen}
        torch.testing.assert_close(*(z for z, _ in results), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(*(gradients for _, gradients in results), atol=1e-4, rtol=1e-3)
