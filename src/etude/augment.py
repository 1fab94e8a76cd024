"""Changes to training clips that leave their labels true."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etude.backbones.base import valid


class SpecAugment(nn.Module):
    """Hide bands of frequency and stretches of time behind the mean of the training part.

    Source: Park et al., 2019, "SpecAugment"; the masks lie inside each clip's own length.

    Args:
        time_masks: Stretches hidden in each clip.
        time_width: Longest stretch, as a share of the clip's frames.
        frequency_masks: Bands hidden in each clip.
        frequency_width: Widest band, as a share of the bins.
    """

    def __init__(
        self, time_masks: int = 2, time_width: float = 0.2, frequency_masks: int = 2, frequency_width: float = 0.2
    ) -> None:
        super().__init__()
        self.time_masks, self.time_width = time_masks, time_width
        self.frequency_masks, self.frequency_width = frequency_masks, frequency_width

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Mask standardised frames.

        Args:
            x: Frames (B, T, F), where 0 is the mean.
            lengths: Valid frames (B,).

        Returns:
            Frames (B, T, F) with the masked places 0.
        """
        bins = torch.full_like(lengths, x.shape[2])
        keep = torch.ones_like(x, dtype=torch.bool)
        for _ in range(self.time_masks):
            keep &= ~_stretch(lengths, x.shape[1], self.time_width)[:, :, None]
        for _ in range(self.frequency_masks):
            keep &= ~_stretch(bins, x.shape[2], self.frequency_width)[:, None, :]
        return x * keep


def _stretch(room: Tensor, size: int, share: float) -> Tensor:
    """One random stretch in each of B axes: (B,) places of room -> (B, size) bool, at most `share` of the room long."""
    width = (torch.rand(len(room), device=room.device) * ((share * room).long() + 1)).long()
    start = (torch.rand(len(room), device=room.device) * (room - width + 1)).long()
    return valid(start + width, size) & ~valid(start, size)
