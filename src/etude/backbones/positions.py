"""The place of a patch, as a vector that is added to it: made, or read from a table that came with weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etude.backbones.base import exporting


class Waves(nn.Module):
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

    def forward(self, columns: Tensor, count: int) -> Tensor:
        """Codes (1, count, rows, D) of `count` columns of patches; how many are a clip's own does not matter."""
        return self.frequency + sinusoid(count, self.frequency)[:, None]


class Table(nn.Module):
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

    def forward(self, columns: Tensor, count: int) -> Tensor:
        """Codes of `count` columns of clips that have `columns` (B,) of their own: (1 or B, count, rows, D)."""
        last = self.table.shape[1] - 1
        if not exporting() and count <= last + 1:
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
