"""Augmentation of training clips with random gain, SpecAugment and mixup."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from etude.audio.frontend_modules import valid


class Mixture(NamedTuple):
    """Partner and mixing coefficient of each clip of a mixup batch.

    The loss is a sum over clips, so the loss of a mixture is the weighted sum of the losses of its two clips. For
    cross-entropy this equals the loss with mixed labels. For a squared error its gradient equals the gradient with a
    mixed target. A missing label of one clip does not affect the term of the other clip.

    Attributes:
        partner: Index in the batch of the clip that was mixed in (B,), int64.
        share: Mixing coefficient of the first clip (B,), in [0.5, 1].
    """

    partner: Tensor
    share: Tensor

    def spread(self, values: dict[str, Tensor], mixed: bool = False) -> dict[str, Tensor]:
        """Repeat the values of a batch for the first clips and their partners.

        Args:
            values: Values by name, (B, ...).
            mixed: Whether the values are computed from mixed frames. They are then repeated without reordering.

        Returns:
            Values by name (2 B, ...), of the first clips and then of their partners.
        """
        return {name: torch.cat([v, v if mixed else v[self.partner]]) for name, v in values.items()}

    @property
    def weight(self) -> Tensor:
        """Weight of each clip in its mixture (2 B,), of the first clips and then of their partners."""
        return torch.cat([self.share, 1 - self.share])


class Augment(nn.Module):
    """Random gain, time and frequency masks, and mixup. An option with value 0 is disabled.

    Masks replace frequency bands and time intervals by the mean of the training split (Park et al., 2019,
    "SpecAugment"). Time masks are placed inside the valid frames of each clip. Mixup combines the frames of two clips
    of the batch (Zhang et al., 2018, "mixup"). Its coefficient is drawn for each clip separately.

    Args:
        gain: Largest change of level in either direction, in dB.
        time_masks: Number of time masks per clip.
        time_width: Largest width of a time mask, as a fraction of the clip's frames.
        frequency_masks: Number of frequency masks per clip.
        frequency_width: Largest width of a frequency mask, as a fraction of the bins.
        mixup: Alpha of the Beta distribution of mixing coefficients. With 0.2 most mixtures are dominated by one clip.
            With 1 all coefficients are equally likely.

    Raises:
        ValueError: An option is less than 0, or a width is more than 1.
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
        for name, value, maximum in (
            ("gain", gain, None), ("time_masks", time_masks, None), ("time_width", time_width, 1),
            ("frequency_masks", frequency_masks, None), ("frequency_width", frequency_width, 1), ("mixup", mixup, None),
        ):  # fmt: skip
            if value < 0 or (maximum is not None and value > maximum):
                limits = "at least 0" if maximum is None else "in [0, 1]"
                raise ValueError(f"augment.{name} must be {limits}, got {value}")
        self.gain, self.mixup = gain, mixup
        self.time_masks, self.time_width = time_masks, time_width
        self.frequency_masks, self.frequency_width = frequency_masks, frequency_width

    def forward(self, x: Tensor, lengths: Tensor, decibel: Tensor) -> tuple[Tensor, Tensor, Mixture | None]:
        """Augment standardised frames.

        Args:
            x: Frames (B, T, F), where 0 is the mean. Padding is 0.
            lengths: Valid frames (B,).
            decibel: Change of each bin per dB of gain (F,).

        Returns:
            Frames (B, T, F), valid frames (B,), and the mixture, or None without mixup.
        """
        if self.gain:
            level = self.gain * (2 * torch.rand(len(x), 1, 1, device=x.device) - 1)
            x = x + level * decibel * valid(lengths, x.shape[1])[..., None]
        mixture = None
        if self.mixup:
            mixture = self._draw_mixture(len(x), x.device)
            share = mixture.share[:, None, None]
            x = share * x + (1 - share) * x[mixture.partner]
            lengths = torch.maximum(lengths, lengths[mixture.partner])
        return x * self._draw_mask(x, lengths), lengths, mixture

    def _draw_mixture(self, count: int, device: torch.device) -> Mixture:
        """Draw partners and mixing coefficients. The first clip of a mixture has the larger coefficient."""
        alpha = torch.full((count,), float(self.mixup), device=device)
        share = torch.distributions.Beta(alpha, alpha).sample()
        return Mixture(torch.randperm(count, device=device), torch.maximum(share, 1 - share))

    def _draw_mask(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return a boolean mask (B, T, F) that is False where frames are replaced by the mean."""
        bins = torch.full_like(lengths, x.shape[2])
        keep = torch.ones_like(x, dtype=torch.bool)
        for _ in range(self.time_masks):
            keep &= ~_draw_intervals(lengths, x.shape[1], self.time_width)[:, :, None]
        for _ in range(self.frequency_masks):
            keep &= ~_draw_intervals(bins, x.shape[2], self.frequency_width)[:, None, :]
        return keep


def _draw_intervals(lengths: Tensor, size: int, share: float) -> Tensor:
    """Draw a random interval in each of B axes.

    Args:
        lengths: Valid length of each axis (B,).
        size: Size of the axes.
        share: Largest width of an interval, as a fraction of the valid length.

    Returns:
        A mask (B, size), bool, that is True inside the interval.
    """
    width = (torch.rand(len(lengths), device=lengths.device) * ((share * lengths).long() + 1)).long()
    start = (torch.rand(len(lengths), device=lengths.device) * (lengths - width + 1)).long()
    return valid(start + width, size) & ~valid(start, size)
