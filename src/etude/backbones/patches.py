"""Patches of a spectrogram: extraction, patch dropout and positional embeddings."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.masks import valid


class State(NamedTuple):
    """What goes from block to block.

    Attributes:
        tokens: Tokens (B, N, D): first the network's own, then the patches, column by column.
        counts: How many of them are there (B,), int64.
        mask: Which tokens are there, (B, 1, 1, N) bool; none when all are.
    """

    tokens: Tensor
    counts: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, tokens: Tensor, counts: Tensor, traceable: bool = False) -> State:
        """Tokens (B, N, D) of which the first `counts` (B,) are there; a `traceable` state always has a mask."""
        mask = valid(counts, tokens.shape[1])
        return cls(tokens, counts, None if not traceable and bool(mask.all()) else mask[:, None, None])


class Patches(nn.Module):
    """Patches of clips of any length, and the tokens that are read at the end.

    Patches that reach into padding are not there: nothing attends to them. Some of the others may be dropped in
    training, which shortens the sequence (PaSST, Koutini et al., 2022).

    Args:
        filters: From a picture (B, 1, T, F) to patches (B, D, columns, rows).
        places: Codes of the patches' places, from how many columns are a clip's own (B,) and how many there are.
        own: Tokens that the network has beside the patches: class, distillation, registers.
        norm: Applied before the first block.
        drop: Share of columns, of rows and of single patches that are dropped in training.

    Attributes:
        traceable: Whether no operation may depend on the values in a tensor, as in an exported graph.
    """

    def __init__(
        self,
        filters: nn.Conv2d,
        places: nn.Module,
        own: int,
        norm: nn.Module,
        drop: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__()
        self.filters, self.places, self.norm = filters, places, norm
        self.tokens = nn.Parameter(torch.zeros(1, own, filters.out_channels))
        nn.init.trunc_normal_(self.tokens, std=0.02)
        self.drop = nn.ModuleList(Drop(share) for share in drop)
        self.traceable = False

    def forward(self, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,) to tokens."""
        patch, stride = self.filters.kernel_size[0], self.filters.stride[0]
        x = F.pad(x, (0, 0, 0, max(0, patch - x.shape[1])))
        x = x * valid(lengths, x.shape[1])[..., None]
        x = self.filters(x[:, None]).permute(0, 2, 3, 1)  # (B, columns, rows, D)
        columns = (lengths.clamp(min=patch) - patch) // stride + 1  # those without padding
        x = x + self.places(columns, x.shape[1], self.traceable)
        in_time, in_frequency, anywhere = self.drop
        x, columns = in_time(x, columns)
        turned, rows = in_frequency(x.transpose(1, 2), torch.full_like(columns, x.shape[2]))
        x, counts = anywhere(turned.transpose(1, 2).flatten(1, 2), columns * rows)
        tokens = self.norm(torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], dim=1))
        return State.of(tokens, self.tokens.shape[1] + counts, self.traceable)


class Drop(nn.Module):
    """Keeps a random part of what a clip has, in training only; of one that has anything, at least one.

    Args:
        share: How much is dropped, in [0, 1).

    Raises:
        ValueError: `share` is outside.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"a share that is dropped must be in [0, 1), got {share}")
        self.p = share  # the name that whoever switches all dropouts off looks for

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Things (B, N, ...), of which the first `counts` (B,) are there, to fewer and how many are there."""
        if not self.training or self.p == 0:
            return x, counts
        kept = ((1 - self.p) * counts).round().long().clamp(min=1)
        chance = torch.rand(x.shape[:2], device=x.device).masked_fill(~valid(counts, x.shape[1]), 2.0)
        chosen = chance.argsort(dim=1)[:, : int(kept.max())]
        return x[torch.arange(len(x), device=x.device)[:, None], chosen], kept


class SinusoidalPositions(nn.Module):
    """For a network without weights from elsewhere: sinusoids of time and a learned code of frequency.

    The sinusoid goes on without end, so a clip may have any length (Vaswani et al., 2017; frequency apart from time as
    in PaSST, Koutini et al., 2022).

    Args:
        rows: Patches one above the other, in frequency.
        dim: Size of a token, D.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.zeros(1, 1, rows, dim))
        nn.init.trunc_normal_(self.frequency, std=0.02)

    def forward(self, columns: Tensor, count: int, traceable: bool = False) -> Tensor:
        """Codes (1, count, rows, D) of `count` columns of patches; how many are a clip's own does not matter."""
        return self.frequency + sinusoid(count, self.frequency)[:, None]


class LearnedPositions(nn.Module):
    """For a network that begins with weights from elsewhere: the table of their places, which goes on learning.

    A clip reads it from its beginning, one column after the other. A clip that has more columns than the table reads it
    more slowly, between the columns, so that it ends where the table ends: Gong et al. (2021) stretch the table in the
    same way. Each clip's place follows from its own length alone.

    Args:
        rows: Patches one above the other, in frequency.
        columns: Patches one after the other, in time.
        dim: Size of a token, D.
    """

    def __init__(self, rows: int, columns: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, columns, rows, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, columns: Tensor, count: int, traceable: bool = False) -> Tensor:
        """Codes of `count` columns of clips that have `columns` (B,) of their own: (1 or B, count, rows, D).

        With `traceable` the same operations serve every `count`.
        """
        last = self.table.shape[1] - 1
        if not traceable and count <= last + 1:
            return self.table[:, :count]
        slower = (last / (columns - 1).clamp(min=1)).clamp(max=1)
        place = (torch.arange(count, device=columns.device) * slower[:, None]).clamp(max=last)  # (B, count)
        before = place.floor().long()
        share = (place - before)[..., None, None].to(self.table.dtype)
        return torch.lerp(self.table[0][before], self.table[0][(before + 1).clamp(max=last)], share)


def sinusoid(count: int, like: Tensor) -> Tensor:
    """Fixed sines and cosines of position, (count, D), of small amplitude (Vaswani et al., 2017)."""
    dim = like.shape[-1]
    position = torch.arange(count, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, device=like.device) * (-math.log(10_000.0) / dim))
    return 0.02 * math.sqrt(2) * torch.cat([(position * rate).sin(), (position * rate).cos()], dim=1).to(like.dtype)
