"""The small convolutional network of ConvNetJS's MNIST demo (Karpathy, 2014), whose inside fits on a screen.

Convolution with 8 filters of 5 x 5, ReLU, 2 x 2 max-pooling; convolution with 16 filters of 5 x 5, ReLU, 3 x 3
max-pooling; all that is left, 16 x 4 x 4, is the embedding. The demo's digits are 24 x 24, of which 3 x 3 pooling
leaves 4 x 4. Here the last pooling divides whatever it gets into 4 x 4 parts: the same thing on 24 x 24, and an
embedding of the same size for clips of any length and frames of any width.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.masks import valid
from etude.backbones.base import Backbone, State

SIDE = 4  # parts of the last pooling, in time and in frequency


class ConvNet(Backbone):
    """Two convolutions and two max-poolings; with a linear head for 10 classes, 5,994 weights.

    Args:
        bins: Feature bins per frame, or columns of an image, F.

    Attributes:
        dim: Size of the embedding, D = 256.
    """

    steps, axis = 2, 2

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 5, padding=2)
        self.second = nn.Conv2d(8, 16, 5, padding=2)
        # modules, although they learn nothing: what passes through them can be looked at
        self.first_relu, self.second_relu = nn.ReLU(), nn.ReLU()
        self.first_pool = nn.MaxPool2d((2, 2 if bins > 1 else 1))  # a single bin cannot be halved
        self.second_pool = AdaptiveMaxPool()
        self.dim = 16 * SIDE * SIDE

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,) to a picture (B, 1, T, F) and its lengths."""
        return F.pad(x, (0, 0, 0, max(0, 2 - x.shape[1])))[:, None], lengths  # room for the first pooling

    def step(self, place: int, state: State) -> State:
        """Through one convolution, and after the first through the first pooling."""
        x, lengths = state
        # what is zero after a clip's end is what a convolution would pad it with, and never above what ReLU gives
        x = within(x, lengths)
        if place == 1:
            return self.second_relu(self.second(x)), lengths
        x = within(self.first_relu(self.first(x)), lengths)
        return self.first_pool(x), (lengths // 2).clamp(min=1)

    def end(self, state: State) -> Tensor:
        """The last pooling, (B, D)."""
        return self.second_pool(*state).flatten(1)

    def for_export(self) -> Self:
        """Return a copy with a last pooling of operations that ONNX has."""
        copy = super().for_export()
        copy.second_pool = SlicedMaxPool()
        return copy

    def layers(self) -> list[nn.Module]:
        """The two convolutions."""
        return [self.first, self.second]


def within(x: Tensor, lengths: Tensor) -> Tensor:
    """Zero after each clip's end: (B, C, T, F) and (B,) -> (B, C, T, F)."""
    return x * valid(lengths, x.shape[2])[:, None, :, None]


class AdaptiveMaxPool(nn.Module):
    """Adaptive max-pooling of each clip's own frames.

    Part i of n frames is frames floor(i n / 4) up to ceil((i + 1) n / 4), as in torch's adaptive pooling: four equal
    parts where 4 divides n, which overlap where it does not.
    """

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Largest of values of at least 0 (B, C, T, F), whose first (B,) frames are valid: (B, C, 4, 4)."""
        x = self.pool_bins(x)
        t, n = torch.arange(x.shape[2], device=x.device), lengths[:, None]
        inside = [(t >= i * n // SIDE) & (t < -(-(i + 1) * n // SIDE)) for i in range(SIDE)]  # (B, T) each
        return torch.stack([(x * part[:, None, :, None]).amax(2) for part in inside], 2)

    def pool_bins(self, x: Tensor) -> Tensor:
        """Pool the bins alone: (B, C, T, F) to (B, C, T, 4)."""
        return F.adaptive_max_pool2d(x, (x.shape[2], SIDE))


class SlicedMaxPool(AdaptiveMaxPool):
    """The same pooling without adaptive pooling, which ONNX does not have; its gradient differs for equal values."""

    def pool_bins(self, x: Tensor) -> Tensor:
        """Pool the bins alone: (B, C, T, F) to (B, C, T, 4)."""
        width = x.shape[3]
        return torch.stack([x[..., i * width // SIDE : -(-(i + 1) * width // SIDE)].amax(3) for i in range(SIDE)], 3)
