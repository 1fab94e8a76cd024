"""Heads: one embedding to the outputs of one target."""

from __future__ import annotations

from torch import Tensor, nn


class Linear(nn.Module):
    """One affine map.

    Args:
        dim: Size of the embedding, D.
        size: Outputs, K.
        dropout: Probability of dropping a unit of the embedding.
    """

    def __init__(self, dim: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, size))

    def forward(self, z: Tensor) -> Tensor:
        """Embedding (B, D) to outputs (B, K)."""
        return self.layers(z)


class MLP(nn.Module):
    """One hidden layer with GELU, on the normalised embedding.

    Args:
        dim: Size of the embedding, D.
        size: Outputs, K.
        hidden: Units of the hidden layer.
        dropout: Probability of dropping a hidden unit.
    """

    def __init__(self, dim: int, size: int, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, size)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Embedding (B, D) to outputs (B, K)."""
        return self.layers(z)
