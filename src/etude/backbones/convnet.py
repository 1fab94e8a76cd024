"""Small convolutional network of ConvNetJS's MNIST demo (Karpathy, 2014), small enough to inspect on one screen.

The layers are a convolution with 8 filters of 5 x 5, ReLU, 2 x 2 max-pooling, a convolution with 16 filters of 5 x 5,
ReLU and 3 x 3 max-pooling. The flattened output, 16 x 4 x 4, is the embedding. The digits of the demo are 24 x 24,
which the first pooling reduces to 12 x 12 and the second to 4 x 4. Here the last pooling divides its input into 4 x 4
cells. This is identical for 24 x 24 inputs, and the embedding has the same size for clips of any length and frames of
any width.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone, State

SIDE = 4  # cells of the last pooling, in time and in frequency


class ConvNet(Backbone):
    """Two convolutions and two max-poolings, with 5,994 weights including a linear head for 10 classes.

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
        # modules without parameters, so that hooks can record their outputs
        self.first_relu, self.second_relu = nn.ReLU(), nn.ReLU()
        self.first_pool = nn.MaxPool2d((2, 2 if bins > 1 else 1))  # a single bin cannot be halved
        self.second_pool = AdaptiveMaxPool()
        self.dim = 16 * SIDE * SIDE

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Return frames (B, T, F) as an image (B, 1, T, F) and its lengths (B,)."""
        return F.pad(x, (0, 0, 0, max(0, 2 - x.shape[1])))[:, None], lengths  # the first pooling needs two frames

    def step(self, index: int, state: State) -> State:
        """Run one convolution, and after the first one also the first pooling."""
        x, lengths = state
        # zeros after a clip's end equal the convolution's own padding and never exceed an output of ReLU
        x = mask_padding(x, lengths)
        if index == 1:
            return self.second_relu(self.second(x)), lengths
        x = mask_padding(self.first_relu(self.first(x)), lengths)
        return self.first_pool(x), (lengths // 2).clamp(min=1)

    def end(self, state: State) -> Tensor:
        """Apply the last pooling and return the embedding (B, D)."""
        return self.second_pool(*state).flatten(1)

    def for_export(self) -> Self:
        """Return a copy whose last pooling uses only operations that ONNX supports."""
        copy = super().for_export()
        copy.second_pool = SlicedMaxPool()
        return copy

    def layers(self) -> list[nn.Module]:
        """Return the two convolutions."""
        return [self.first, self.second]


def mask_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Set values of (B, C, T, F) after each clip's length (B,) to zero."""
    return x * valid(lengths, x.shape[2])[:, None, :, None]


class AdaptiveMaxPool(nn.Module):
    """Adaptive max-pooling of each clip's valid frames.

    Of n frames, cell i contains the frames from floor(i n / 4) up to ceil((i + 1) n / 4), as in torch's adaptive
    pooling. The four cells are equal where 4 divides n, and overlap otherwise.
    """

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Pool non-negative values (B, C, T, F) with `lengths` (B,) valid frames to (B, C, 4, 4)."""
        x = self.pool_bins(x)
        t, n = torch.arange(x.shape[2], device=x.device), lengths[:, None]
        inside = [(t >= i * n // SIDE) & (t < -(-(i + 1) * n // SIDE)) for i in range(SIDE)]  # (B, T) each
        return torch.stack([(x * cell[:, None, :, None]).amax(2) for cell in inside], 2)

    def pool_bins(self, x: Tensor) -> Tensor:
        """Pool only the bins, from (B, C, T, F) to (B, C, T, 4)."""
        return F.adaptive_max_pool2d(x, (x.shape[2], SIDE))


class SlicedMaxPool(AdaptiveMaxPool):
    """Pooling as in the base class, but without torch's adaptive pooling, which ONNX does not have.

    The gradient differs from the base class only where values are equal.
    """

    def pool_bins(self, x: Tensor) -> Tensor:
        """Pool only the bins, from (B, C, T, F) to (B, C, T, 4)."""
        width = x.shape[3]
        return torch.stack([x[..., i * width // SIDE : -(-(i + 1) * width // SIDE)].amax(3) for i in range(SIDE)], 3)
