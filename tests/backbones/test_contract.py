"""What every backbone promises: each file in conf/backbone is held to it from the day it is there."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.backbones.base import Backbone
from etude.config.compose import conf_dir
from etude.config.instantiate import make
from etude.embeddings.cache import forward_from_split, forward_to_split
from etude.training.transfer import layer_indices, parameter_layer_index

NAMES = sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml"))
LENGTHS = torch.tensor([61, 1, 100, 34])


@pytest.fixture(scope="module", params=[(name, bins) for name in NAMES for bins in (12, 128, 140)], ids=str)
def case(config: Callable[..., dict[str, Any]], request: pytest.FixtureRequest) -> tuple[Backbone, Tensor]:
    """A network that is judging, away from its tidy first weights, and a batch (B, T, F) for it."""
    name, bins = request.param
    torch.manual_seed(0)
    net = make(config(f"backbone={name}")["backbone"], bins)
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
    """The batch with other padding, and more of it."""
    x = nn.functional.pad(x, (0, 0, 0, more))
    for clip, length in zip(x, LENGTHS, strict=True):
        clip[length:] = value
    return x


def test_an_embedding_is_b_by_dim(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    z = embed(net, x)
    assert z.shape == (len(x), net.dim)
    assert z.dtype == torch.float32
    assert z.isfinite().all()


@pytest.mark.parametrize(("value", "more"), [(-1e3, 0), (0.0, 1), (1e3, 27)])
def test_padding_is_invisible(case: tuple[Backbone, Tensor], value: float, more: int) -> None:
    net, x = case
    torch.testing.assert_close(embed(net, padded(x, value, more)), embed(net, padded(x, 0.0, 0)), atol=2e-5, rtol=1e-5)


def test_a_clip_changes_its_own_embedding_and_no_other(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    before = embed(net, x)
    for clip, length in enumerate(LENGTHS.tolist()):
        other = x.clone()
        other[clip, max(0, length - 32) : length] += 3
        moved = (embed(net, other) - before).abs().amax(1)
        assert moved[clip] > 1e-4
        assert moved[torch.arange(len(x)) != clip].max() < 2e-5


def test_a_clip_is_embedded_as_if_it_were_alone(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    alone = [embed(net, clip[None, :length], length[None]) for clip, length in zip(x, LENGTHS, strict=True)]
    torch.testing.assert_close(embed(net, x), torch.cat(alone), atol=2e-5, rtol=1e-5)


def test_the_order_of_a_batch_means_nothing(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(embed(net, x[order], LENGTHS[order]), embed(net, x)[order], atol=2e-5, rtol=1e-5)


def test_a_clip_of_one_frame_has_an_embedding_of_its_own(case: tuple[Backbone, Tensor]) -> None:
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


def test_layers_are_the_blocks_in_the_order_in_which_they_run(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    layers, ran = net.layers(), []
    own = set(net.modules())
    for place, layer in enumerate(layers):
        parts = [part for part in layer.modules() if part in own and next(part.parameters(), None) is not None]
        assert parts, f"layer {place} is no part of the network"
        for part in parts:
            part._probe = part.register_forward_hook(lambda *_, place=place: ran.append(place))
    embed(net, x)
    for layer in layers:
        for part in layer.modules():
            if hasattr(part, "_probe"):
                part._probe.remove()
    assert ran == sorted(ran)
    assert set(ran) == set(range(len(layers)))
    listed = [id(weight) for layer in layers for weight in layer.parameters()]
    assert len(listed) == len(set(listed))
    loose = {id(weight) for weight in net._parameters.values()}  # a token or a table of places is no module
    assert {id(weight) for weight in net.parameters()} - loose == set(listed)


def cuts(net: Backbone) -> dict[int, int]:
    """How many layers lie before each place where a network can be cut, with all of them as the last."""
    layers = layer_indices(net)[-1] + 1
    return {layers: net.steps} if net.whole else {layers - net.steps + place: place for place in range(net.steps + 1)}


def rest(net: Backbone, place: int, x: Tensor) -> Tensor:
    """The embeddings of clips that came to a cut alone, each without its padding."""
    alone = [forward_to_split(net, place, clip[None, :length]) for clip, length in zip(x, LENGTHS, strict=True)]
    return forward_from_split(net, place, [values for values, _ in alone], torch.tensor([n for _, n in alone]))


def test_there_is_a_step_for_every_layer_but_perhaps_the_first(case: tuple[Backbone, Tensor]) -> None:
    net = case[0]
    assert net.whole or layer_indices(net)[-1] + 1 - net.steps in (0, 1)


def test_a_cut_changes_nothing(case: tuple[Backbone, Tensor]) -> None:
    net, x = case
    for place in cuts(net).values():
        with torch.no_grad():
            torch.testing.assert_close(rest(net, place, x), embed(net, x), atol=2e-5, rtol=1e-5)


def test_a_cut_after_what_is_frozen_changes_nothing_in_training(case: tuple[Backbone, Tensor]) -> None:
    net, x = deepcopy(case[0]), case[1]
    deep = parameter_layer_index(net)
    for frozen, place in list(cuts(net).items())[1::4]:
        net.train()
        for depth, layer in zip(layer_indices(net), net.layers(), strict=True):
            layer.train(depth >= frozen)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(deep[name] >= frozen)
        found = []
        for embedding in (net, lambda x, _, place=place: rest(net, place, x)):
            torch.manual_seed(2)  # what is random after the cut draws the same numbers: nothing before it draws any
            net.zero_grad()
            z = embedding(x, LENGTHS)
            if z.requires_grad:
                z.square().mean().backward()
            gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
            found.append((z.detach(), gradients))
        assert set(gradients) == {name for name, depth in deep.items() if depth >= frozen}
        torch.testing.assert_close(*(z for z, _ in found), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(*(gradients for _, gradients in found), atol=1e-4, rtol=1e-3)
