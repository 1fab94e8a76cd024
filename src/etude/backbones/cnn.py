"""Convolutional backbone whose size does not depend on the length of a clip.

Four times convolution, batch norm, pooling, ReLU, then a mean over what is valid. Pooling comes before the ReLU: the
maximum and a rising function can be taken in either order, and this one applies the ReLU to a quarter of the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from etude.backbones.base import Backbone, State, valid


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

    axis = 2

    def __init__(
        self, bins: int, channels: Sequence[int] = (32, 64, 128, 256), kernel: int = 3, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.dim = channels[-1]
        self.blocks = nn.ModuleList()
        for before, after in zip([1, *channels[:-1]], channels, strict=True):
            self.blocks.append(Block(before, after, kernel, tall=bins > 1))
            bins = max(1, bins // 2)
        self.steps, self.dropout = len(self.blocks), nn.Dropout(dropout)
        self.least = 2 * 2**self.steps
        self.to(memory_format=torch.channels_last)  # 1.4 times faster on CPU

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,) to a picture (B, 1, T, F) and its lengths."""
        least = 2 ** len(self.blocks)  # room for every halving
        x = F.pad(x, (0, 0, 0, max(0, least - x.shape[1])))
        x = (x * valid(lengths, x.shape[1])[..., None])[:, None]
        return x.contiguous(memory_format=torch.channels_last), lengths

    def step(self, place: int, state: State) -> State:
        """Through one block."""
        return self.blocks[place](*state)

    def end(self, state: State) -> Tensor:
        """The mean over what is valid, (B, D)."""
        x, lengths = state
        mean = x.mean(3).sum(2) / lengths[:, None]
        return self.dropout(mean)

    def together(self, values: Sequence[Tensor], lengths: Tensor) -> State:
        """As of every backbone, with channels last."""
        x, lengths = super().together(values, lengths)
        return x.contiguous(memory_format=torch.channels_last), lengths

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
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool a batch to half its frames; a clip of one frame keeps one."""
        x = self.relu(self.pool(self.norm(self.conv(x), lengths)))
        lengths = (lengths // 2).clamp(min=1)
        return x * valid(lengths, x.shape[2])[:, None, :, None], lengths


class MaskedBatchNorm(nn.Module):
    """Batch norm whose training statistics leave out padding and take in every device.

    So neither the length of a batch-mate nor the number of devices that share a batch changes what is learned. Source:
    Ioffe & Szegedy, 2015, "Batch normalization"; mean and variance are over the valid frames of the whole batch.

    Args:
        channels: Channels, C.
        momentum: Share of the newest batch in the running statistics.
        eps: Added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))  # so that torch's weights load

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Normalise (B, C, T, F) by channel."""
        if self.training:
            self.num_batches_tracked.add_(1)
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if (
            not self.training  # asked first: what is in a tensor, an exported graph cannot ask
            or (not shared and x.numel() > x.shape[1] and bool((lengths == x.shape[2]).all()))
        ):
            running = (self.running_mean, self.running_var)
            return F.batch_norm(x, *running, self.weight, self.bias, self.training, self.momentum, self.eps)
        mask = valid(lengths, x.shape[2])[:, None, :, None].float()
        total = all_reduce if shared else torch.clone
        count = total(mask.sum() * x.shape[3])
        mean = total((x * mask).sum((0, 2, 3))) / count
        var = total(((x - mean[:, None, None]).square() * mask).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]).to(x.dtype)
