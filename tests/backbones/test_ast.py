"""Tests of the AST, which equals timm's vision transformer with overlapping patches and masked padding."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from etude.backbones.ast import AST, first_tokens
from etude.backbones.patches import Drop, LearnedPositions, SinusoidalPositions
from etude.training.optimiser import Optimiser


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomised(net: AST) -> AST:
    """Return the network in evaluation mode, with random changes of all parameters, so that no bias is zero."""
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return net.eval()


def positional_embeddings(net: AST, columns: int) -> Tensor:
    """Return the positional embeddings of all patches (1, columns * rows, D), with the formula of Vaswani et al."""
    angle = np.arange(columns)[:, None] / 10_000 ** (np.arange(0, net.dim, 2) / net.dim)
    time = torch.tensor(0.02 * np.sqrt(2) * np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float()
    return (time[None, :, None] + net.get_parameter("patches.positions.frequency")).flatten(1, 2)


def timm_twin(net: AST, frames: int, bins: int) -> VisionTransformer:
    """Return timm's transformer with the same weights, for clips of `frames` frames."""
    twin = VisionTransformer((frames, bins), embed_dim=192, depth=12, num_heads=3, in_chans=1, num_classes=0)
    twin.patch_embed.proj = net.patches.filters
    twin.patch_embed.img_size = None  # no check: overlapping patches fit any size
    twin.cls_token = net.patches.tokens
    columns = (frames - 16) // 10 + 1
    twin.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, 1, 192), positional_embeddings(net, columns)], dim=1))
    twin.blocks.load_state_dict(net.blocks.state_dict())
    twin.norm = net.norm
    return twin.eval()


@pytest.mark.parametrize(("frames", "bins"), [(16, 16), (76, 128), (111, 40), (57, 12)])
def test_ast_equals_timm_transformer(frames: int, bins: int) -> None:
    net = randomised(AST(bins))
    x = torch.randn(2, frames, bins)
    with torch.no_grad():
        expected = timm_twin(net, frames, bins)(x[:, None])
        torch.testing.assert_close(net(x, torch.full((2,), frames)), expected, atol=1e-5, rtol=1e-5)


def test_masked_batch_equals_separate_clips() -> None:
    net, lengths = randomised(AST(40)), torch.tensor([16, 75, 76, 33])
    x = torch.randn(4, 76, 40)
    with torch.no_grad():
        separate = [timm_twin(net, int(n), 40)(clip[None, None, :n]) for clip, n in zip(x, lengths, strict=True)]
        torch.testing.assert_close(net(x, lengths), torch.cat(separate), atol=1e-5, rtol=1e-5)


def test_patches_that_overlap_padding_are_masked() -> None:
    net, x = randomised(AST(12)), torch.randn(1, 46, 12)
    x[:, 36:] = 0  # patches begin at 0, 10, 20 and 30: the last of a clip of 36 frames ends at 36
    with torch.no_grad():
        full, exact, short = (net(x, torch.tensor([n])) for n in (46, 36, 35))
    torch.testing.assert_close(exact, net(x[:, :36], torch.tensor([36])), atol=1e-5, rtol=1e-5)
    assert (full - exact).abs().max() > 1e-4
    assert (exact - short).abs().max() > 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"weights": "imagenet"},
        {"weights": "somewhere.pth", "model": "deit_tiny_distilled_patch16_224"},
        {"pool": "mean"},
        {"model": "vit_small_patch32_224", "tstride": 7},
        {"model": "vit_medium_patch16_gap_240", "depth": 1},
        {"model": "vit_base_patch16_1024_128.audiomae_as2m_ft_as20k", "depth": 1, "fstride": 16, "tstride": 16},
    ],
    ids=str,
)
@pytest.mark.parametrize("bins", [12, 40])
def test_embedding_does_not_depend_on_other_clips_for_all_transformers(
    settings: dict[str, str | int], bins: int
) -> None:
    net = randomised(AST(bins, **({"depth": 2, "span": 60} | settings)))  # type: ignore[arg-type]
    x, lengths = torch.randn(4, 110, bins), torch.tensor([110, 60, 1, 37])  # the first is longer than the table
    with torch.no_grad():
        batched = net(x, lengths)
        separate = [net(clip[None, :n], n[None]) for clip, n in zip(x, lengths, strict=True)]
    assert batched.shape == (4, net.dim)
    torch.testing.assert_close(batched, torch.cat(separate), atol=2e-5, rtol=1e-5)


