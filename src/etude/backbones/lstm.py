"""Recurrent backbone that is exact on padded clips and fast on CPU.

PyTorch runs packed sequences through a slow path on CPU: oneDNN's LSTM takes dense input only. A padded batch gives
the same states at every valid frame, because a forward LSTM never looks ahead; so we run it dense and read the states
at the frames that exist. The backward direction is a forward LSTM over each clip reversed within its own length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etude.backbones.base import Backbone, valid


class LSTM(Backbone):
    """Stacked LSTM over frames, read out at each clip's own end.

    Args:
        bins: Feature bins per frame, F.
        hidden: Units per direction, H.
        depth: Number of stacked layers.
        bidirectional: Also read each clip from its last valid frame to its first.
        dropout: Probability of dropping a unit between layers.
        readout: What of the last layer is the embedding: `last`, the states after each clip's own last frame (and, when
            bidirectional, its first), or `mean`, the mean over its frames.

    Attributes:
        dim: Size of the embedding, D = H, or 2 H when bidirectional.
    """

    def __init__(
        self,
        bins: int,
        hidden: int = 64,
        depth: int = 2,
        bidirectional: bool = False,
        dropout: float = 0.1,
        readout: str = "last",
    ) -> None:
        super().__init__()
        if readout not in ("last", "mean"):
            raise ValueError(f"backbone.readout must be last or mean, got {readout!r}")
        self.readout = readout
        directions = 2 if bidirectional else 1
        self.dim = hidden * directions
        self.bidirectional = bidirectional
        self.dropout = nn.Dropout(dropout)
        widths = [bins] + [self.dim] * (depth - 1)
        self.onward = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.backward_ = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths if bidirectional)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Standardised frames (B, T, F), float32. What stands at or after a clip's length has no influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D).
        """
        end = (lengths - 1).view(-1, 1, 1)
        for i, onward in enumerate(self.onward):
            states = onward(x)[0]
            last = take(states, end)
            if self.bidirectional:
                reverse = reversal(lengths, x.shape[1])
                flipped = self.backward_[i](take(x, reverse))[0]
                last = torch.cat([last, take(flipped, end)], dim=-1)
                states = torch.cat([states, take(flipped, reverse)], dim=-1)
            x = self.dropout(states)
        if self.readout == "last":
            return last[:, 0]
        return (states * valid(lengths, x.shape[1])[..., None]).sum(1) / lengths[:, None]

    def layers(self) -> list[nn.Module]:
        """Trainable parts from input to output, for freezing, layer-wise learning rates and inspection."""
        return (
            [nn.ModuleList(pair) for pair in zip(self.onward, self.backward_, strict=True)]
            if self.bidirectional
            else list(self.onward)
        )


def take(x: Tensor, frames: Tensor) -> Tensor:
    """Frames of each clip by index: (B, T, C) and (B, N, 1) int64 -> (B, N, C)."""
    return x.gather(1, frames.expand(-1, -1, x.shape[-1]))


def reversal(lengths: Tensor, frames: int) -> Tensor:
    """Indices (B, T, 1) that reverse each clip within its own length and leave its padding where it is."""
    t = torch.arange(frames, device=lengths.device).expand(len(lengths), -1)
    end = lengths[:, None]
    return torch.where(t < end, end - 1 - t, t)[..., None]
