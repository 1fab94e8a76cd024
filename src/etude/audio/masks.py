"""Masks of valid frames in a padded batch, and batch normalisation without the padding."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def valid(lengths: Tensor, frames: int) -> Tensor:
    """Return the mask of valid frames: lengths (B,) int64 and a number of frames T to (B, T) bool."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


class MaskedBatchNorm(nn.Module):
    """Batch norm with training statistics over the valid frames of all devices.

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
