"""Attributions and attention against what they are by definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.inspection import attribution
from etude.training.build import load_learner
from etude.training.learner import Learner

pytest.importorskip("captum")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def cnn(make_run: Make) -> Learner:
    run = make_run("backbone=cnn", "backbone.channels=[4,6]", "task=joint")
    network = load_learner(run / "checkpoints" / "best.ckpt")
    return network


@pytest.fixture(scope="module", params=["token", "mean", "distilled"])
def ast(make_run: Make, request: pytest.FixtureRequest) -> Learner:
    kind = {"mean": "backbone.pool=mean", "distilled": "backbone.model=deit_tiny_distilled_patch16_224"}
    words = [kind[request.param]] if request.param in kind else []
    run = make_run("backbone=ast", "backbone.depth=2", "backbone.drop_time=0.5", *words)
    network = load_learner(run / "checkpoints" / "best.ckpt")
    with torch.no_grad():
        for weight in network.backbone.parameters():
            weight += 0.1 * torch.randn_like(weight)  # far from even attention
    return network


def frames(network: Learner, count: int = 50) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(1, count, network.recipe["bins"])


def test_integrated_gradients_of_a_linear_network_are_its_weights_times_the_input() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(7, 5), torch.randn(1, 7, 5)
    found = attribution.integrated_gradients(lambda x: (x * weight).sum((1, 2)) + 2, x)
    torch.testing.assert_close(found.grid, weight * x[0], atol=1e-5, rtol=1e-5)
    assert found.baseline == pytest.approx(2)
    assert found.error == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("name", "index"), [("genre", 0), ("genre", 1), ("valence", 0)])
def test_parts_add_up_to_the_difference_of_the_outputs(cnn: Learner, name: str, index: int) -> None:
    x = frames(cnn)
    found = attribution.integrated_gradients(attribution.score(cnn, name, index), x, steps=200)
    with torch.no_grad():
        out = [cnn.task(cnn.backbone(one, torch.tensor([50])))[name] for one in (x, torch.zeros_like(x))]
    values = [cnn.task.targets[name].score(one)[0, index] for one in out]
    assert found.output == pytest.approx(float(values[0]), abs=1e-5)
    assert found.baseline == pytest.approx(float(values[1]), abs=1e-5)
    assert abs(found.output - found.baseline) > 1e-3
    assert float(found.grid.sum()) == pytest.approx(found.output - found.baseline, rel=0.02)
    assert found.error == pytest.approx(float(found.grid.sum()) - (found.output - found.baseline), abs=1e-5)


def test_grad_cam_is_what_its_paper_says(cnn: Learner) -> None:
    x = frames(cnn)
    found = attribution.last_maps(cnn, x)
    assert found is not None and found[0] == "backbone.blocks.1.relu"
    scored = attribution.score(cnn, "genre", 0)
    kept: list[Tensor] = []
    hook = found[1].register_forward_hook(lambda *passed: kept.append(passed[-1]))
    value = scored(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(value.sum(), kept[0])
    direct = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1)[0].relu()
    torch.testing.assert_close(attribution.grad_cam(scored, found[1], x, 2), direct.detach())
    assert direct.shape == (12, 32)
    torch.testing.assert_close(attribution.grad_cam(scored, found[1], x, 3), direct.detach().T)


def test_attention_is_that_of_the_block(ast: Learner) -> None:
    x, lengths = frames(ast, 60), torch.tensor([60])
    with torch.no_grad(), attribution.recorded_attention(ast.backbone) as blocks:
        whole = ast.backbone(x, lengths)
    assert len(blocks) == 2
    for block in blocks:
        weights = attribution.attention_weights(block)
        count = block.x.shape[1]
        assert weights.shape == (1, block.module.num_heads, count, count)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        values = block.module.qkv(block.x).unflatten(-1, (3, block.module.num_heads, -1))[:, :, 2].transpose(1, 2)
        out = block.module.proj((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(out, block.out, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ast.backbone(x, lengths), whole, atol=1e-5, rtol=1e-4)  # by the short way, without hooks


def test_what_is_hidden_gets_no_attention(ast: Learner) -> None:
    x, lengths = frames(ast, 60).repeat(2, 1, 1), torch.tensor([60, 30])
    with torch.no_grad(), attribution.recorded_attention(ast.backbone) as blocks:
        ast.backbone(x, lengths)
    assert blocks[0].mask is not None
    weights = attribution.attention_weights(blocks[0])
    hidden = ~blocks[0].mask[:, 0, 0]
    assert hidden.any()
    assert float(weights.masked_select(hidden[:, None, None]).abs().max().detach()) == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_rollout_is_the_product_of_all_blocks(ast: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    x, lengths = frames(ast, 60), torch.tensor([60])
    with torch.no_grad(), attribution.recorded_attention(ast.backbone) as blocks:
        ast.backbone(x, lengths)
    product = torch.eye(blocks[0].x.shape[1])
    for block in blocks:
        product = (0.5 * torch.eye(len(product)) + 0.5 * attribution.attention_weights(block)[0].mean(0)) @ product
    backbone: Any = ast.backbone
    own = backbone.patches.tokens.shape[1]
    row = product[own:].mean(0) if backbone.mean else product[: backbone.n_read].mean(0)
    monkeypatch.setattr(attribution, "ROWS", 7)  # in pieces as well
    flow = attribution.attention_rollout(backbone, x, lengths)
    assert flow is not None
    torch.testing.assert_close(flow.grid.flatten(), row[own:].detach())
    assert flow.own + float(flow.grid.sum()) == pytest.approx(1, abs=1e-5)
    assert flow.grid.shape == ((60 - 16) // 10 + 1, (128 - 16) // 10 + 1)


def test_looking_leaves_nothing_behind(ast: Learner, cnn: Learner) -> None:
    for network in (ast, cnn):
        x, lengths = frames(network), torch.tensor([50])
        with torch.no_grad():
            before = network.backbone(x, lengths)
        attribution.attention_rollout(network.backbone, x, lengths)
        if (maps := attribution.last_maps(network, x)) is not None:
            attribution.grad_cam(attribution.score(network, "genre", 0), maps[1], x, 2)
        with torch.no_grad():
            torch.testing.assert_close(network.backbone(x, lengths), before, rtol=0, atol=0)
        for module in network.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert attribution.last_maps(ast, frames(ast)) is None
    assert attribution.attention_rollout(cnn.backbone, frames(cnn), lengths) is None


def test_a_bounded_value_is_explained_where_it_is(make_run: Make) -> None:
    run = make_run("backbone=lstm", "task=valence", "task.targets.valence.bounded=true")
    network = load_learner(run / "checkpoints" / "best.ckpt")
    x = frames(network)
    scored = attribution.score(network, "valence", 0)
    assert isinstance(network.backbone, nn.Module)
    said = network.task.predict(network.task(network.backbone(x, torch.tensor([50]))))["valence"]
    torch.testing.assert_close(scored(x).detach(), said)
