"""The AST is timm's vision transformer with overlapping patches, and its mask hides what is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from etude.backbones.ast import AST, SIZES


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(net: AST) -> AST:
    """The same network, judging, with biases that are not zero."""
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return net.eval()


def places(net: AST, columns: int) -> Tensor:
    """Frequency code plus time code of every patch, as Vaswani et al. write the latter: (1, columns * rows, D)."""
    angle = np.arange(columns)[:, None] / 10_000 ** (np.arange(0, net.dim, 2) / net.dim)
    time = torch.tensor(0.02 * np.sqrt(2) * np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float()
    return (time[None, :, None] + net.frequency).flatten(1, 2)


def timms(net: AST, frames: int, bins: int) -> VisionTransformer:
    """timm's own transformer with the same weights, for clips of so many frames."""
    width, depth, heads = SIZES["tiny"]
    twin = VisionTransformer((frames, bins), embed_dim=width, depth=depth, num_heads=heads, in_chans=1, num_classes=0)
    twin.patch_embed.proj = net.patches
    twin.patch_embed.img_size = None  # no check: overlapping patches fit any size
    twin.cls_token = net.cls
    columns = (frames - 16) // 10 + 1
    twin.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, 1, width), places(net, columns)], dim=1))
    twin.blocks.load_state_dict(net.blocks.state_dict())
    twin.norm = net.norm
    return twin.eval()


@pytest.mark.parametrize(("frames", "bins"), [(16, 16), (76, 128), (111, 40), (57, 12)])
def test_equals_timms_transformer(frames: int, bins: int) -> None:
    net = shaken(AST(bins))
    x = torch.randn(2, frames, bins)
    with torch.no_grad():
        expected = timms(net, frames, bins)(x[:, None])
        torch.testing.assert_close(net(x, torch.full((2,), frames)), expected, atol=1e-5, rtol=1e-5)


def test_a_masked_batch_is_each_clip_alone() -> None:
    net, lengths = shaken(AST(40)), torch.tensor([16, 75, 76, 33])
    x = torch.randn(4, 76, 40)
    with torch.no_grad():
        alone = [timms(net, int(n), 40)(clip[None, None, :n]) for clip, n in zip(x, lengths, strict=True)]
        torch.testing.assert_close(net(x, lengths), torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_patch_that_reaches_into_padding_is_not_seen() -> None:
    net, x = shaken(AST(12)), torch.randn(1, 46, 12)
    x[:, 36:] = 0  # patches begin at 0, 10, 20 and 30: the last of a clip of 36 frames ends at 36
    with torch.no_grad():
        whole, part, short = (net(x, torch.tensor([n])) for n in (46, 36, 35))
    torch.testing.assert_close(part, net(x[:, :36], torch.tensor([36])), atol=1e-5, rtol=1e-5)
    assert (whole - part).abs().max() > 1e-4
    assert (part - short).abs().max() > 1e-4


def test_blocks_are_skipped_more_often_the_deeper_they_are() -> None:
    chance = [getattr(block.drop_path1, "drop_prob", 0.0) for block in AST(12, drop_path=0.11).blocks]
    assert chance == pytest.approx([0.01 * i for i in range(12)])


@pytest.mark.parametrize(("size", "weights"), [("tiny", 5.4e6), ("small", 21.4e6)])
def test_sizes_are_deits(size: str, weights: float) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in AST(128, size).parameters()) == pytest.approx(weights, rel=0.02)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone\.size must be one of tiny, small, base, got 'huge'"):
        AST(128, size="huge")
