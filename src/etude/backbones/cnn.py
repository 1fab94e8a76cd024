"""Convolutional backbone whose size does not depend on the length of a clip.

Four blocks of convolution, batch norm, pooling and ReLU are followed by a mean over the valid frames. Pooling precedes
the ReLU. Both orders give the same result, because a maximum and a monotonic function commute. In this order the ReLU
is applied to only a quarter of the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend_modules import MaskedBatchNorm, valid
from etude.backbones.base import Backbone, State


class CNN(Backbone):
    """2-D convolutions over a spectrogram, pooled over time and frequency.

    Args:
        bins: Feature bins per frame, F.
        channels: Number of filters of each block. Each block halves time and frequency (a frequency axis of one bin is
            kept).
        kernel: Side of the filters, odd. A list has one value for each block.
        dropout: Probability of dropping a channel of the embedding.

    Attributes:
        dim: Size of the embedding D, the number of filters of the last block.

    Raises:
        ValueError: A kernel is not odd, or the list of kernels is not as long as that of channels.
    """

    axis = 2

    def __init__(
        self,
        bins: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        kernel: int | Sequence[int] = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        kernels = [kernel] * len(channels) if isinstance(kernel, int) else list(kernel)
        odd = all(type(side) is int and side > 0 and side % 2 for side in kernels)
        if len(kernels) != len(channels) or not odd:
            raise ValueError(
                f"backbone.kernel must be an odd number or a list of {len(channels)} odd numbers, one for each of "
                f"backbone.channels, got {kernel}"
            )
        self.dim = channels[-1]
        self.blocks = nn.ModuleList()
        for before, after, side in zip([1, *channels[:-1]], channels, kernels, strict=True):
            self.blocks.append(Block(before, after, side, tall=bins > 1))
            bins = max(1, bins // 2)
        self.steps, self.dropout = len(self.blocks), nn.Dropout(dropout)
        self.min_frames = 2 * 2**self.steps
        self.to(memory_format=torch.channels_last)  # 1.4 times faster on CPU

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Return frames (B, T, F) as an image (B, 1, T, F), padded and masked, and its lengths (B,)."""
        shortest = 2 ** len(self.blocks)  # each block halves the number of frames
        x = F.pad(x, (0, 0, 0, max(0, shortest - x.shape[1])))
        x = (x * valid(lengths, x.shape[1])[..., None])[:, None]
        return x.contiguous(memory_format=torch.channels_last), lengths

    def step(self, index: int, state: State) -> State:
        """Run one block."""
        return self.blocks[index](*state)

    def end(self, state: State) -> Tensor:
        """Return the mean over valid frames and all bins, (B, D)."""
        x, lengths = state
        mean = x.mean(3).sum(2) / lengths[:, None]
        return self.dropout(mean)

    def collate(self, values: Sequence[Tensor], lengths: Tensor) -> State:
        """Collate states as in the base class, in channels-last memory format."""
        x, lengths = super().collate(values, lengths)
        return x.contiguous(memory_format=torch.channels_last), lengths

    def layers(self) -> list[nn.Module]:
        """Return the blocks from input to output."""
        return list(self.blocks)


class Block(nn.Module):
    """Convolution, batch norm, pooling and ReLU, from (B, C, T, F) to (B, C', T // 2, F // 2).

    The output is zero after each clip's end.
    """

    def __init__(self, before: int, after: int, kernel: int, tall: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)  # the norm has a bias
        self.norm = MaskedBatchNorm(after)
        self.pool = nn.MaxPool2d((2, 2 if tall else 1))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block, which halves the number of frames but keeps at least one."""
        x = self.relu(self.pool(self.norm(self.conv(x), lengths)))
        lengths = (lengths // 2).clamp(min=1)
        return x * valid(lengths, x.shape[2])[:, None, :, None], lengths
