"""Audio Spectrogram Transformer: overlapping patches of a spectrogram as the words of a vision transformer.

Gong, Chung & Glass, 2021, "AST: Audio Spectrogram Transformer". The blocks are timm's. Two things differ, so that a
clip may have any length: the place of a patch in time is a fixed sinusoid instead of a learned table (its place in
frequency is learned, as in PaSST, Koutini et al., 2022), and patches that reach into padding are masked out of the
attention.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.base import Backbone, valid

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}  # width, blocks, heads: DeiT's


class AST(Backbone):
    """Transformer over spectrogram patches, read out at its class token.

    Args:
        bins: Feature bins per frame, F.
        size: `tiny` (5 M weights), `small` (22 M) or `base` (86 M).
        patch: Side of a patch, in frames and bins; fewer bins than this make lower patches.
        fstride: Bins from one patch to the next.
        tstride: Frames from one patch to the next.
        dropout: Probability of dropping a unit of the attention's output and of the MLP.
        drop_path: Probability of skipping a block, rising linearly to this at the last.

    Attributes:
        dim: Size of the embedding, D.

    Raises:
        ValueError: `size` is not one of the three.
    """

    def __init__(
        self,
        bins: int,
        size: str = "tiny",
        patch: int = 16,
        fstride: int = 10,
        tstride: int = 10,
        dropout: float = 0.0,
        drop_path: float = 0.1,
    ) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        if size not in SIZES:
            raise ValueError(f"backbone.size must be one of {', '.join(SIZES)}, got {size!r}")
        self.dim, depth, heads = SIZES[size]
        self.patch, self.tstride = patch, tstride
        height = min(patch, bins)
        self.patches = nn.Conv2d(1, self.dim, (patch, height), stride=(tstride, fstride))
        self.rows = (bins - height) // fstride + 1
        self.cls = nn.Parameter(torch.zeros(1, 1, self.dim))
        self.frequency = nn.Parameter(torch.zeros(1, 1, self.rows, self.dim))
        self.blocks = nn.ModuleList(
            Block(self.dim, heads, qkv_bias=True, proj_drop=dropout, drop_path=drop_path * i / (depth - 1))
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        for weight in (self.cls, self.frequency):
            nn.init.trunc_normal_(weight, std=0.02)
        self.apply(_init)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Standardised frames (B, T, F), float32. What stands at or after a clip's length has no influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D): the class token after the last block.
        """
        x = F.pad(x, (0, 0, 0, max(0, self.patch - x.shape[1])))
        x = x * valid(lengths, x.shape[1])[..., None]
        x = self.patches(x[:, None]).permute(0, 2, 3, 1)  # (B, time, frequency, D)
        columns = (lengths.clamp(min=self.patch) - self.patch) // self.tstride + 1  # patches without padding
        x = x + self.frequency + sinusoid(x.shape[1], self.dim, x)[:, None]
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
        mask = valid(1 + columns * self.rows, tokens.shape[1])[:, None, None]  # (B, 1, 1, tokens)
        whole = bool(mask.all())
        for block in self.blocks:
            tokens = block(tokens, attn_mask=None if whole else mask)
        return self.norm(tokens[:, 0])

    def layers(self) -> list[nn.Module]:
        """Patch embedding, blocks, final norm."""
        return [self.patches, *self.blocks, self.norm]


def sinusoid(count: int, dim: int, like: Tensor) -> Tensor:
    """Fixed sines and cosines of position, (count, dim), of small amplitude (Vaswani et al., 2017)."""
    position = torch.arange(count, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, device=like.device) * (-math.log(10_000.0) / dim))
    return 0.02 * math.sqrt(2) * torch.cat([(position * rate).sin(), (position * rate).cos()], dim=1).to(like.dtype)


def _init(module: nn.Module) -> None:
    """Truncated normal weights and zero biases, as in ViT."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
