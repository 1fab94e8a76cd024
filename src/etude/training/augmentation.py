"""Augmentation of training clips: SpecAugment and mixup."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from etude.audio.masks import valid


class Mixture(NamedTuple):
    """Which clip was mixed into each, and how much of the first is left.

    A loss is linear in its clips, so a mixture is learned as both of its clips, each with its share. For cross-entropy
    that is the loss of mixed labels, for a squared error the gradient of a mixed value; and a clip without a label
    leaves the other's true.

    Attributes:
        partner: Place in the batch of the clip that was mixed in (B,), int64.
        share: Share of the first clip (B,), in [0.5, 1].
    """

    partner: Tensor
    share: Tensor

    def spread(self, values: dict[str, Tensor], mixed: bool = False) -> dict[str, Tensor]:
        """Values of a batch by name, (B, ...), twice: for the first clips and, if not `mixed` already, the partners."""
        return {name: torch.cat([v, v if mixed else v[self.partner]]) for name, v in values.items()}

    @property
    def weight(self) -> Tensor:
        """Share of each clip in its mixture, first clips and then partners (2 B,)."""
        return torch.cat([self.share, 1 - self.share])


class Augment(nn.Module):
    """Random level, hidden bands and stretches, mixtures; what is 0 is left out.

    Bands of frequency and stretches of time are hidden behind the mean of the training part (Park et al., 2019,
    "SpecAugment"), inside each clip's own length. Mixtures are of the frames of two clips of the batch (Zhang et al.,
    2018, "mixup"), each clip with a share of its own.

    Args:
        gain: Largest change of level, up or down, in dB.
        time_masks: Stretches hidden in each clip.
        time_width: Longest stretch, as a share of the clip's frames.
        frequency_masks: Bands hidden in each clip.
        frequency_width: Widest band, as a share of the bins.
        mixup: Alpha of the Beta distribution that shares are drawn from: 0.2 mixes few clips evenly, 1 any share alike.

    Raises:
        ValueError: A setting is less than 0, or a width more than 1.
    """

    def __init__(
        self,
        gain: float = 0.0,
        time_masks: int = 2,
        time_width: float = 0.2,
        frequency_masks: int = 2,
        frequency_width: float = 0.2,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, most in (
            ("gain", gain, None), ("time_masks", time_masks, None), ("time_width", time_width, 1),
            ("frequency_masks", frequency_masks, None), ("frequency_width", frequency_width, 1), ("mixup", mixup, None),
        ):  # fmt: skip
            if value < 0 or (most is not None and value > most):
                raise ValueError(f"augment.{name} must be {'at least 0' if most is None else 'in [0, 1]'}, got {value}")
        self.gain, self.mixup = gain, mixup
        self.time_masks, self.time_width = time_masks, time_width
        self.frequency_masks, self.frequency_width = frequency_masks, frequency_width

    def forward(self, x: Tensor, lengths: Tensor, decibel: Tensor) -> tuple[Tensor, Tensor, Mixture | None]:
        """Change standardised frames.

        Args:
            x: Frames (B, T, F), where 0 is the mean; padding is 0.
            lengths: Valid frames (B,).
            decibel: What one dB more adds to each bin (F,).

        Returns:
            Frames (B, T, F), valid frames (B,), and how clips were mixed, if they were.
        """
        if self.gain:
            level = self.gain * (2 * torch.rand(len(x), 1, 1, device=x.device) - 1)
            x = x + level * decibel * valid(lengths, x.shape[1])[..., None]
        mixture = None
        if self.mixup:
            mixture = self._draw(len(x), x.device)
            share = mixture.share[:, None, None]
            x = share * x + (1 - share) * x[mixture.partner]
            lengths = torch.maximum(lengths, lengths[mixture.partner])
        return x * self._kept(x, lengths), lengths, mixture

    def _draw(self, count: int, device: torch.device) -> Mixture:
        """Partners and shares; of the two shares of a mixture the first clip has the larger."""
        alpha = torch.full((count,), float(self.mixup), device=device)
        share = torch.distributions.Beta(alpha, alpha).sample()
        return Mixture(torch.randperm(count, device=device), torch.maximum(share, 1 - share))

    def _kept(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Which places of frames (B, T, F) are not hidden, bool."""
        bins = torch.full_like(lengths, x.shape[2])
        keep = torch.ones_like(x, dtype=torch.bool)
        for _ in range(self.time_masks):
            keep &= ~_stretch(lengths, x.shape[1], self.time_width)[:, :, None]
        for _ in range(self.frequency_masks):
            keep &= ~_stretch(bins, x.shape[2], self.frequency_width)[:, None, :]
        return keep


def _stretch(room: Tensor, size: int, share: float) -> Tensor:
    """One random stretch in each of B axes: (B,) places of room -> (B, size) bool, at most `share` of the room long."""
    width = (torch.rand(len(room), device=room.device) * ((share * room).long() + 1)).long()
    start = (torch.rand(len(room), device=room.device) * (room - width + 1)).long()
    return valid(start + width, size) & ~valid(start, size)
