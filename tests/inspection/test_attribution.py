"""Attributions and attention are compared with their definitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.embeddings.readouts import Readout
from etude.inspection import attribution
from etude.training.build import load_learner
from etude.training.learner import Learner

pytest.importorskip("captum")
MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def cnn(make_run: MakeRun) -> Learner:
    run = make_run("backbone=cnn", "backbone.channels=[4,6]", "task=joint")
    return load_learner(run / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module", params=["token", "mean", "distilled"])
def ast(make_run: MakeRun, request: pytest.FixtureRequest) -> Learner:
    kind = {"mean": "backbone.pool=mean", "distilled": "backbone.model=deit_tiny_distilled_patch16_224"}
    overrides = [kind[request.param]] if request.param in kind else []
    run = make_run("backbone=ast", "backbone.depth=2", "backbone.drop_time=0.5", *overrides)
    network = load_learner(run / "checkpoints" / "best.ckpt")
    with torch.no_grad():
        for weight in network.backbone.parameters():
            weight += 0.1 * torch.randn_like(weight)  # attention of initial weights is almost uniform
    return network


def frames(network: Learner, count: int = 50) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(1, count, network.recipe["bins"])


def test_integrated_gradients_of_linear_function_are_weights_times_input() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(7, 5), torch.randn(1, 7, 5)
    result = attribution.integrated_gradients(lambda x: (x * weight).sum((1, 2)) + 2, x)
    torch.testing.assert_close(result.contributions, weight * x[0], atol=1e-5, rtol=1e-5)
    assert result.baseline == pytest.approx(2)
    assert result.error == pytest.approx(0, abs=1e-4)


def test_attributions_of_an_early_layer_use_only_its_feature_maps(make_run: MakeRun) -> None:
    """Compare with the gradients of the network, whose second block has no influence."""
    run = make_run("backbone=cnn", "backbone.channels=[4,6]", "readout.layers=[1]", "readout.pooling=mean_std")
    network = load_learner(run / "checkpoints" / "best.ckpt")
    x = frames(network)
    maps = attribution.last_feature_maps(network, x)
    assert maps is not None and maps[0] == "backbone.blocks.0.relu"
    output = attribution.output_function(network, "genre", 0)
    assert attribution.grad_cam(output, maps[1], x, 2).shape == (25, x.shape[2] // 2)
    result = attribution.integrated_gradients(output, x, steps=200)
    with torch.no_grad():
        _, out = network(x * 9 - 40, torch.tensor([50]))
    assert result.output == pytest.approx(float(out["genre"][0, 0]), abs=1e-4)
    assert abs(result.error) < 0.02 * abs(result.output - result.baseline)


@pytest.mark.parametrize(("name", "index"), [("genre", 0), ("genre", 1), ("valence", 0)])
def test_contributions_sum_to_difference_of_outputs(cnn: Learner, name: str, index: int) -> None:
    x = frames(cnn)
    result = attribution.integrated_gradients(attribution.output_function(cnn, name, index), x, steps=200)
    with torch.no_grad():
        out = [cnn.task(cnn.backbone(value, torch.tensor([50])))[name] for value in (x, torch.zeros_like(x))]
    values = [cnn.task.targets[name].score(value)[0, index] for value in out]
    assert result.output == pytest.approx(float(values[0]), abs=1e-5)
    assert result.baseline == pytest.approx(float(values[1]), abs=1e-5)
    difference, total = result.output - result.baseline, float(result.contributions.sum())
    assert abs(difference) > 1e-3
    assert total == pytest.approx(difference, rel=0.02)
    assert result.error == pytest.approx(total - difference, abs=1e-5)


def test_grad_cam_equals_definition_of_paper(cnn: Learner) -> None:
    x = frames(cnn)
    maps = attribution.last_feature_maps(cnn, x)
    assert maps is not None
    name, layer = maps
    assert name == "backbone.blocks.1.relu"
    output = attribution.output_function(cnn, "genre", 0)
    activations: list[Tensor] = []
    hook = layer.register_forward_hook(lambda *passed: activations.append(passed[-1]))
    value = output(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(value.sum(), activations[0])
    expected = (gradient.mean((2, 3), keepdim=True) * activations[0]).sum(1)[0].relu()
    torch.testing.assert_close(attribution.grad_cam(output, layer, x, 2), expected.detach())
    assert expected.shape == (12, 32)
    torch.testing.assert_close(attribution.grad_cam(output, layer, x, 3), expected.detach().T)


def test_attention_weights_reproduce_output_of_block(ast: Learner) -> None:
    x, lengths = frames(ast, 60), torch.tensor([60])
    with torch.no_grad(), attribution.record_attention(ast.backbone) as blocks:
        z = ast.backbone(x, lengths)
    assert len(blocks) == 2
    for block in blocks:
        weights = attribution.attention_weights(block)
        count = block.x.shape[1]
        assert weights.shape == (1, block.module.num_heads, count, count)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        values = block.module.qkv(block.x).unflatten(-1, (3, block.module.num_heads, -1))[:, :, 2].transpose(1, 2)
        out = block.module.proj((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(out, block.out, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ast.backbone(x, lengths), z, atol=1e-5, rtol=1e-4)  # without hooks


def test_masked_tokens_get_no_attention(ast: Learner) -> None:
    x, lengths = frames(ast, 60).repeat(2, 1, 1), torch.tensor([60, 30])
    with torch.no_grad(), attribution.record_attention(ast.backbone) as blocks:
        ast.backbone(x, lengths)
    assert blocks[0].mask is not None
    weights = attribution.attention_weights(blocks[0])
    masked = ~blocks[0].mask[:, 0, 0]
    assert masked.any()
    assert float(weights.masked_select(masked[:, None, None]).abs().max().detach()) == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_rollout_is_product_of_all_blocks(ast: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    x, lengths = frames(ast, 60), torch.tensor([60])
    with torch.no_grad(), attribution.record_attention(ast.backbone) as blocks:
        ast.backbone(x, lengths)
    product = torch.eye(blocks[0].x.shape[1])
    for block in blocks:
        product = (0.5 * torch.eye(len(product)) + 0.5 * attribution.attention_weights(block)[0].mean(0)) @ product
    backbone: Any = ast.backbone
    n_tokens = backbone.patches.tokens.shape[1]
    row = product[n_tokens:].mean(0) if backbone.mean else product[: backbone.n_read].mean(0)
    monkeypatch.setattr(attribution, "ATTENTION_ROWS", 7)  # several blocks of rows
    result = attribution.attention_rollout(backbone, x, lengths)
    assert result is not None
    torch.testing.assert_close(result.weights.flatten(), row[n_tokens:].detach())
    assert result.token_weight + float(result.weights.sum()) == pytest.approx(1, abs=1e-5)
    assert result.weights.shape == ((60 - 16) // 10 + 1, (128 - 16) // 10 + 1)


def test_rollout_of_readout_is_the_weighted_mean_over_its_layers(ast: Learner) -> None:
    x, lengths, backbone = frames(ast, 60), torch.tensor([60]), ast.backbone
    readout = Readout(backbone, 128, [0, 1, 2], combine="weighted")
    with torch.no_grad(), attribution.record_attention(backbone) as blocks:
        readout(backbone, x, lengths)
        assert readout.weights is not None
        readout.weights.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
    row = torch.ones(blocks[0].x.shape[1])
    row[: backbone.patches.tokens.shape[1]] = 0
    row /= row.sum()
    with torch.no_grad():
        expected = sum(share * attribution.rollout(blocks[:k], row) for k, share in enumerate((0.2, 0.3, 0.5)))
    result = attribution.attention_rollout(backbone, x, lengths, readout)
    assert result is not None
    torch.testing.assert_close(result.weights.flatten(), expected[-result.weights.numel() :])
    assert result.token_weight + float(result.weights.sum()) == pytest.approx(1, abs=1e-5)


def test_attributions_leave_network_unchanged(ast: Learner, cnn: Learner) -> None:
    for network in (ast, cnn):
        x, lengths = frames(network), torch.tensor([50])
        with torch.no_grad():
            before = network.backbone(x, lengths)
        attribution.attention_rollout(network.backbone, x, lengths)
        if (maps := attribution.last_feature_maps(network, x)) is not None:
            attribution.grad_cam(attribution.output_function(network, "genre", 0), maps[1], x, 2)
        with torch.no_grad():
            torch.testing.assert_close(network.backbone(x, lengths), before, rtol=0, atol=0)
        for module in network.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert attribution.last_feature_maps(ast, frames(ast)) is None
    assert attribution.attention_rollout(cnn.backbone, frames(cnn), lengths) is None


def test_bounded_value_is_explained_after_its_bounds(make_run: MakeRun) -> None:
    run = make_run("backbone=lstm", "task=valence", "task.targets.valence.bounded=true")
    network = load_learner(run / "checkpoints" / "best.ckpt")
    x = frames(network)
    output = attribution.output_function(network, "valence", 0)
    assert isinstance(network.backbone, nn.Module)
    predicted = network.task.predict(network.task(network.backbone(x, torch.tensor([50]))))["valence"]
    torch.testing.assert_close(output(x).detach(), predicted)
