"""Contract of backbones, the mask of padded frames, and masked batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

State = tuple[Any, ...]  # what goes from step to step: values (B, ...), lengths (B,), and what follows from these


class Backbone(nn.Module):
    """A network from the frames of a clip to its embedding.

    A subclass takes `bins`, the width F of a frame, as its first argument, and promises that what stands at or after a
    clip's length has no influence on its embedding.

    It defines `begin`, `step` and `end`, with a step for each of its layers; `begin` may run the first layer. So it can
    be cut before any step: what leaves layers that never learn is computed once. What a step does at random, it does
    only when its layer is in training. A network that cannot be told apart like this defines `forward` instead.

    Attributes:
        dim: Size of the embedding, D.
        steps: How many steps there are.
        axis: The axis of a state's values that is a clip's time.
        raw: Whether frames go in as they are, because weights that were trained elsewhere know their scale; else
            they are standardised by the training part.
        hears: Front end, by dotted name, that such weights need; none for networks without.
        ragged: Whether clips of different lengths can share an exported graph; else those of a batch have one length.
        least: Frames that an exported graph needs, whose shapes have to hold for every length: it adds so many of
            padding, which is invisible; where clips have one length, theirs has to be at least this.
    """

    dim: int
    steps: int = 0
    axis: int = 1
    raw: bool = False
    hears: str | None = None
    ragged: bool = True
    least: int = 32

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Frames (B, T, F), float32, standardised unless `raw`. What stands at or after a clip's length has no
                influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D).
        """
        return self.after(0, self.begin(x, lengths))

    @property
    def whole(self) -> bool:
        """Whether it cannot be cut, because it has a `forward` of its own."""
        return type(self).forward is not Backbone.forward

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,) to what goes into the first step."""
        raise NotImplementedError

    def step(self, place: int, state: State) -> State:
        """Through one layer; places count from 0."""
        raise NotImplementedError

    def end(self, state: State) -> Tensor:
        """What comes out of the last step to the embedding (B, D)."""
        raise NotImplementedError

    def before(self, place: int, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,) to what goes into a step."""
        state = self.begin(x, lengths)
        for step in range(place):
            state = self.step(step, state)
        return state

    def after(self, place: int, state: State) -> Tensor:
        """What goes into a step to the embedding (B, D)."""
        for step in range(place, self.steps):
            state = self.step(step, state)
        return self.end(state)

    def together(self, values: Sequence[Tensor], lengths: Tensor) -> State:
        """One state of clips that went through the first steps alone.

        Args:
            values: Of each clip (1, ...).
            lengths: How much of its time is there, (B,).
        """
        frames = [clip.shape[self.axis] for clip in values]
        room = (0, 0) * (values[0].ndim - 1 - self.axis)
        padded = [F.pad(clip, (*room, 0, max(frames) - n)) for clip, n in zip(values, frames, strict=True)]
        return torch.cat(padded), lengths

    def initialise(self) -> None:
        """Read weights that were trained elsewhere, if the config names some. Called once, before training only."""

    def layers(self) -> list[nn.Module]:
        """Trainable parts from input to output, for freezing, layer-wise learning rates and inspection."""
        raise NotImplementedError


def exporting() -> bool:
    """Whether a graph is being made, which cannot ask what is in a tensor and has to serve batches of every shape."""
    return bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())  # torch 2.6 has the latter only


def valid(lengths: Tensor, frames: int) -> Tensor:
    """Which of `frames` frames belong to each clip: (B,) int64 -> (B, T) bool."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


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
