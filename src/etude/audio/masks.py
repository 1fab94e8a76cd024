"""Masks of valid frames in a padded batch, and batch normalisation that excludes padding."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def valid(lengths: Tensor, frames: int) -> Tensor:
    """Return the mask of valid frames (B, T) bool, from lengths (B,) int64 and the number of frames T."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


class MaskedBatchNorm(nn.Module):
    """Batch norm with training statistics over the valid frames of all devices.

    Training is therefore independent of the lengths of other clips in the batch and of the number of devices that share
    a batch. Source: Ioffe & Szegedy, 2015, "Batch normalization", with mean and variance over the valid frames of the
    complete batch.

    Args:
        channels: Number of channels, C.
        momentum: Weight of the newest batch in the running statistics.
        eps: Constant added to the variance.
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
        # so that state dicts of torch's BatchNorm can be loaded
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Normalise each channel of (B, C, T, F) with `lengths` (B,) valid frames."""
        if self.training:
            self.num_batches_tracked.add_(1)
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if (
            not self.training  # first, because an exported graph cannot branch on the values in a tensor
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
