"""Convolutional backbone whose size does not depend on the length of a clip.

Four times convolution, batch norm, pooling, ReLU, then a mean over what is valid. Pooling comes before the ReLU: the
maximum and a rising function can be taken in either order, and this one applies the ReLU to a quarter of the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.base import Backbone, valid


class CNN(Backbone):
    """2-D convolutions over a spectrogram, pooled over time and frequency.

    Args:
        bins: Feature bins per frame, F.
        channels: Filters of each block. Each block halves time and frequency (a frequency axis of one bin is kept).
        kernel: Side of the filters, odd.
        dropout: Probability of dropping a channel of the embedding.

    Attributes:
        dim: Size of the embedding: the filters of the last block.
    """

    def __init__(
        self, bins: int, channels: Sequence[int] = (32, 64, 128, 256), kernel: int = 3, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.dim = channels[-1]
        self.blocks = nn.ModuleList()
        for before, after in zip([1, *channels[:-1]], channels, strict=True):
            self.blocks.append(Block(before, after, kernel, tall=bins > 1))
            bins = max(1, bins // 2)
        self.dropout = nn.Dropout(dropout)
        self.to(memory_format=torch.channels_last)  # 1.4 times faster on CPU

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Standardised frames (B, T, F), float32. What stands at or after a clip's length has no influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D).
        """
        least = 2 ** len(self.blocks)  # room for every halving
        x = F.pad(x, (0, 0, 0, max(0, least - x.shape[1])))
        x = (x * valid(lengths, x.shape[1])[..., None])[:, None].contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x, lengths = block(x, lengths)
        mean = x.mean(3).sum(2) / lengths[:, None]
        return self.dropout(mean)

    def layers(self) -> list[nn.Module]:
        """The blocks, input to output."""
        return list(self.blocks)


class Block(nn.Module):
    """Convolution, batch norm, pooling, ReLU; (B, C, T, F) -> (B, C', T // 2, F // 2), zero after each clip's end."""

    def __init__(self, before: int, after: int, kernel: int, tall: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)  # the norm has a bias
        self.norm = MaskedBatchNorm(after)
        self.pool = nn.MaxPool2d((2, 2 if tall else 1))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool a batch to half its frames; a clip of one frame keeps one."""
        x = F.relu(self.pool(self.norm(self.conv(x), lengths)))
        lengths = (lengths // 2).clamp(min=1)
        return x * valid(lengths, x.shape[2])[:, None, :, None], lengths


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose training statistics leave out padding, so that a batch-mate's length changes nothing.

    Source: Ioffe & Szegedy, 2015, "Batch normalization"; the mean and the variance are taken over valid frames only.
    """

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise (B, C, T, F) by channel."""
        if not self.training or bool((lengths == x.shape[2]).all()):
            return super().forward(x)
        mask = valid(lengths, x.shape[2])[:, None, :, None].to(x.dtype)
        count = mask.sum() * x.shape[3]
        mean = (x * mask).sum((0, 2, 3)) / count
        var = ((x - mean[:, None, None]).square() * mask).sum((0, 2, 3)) / count
        with torch.no_grad():
            rate = self.momentum if self.momentum is not None else 0.1
            self.running_mean += rate * (mean.detach() - self.running_mean)  # type: ignore[operator]
            self.running_var += rate * (var.detach() * count / (count - 1).clamp(min=1) - self.running_var)  # type: ignore[operator]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)
