"""Heads, the networks that compute the outputs of one target from an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etude.audio.masks import MaskedBatchNorm


class Linear(nn.Module):
    """Linear head.

    Args:
        dim: Size of the embedding, D.
        size: Number of outputs, K.
        dropout: Probability of dropping a unit of the embedding.
        norm: Whether batch norm standardises each unit of the embedding over clips. Units of a frozen backbone differ
            in scale, and weights of small units would be learned slowly (He et al., 2022, "Masked autoencoders are
            scalable vision learners", on linear probing).
    """

    def __init__(self, dim: int, size: int, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.norm = Norm(dim) if norm else None
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, size))

    def forward(self, z: Tensor) -> Tensor:
        """Compute outputs (B, K) from an embedding (B, D)."""
        return self.layers(z if self.norm is None else self.norm(z))


class Norm(MaskedBatchNorm):
    """Batch norm of embeddings over the clips of all devices."""

    def forward(self, z: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise each of the D features over the batch (B, D)."""
        return super().forward(z[:, :, None, None], z.new_ones(z.shape[0], dtype=torch.int64))[:, :, 0, 0]


class MLP(nn.Module):
    """Head with one hidden layer and GELU, on the layer-normalised embedding.

    Args:
        dim: Size of the embedding, D.
        size: Number of outputs, K.
        hidden: Number of units in the hidden layer.
        dropout: Probability of dropping a hidden unit.
    """

    def __init__(self, dim: int, size: int, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, size)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Compute outputs (B, K) from an embedding (B, D)."""
        return self.layers(z)
