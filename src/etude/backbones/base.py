"""What every backbone is, and the mask that keeps padding out of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A network from the frames of a clip to its embedding.

    A subclass takes `bins`, the width F of a frame, as its first argument, and promises that what stands at or after a
    clip's length has no influence on its embedding.

    Attributes:
        dim: Size of the embedding, D.
        raw: Whether frames go in as they are, because weights that were trained elsewhere know their scale; else
            they are standardised by the training part.
        hears: Front end, by dotted name, that such weights need; none for networks without.
    """

    dim: int
    raw: bool = False
    hears: str | None = None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Standardised frames (B, T, F), float32, and valid frames (B,), int64 in 1..T, to embeddings (B, D)."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Read weights that were trained elsewhere, if the config names some. Called once, before training only."""

    def layers(self) -> list[nn.Module]:
        """Trainable parts from input to output, for freezing, layer-wise learning rates and inspection."""
        raise NotImplementedError


def valid(lengths: Tensor, frames: int) -> Tensor:
    """Which of `frames` frames belong to each clip: (B,) int64 -> (B, T) bool."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]
