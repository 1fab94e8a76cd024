"""Extraction of spectrogram patches, patch dropout and positional embeddings."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend_modules import valid


class TokenState(NamedTuple):
    """Tokens with their counts and mask, passed from block to block.

    Attributes:
        tokens: Tokens (B, N, D): first the prefix tokens, then the patches, column by column.
        counts: Number of valid tokens (B,), int64.
        mask: Mask of valid tokens, (B, 1, 1, N) bool; None when all are valid.
    """

    tokens: Tensor
    counts: Tensor
    mask: Tensor | None

    @classmethod
    def from_counts(cls, tokens: Tensor, counts: Tensor, traceable: bool = False) -> TokenState:
        """Return the state of tokens (B, N, D), of which the first `counts` (B,) are valid.

        A `traceable` state always has a mask.
        """
        mask = valid(counts, tokens.shape[1])
        return cls(tokens, counts, None if not traceable and bool(mask.all()) else mask[:, None, None])


class Patches(nn.Module):
    """Patch embedding of clips of any length, with positional embeddings and prefix tokens.

    Patches that overlap padding are masked. Some of the others may be dropped in training, which shortens the sequence
    (PaSST, Koutini et al., 2022).

    Args:
        filters: Convolution that computes patches (B, D, columns, rows) from an image (B, 1, T, F).
        positions: Positional embeddings, computed from the valid columns of each clip (B,) and the number of columns.
        n_prefix: Number of prefix tokens (class, distillation, registers).
        norm: Norm before the first block.
        drop: Share of columns, of rows and of single patches that are dropped in training.

    Attributes:
        traceable: Whether operations must not depend on the values in a tensor, as in an exported graph.
    """

    def __init__(
        self,
        filters: nn.Conv2d,
        positions: nn.Module,
        n_prefix: int,
        norm: nn.Module,
        drop: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__()
        self.filters, self.positions, self.norm = filters, positions, norm
        self.tokens = nn.Parameter(torch.zeros(1, n_prefix, filters.out_channels))
        nn.init.trunc_normal_(self.tokens, std=0.02)
        self.drop = nn.ModuleList(Drop(share) for share in drop)
        self.traceable = False

    def forward(self, x: Tensor, lengths: Tensor) -> TokenState:
        """Compute tokens from frames (B, T, F) and lengths (B,)."""
        patch, stride = self.filters.kernel_size[0], self.filters.stride[0]
        x = F.pad(x, (0, 0, 0, max(0, patch - x.shape[1])))
        x = x * valid(lengths, x.shape[1])[..., None]
        x = self.filters(x[:, None]).permute(0, 2, 3, 1)  # (B, columns, rows, D)
        columns = (lengths.clamp(min=patch) - patch) // stride + 1  # columns without padding
        x = x + self.positions(columns, x.shape[1], self.traceable)
        in_time, in_frequency, anywhere = self.drop
        x, columns = in_time(x, columns)
        by_rows, rows = in_frequency(x.transpose(1, 2), torch.full_like(columns, x.shape[2]))
        x, counts = anywhere(by_rows.transpose(1, 2).flatten(1, 2), columns * rows)
        tokens = self.norm(torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], dim=1))
        return TokenState.from_counts(tokens, self.tokens.shape[1] + counts, self.traceable)


class Drop(nn.Module):
    """Random removal of elements of each clip, in training only.

    At least one valid element of each clip is kept.

    Args:
        share: Share of elements that are dropped, in [0, 1).

    Raises:
        ValueError: `share` is outside this range.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"the share of dropped patches must be in [0, 1), got {share}")
        self.p = share  # the same name as in nn.Dropout, so that code that disables all dropout layers finds it

    def count_kept(self, counts: Tensor) -> Tensor:
        """Return how many of `counts` elements are kept in training."""
        return ((1 - self.p) * counts).round().long().clamp(min=1)

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Drop elements of (B, N, ...), of which the first `counts` (B,) are valid.

        Returns:
            The remaining elements (B, N', ...), and the number of valid ones (B,).
        """
        if not self.training or self.p == 0:
            return x, counts
        kept = self.count_kept(counts)
        chance = torch.rand(x.shape[:2], device=x.device).masked_fill(~valid(counts, x.shape[1]), 2.0)
        chosen = chance.argsort(dim=1)[:, : int(kept.max())]
        return x[torch.arange(len(x), device=x.device)[:, None], chosen], kept


class SinusoidalPositions(nn.Module):
    """Positional embeddings without pretrained weights, sinusoidal in time and learned in frequency.

    The sinusoids are defined for every position, so a clip may have any length (Vaswani et al., 2017). Time and
    frequency are separate, as in PaSST (Koutini et al., 2022).

    Args:
        rows: Number of patches in frequency.
        dim: Size of a token, D.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.zeros(1, 1, rows, dim))
        nn.init.trunc_normal_(self.frequency, std=0.02)

    def forward(self, columns: Tensor, count: int, traceable: bool = False) -> Tensor:
        """Return the embeddings (1, count, rows, D) of `count` columns of patches, independent of `columns`."""
        return self.frequency + sinusoid(count, self.frequency)[:, None]


class LearnedPositions(nn.Module):
    """Learned positional embeddings, loaded from pretrained weights and fine-tuned.

    A clip uses the first columns of the table. If a clip has more columns than the table, the table is interpolated to
    the clip's length, as in Gong et al. (2021). The positions of a clip depend only on its own length.

    Args:
        rows: Number of patches in frequency.
        columns: Number of patches in time.
        dim: Size of a token, D.
    """

    def __init__(self, rows: int, columns: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, columns, rows, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, columns: Tensor, count: int, traceable: bool = False) -> Tensor:
        """Return the embeddings (1 or B, count, rows, D) of `count` columns, of which `columns` (B,) are valid.

        With `traceable` the same operations are used for every `count`.
        """
        last = self.table.shape[1] - 1
        if not traceable and count <= last + 1:
            return self.table[:, :count]
        step = (last / (columns - 1).clamp(min=1)).clamp(max=1)
        position = (torch.arange(count, device=columns.device) * step[:, None]).clamp(max=last)  # (B, count)
        before = position.floor().long()
        share = (position - before)[..., None, None].to(self.table.dtype)
        return torch.lerp(self.table[0][before], self.table[0][(before + 1).clamp(max=last)], share)


def sinusoid(count: int, like: Tensor) -> Tensor:
    """Return sines and cosines of position (count, D) of small amplitude (Vaswani et al., 2017)."""
    dim = like.shape[-1]
    position = torch.arange(count, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, device=like.device) * (-math.log(10_000.0) / dim))
    return 0.02 * math.sqrt(2) * torch.cat([(position * rate).sin(), (position * rate).cos()], dim=1).to(like.dtype)