def test_distilled_transformer_averages_class_and_distillation_tokens() -> None:
    net = randomised(AST(40, "deit_tiny_distilled_patch16_224", depth=2))
    x, lengths = torch.randn(2, 50, 40), torch.tensor([50, 31])
    with torch.no_grad():
        state = net.begin(x, lengths)
        for block in net.blocks:
            state = state._replace(tokens=block(state.tokens, attn_mask=state.mask))
        expected = net.norm(state.tokens)[:, :2].mean(1)
        torch.testing.assert_close(net(x, lengths), expected, atol=1e-5, rtol=1e-5)


def test_positions_are_interpolated_for_clips_longer_than_the_table() -> None:
    table = LearnedPositions(rows=2, columns=5, dim=3)
    table.table.data = torch.arange(5.0)[None, :, None, None].expand(1, 5, 2, 3)
    positions = table(torch.tensor([9, 5, 2]), 9)[:, :, 1, 2]
    assert positions[0].tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4])
    assert positions[1, :5].tolist() == [0, 1, 2, 3, 4]
    assert positions[2, :2].tolist() == [0, 1]
    assert table(torch.tensor([3, 1]), 3)[0, :, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("model", ["tiny", "deit_tiny_distilled_patch16_224", "vit_little_patch16_reg1_gap_256"])
def test_first_tokens_of_the_last_block_are_exact(model: str, masked: bool) -> None:
    block = randomised(AST(16, model, depth=1)).blocks[0]
    reference, tokens = deepcopy(block), torch.randn(3, 20, int(block.attn.qkv.in_features))
    mask = (torch.arange(20) < torch.tensor([[20], [7], [2]]))[:, None, None] if masked else None
    x, reference_x = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    result, expected = first_tokens(block, x, 2, mask), reference(reference_x, attn_mask=mask)[:, :2]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    noise = torch.randn_like(result)
    (result * noise).sum().backward()
    (expected * noise).sum().backward()
    torch.testing.assert_close(x.grad, reference_x.grad, atol=1e-5, rtol=1e-5)
    for weight, expected_weight in zip(block.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, expected_weight.grad, atol=1e-4, rtol=1e-4)


def test_block_of_unknown_class_is_run_completely() -> None:
    class Other(nn.Module):
        def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
            return tokens + tokens.sum(1, keepdim=True)

    assert first_tokens(Other(), torch.ones(1, 5, 8), 2).tolist() == torch.full((1, 2, 8), 6.0).tolist()


def test_dropping_half_of_the_patches_halves_the_sequence() -> None:
    net = AST(128, drop_time=0.5).train()
    x, lengths = torch.randn(2, 326, 128), torch.tensor([326, 326])  # 32 columns of 12
    assert net.begin(x, lengths).tokens.shape[1] == 1 + 16 * 12
    assert net.eval().begin(x, lengths).tokens.shape[1] == 1 + 32 * 12


@pytest.mark.parametrize(
    ("drop", "kept"), [((0.5, 0, 0), 16 * 12), ((0, 0.25, 0), 32 * 9), ((0, 0, 0.25), 288), ((0.5, 0.5, 0.5), 48)]
)
def test_dropped_share_is_relative_to_the_valid_patches(drop: tuple[float, float, float], kept: int) -> None:
    settings = dict(zip(("drop_time", "drop_frequency", "drop_patches"), drop, strict=True))
    net = AST(128, depth=1, **settings).train()
    state = net.begin(torch.randn(3, 326, 128), torch.tensor([326, 166, 3]))  # 32, 16 and 1 columns
    assert state.mask is not None
    counts = state.mask[:, 0, 0].sum(1) - 1
    assert counts[0] == kept
    assert counts[1] == kept // 2
    assert 1 <= counts[2] <= 12
    assert state.tokens.shape[1] == 1 + kept


def test_complete_columns_and_rows_are_dropped_and_padding_is_never_kept() -> None:
    """Drop patches that contain their column and row, and padding with a negative number that must not be kept."""
    column, row = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    x = torch.stack([column, row], dim=2)[None].repeat(50, 1, 1, 1)
    counts = torch.tensor([8, 3, 1, 5, 8]).repeat(10)
    x[torch.arange(8)[None] >= counts[:, None]] = -1000
    kept, columns = Drop(0.5).train()(x, counts)
    rows_kept, rows = Drop(0.5).train()(kept.transpose(1, 2), torch.full_like(columns, 6))
    assert columns.tolist() == [4, 2, 1, 2, 4] * 10
    assert rows.tolist() == [3] * 50
    for clip, count in zip(rows_kept, columns, strict=True):
        real = clip[:, :count]
        assert (real >= 0).all()
        assert len(real[0, :, 0].unique()) == count  # the expected number of distinct columns ...
        assert (real[:, :, 0] == real[:1, :, 0]).all()  # ... and the same for every row
        assert (real[:, :, 1] == real[:, :1, 1]).all()
    assert len({tuple(clip[0, :4, 0].tolist()) for clip in rows_kept}) > 5  # different columns for different clips


def test_padding_has_no_influence_when_patches_are_dropped() -> None:
    net = AST(40, depth=2, drop_path=0.0, drop_time=0.5, drop_patches=0.3).train()
    x, lengths, embedded = torch.randn(3, 96, 40), torch.tensor([96, 50, 1]), []
    for value in (0.0, 1e4):
        for clip, length in zip(x, lengths, strict=True):
            clip[length:] = value
        torch.manual_seed(3)
        embedded.append(net(x, lengths))
    torch.testing.assert_close(*embedded)


def test_dropped_share_of_one_raises() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        AST(12, drop_time=1.0)


def test_first_layer_contains_all_parameters_before_the_blocks() -> None:
    net = AST(12, "deit_tiny_distilled_patch16_224", "imagenet", depth=2)
    listed = [weight for layer in net.layers() for weight in layer.parameters()]
    assert {id(weight) for weight in listed} == {id(weight) for weight in net.parameters()}
    names = {name for name, _ in net.layers()[0].named_parameters()}
    assert names == {"tokens", "filters.weight", "filters.bias", "positions.table"}


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_tokens_and_positions_have_no_weight_decay(weights: str | None) -> None:
    net = AST(12, weights=weights, depth=1)
    groups = Optimiser(weight_decay=0.1).configure(net, steps=10)["optimizer"].param_groups
    decayed = {id(weight) for group in groups if group["weight_decay"] for weight in group["params"]}
    names = {name for name, weight in net.named_parameters() if id(weight) in decayed}
    matrices = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert names == {"patches.filters.weight", *(f"blocks.0.{name}.weight" for name in matrices)}


def test_random_weights_may_have_learned_positions() -> None:
    classes = {
        (weights, positions): type(AST(32, weights=weights, positions=positions, depth=1).patches.positions)
        for weights, positions in [(None, None), (None, "learned"), (None, "sinusoidal"), ("imagenet", None)]
    }
    assert classes == {
        (None, None): SinusoidalPositions,
        (None, "learned"): LearnedPositions,
        (None, "sinusoidal"): SinusoidalPositions,
        ("imagenet", None): LearnedPositions,
    }
    with pytest.raises(ValueError, match=r"backbone.positions must be learned or sinusoidal, got 'fixed'"):
        AST(32, positions="fixed")
    with pytest.raises(ValueError, match=r"must be learned with backbone.weights=imagenet, got 'sinusoidal'"):
        AST(32, weights="imagenet", positions="sinusoidal")


def test_drop_path_increases_with_depth() -> None:
    chance = [getattr(block.drop_path1, "drop_prob", 0.0) for block in AST(12, drop_path=0.11).blocks]
    assert chance == pytest.approx([0.01 * i for i in range(12)])


@pytest.mark.parametrize(("model", "weights"), [("tiny", 5.4e6), ("small", 21.4e6)])
def test_sizes_equal_deit(model: str, weights: float) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in AST(128, model).parameters()) == pytest.approx(weights, rel=0.02)


@pytest.mark.parametrize("model", ["huge", "resnet18", "hf_hub:timm/vit_tiny_patch16_224", "vit_base_r50_s16_224"])
def test_model_that_is_not_a_vision_transformer_raises(model: str) -> None:
    with pytest.raises(ValueError, match=r"backbone\.model.*" + model):
        AST(128, model=model)


@pytest.mark.parametrize(("model", "pool"), [("tiny", "max"), ("vit_medium_patch16_gap_240", "token")])
def test_unsupported_pool_raises(model: str, pool: str) -> None:
    with pytest.raises(ValueError, match=r"backbone\.pool must be mean, or token if the model has a class token"):
        AST(128, model, pool=pool)
