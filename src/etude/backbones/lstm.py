"""Recurrent backbone that is exact on padded clips and fast on CPU.

PyTorch runs packed sequences through a slow path on CPU: oneDNN's LSTM takes dense input only. A padded batch gives
the same states at every valid frame, because a forward LSTM never looks ahead; so we run it dense and read the states
at the frames that exist. The backward direction is a forward LSTM over each clip reversed within its own length. On a
GPU, cuDNN takes packed sequences and leaves padding out of its work, so there they are packed; both give equal states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from etude.backbones.base import Backbone, valid

READOUTS = ("last", "mean", "attention")


class LSTM(Backbone):
    """Stacked LSTM over frames, read out over each clip's own frames.

    Args:
        bins: Feature bins per frame, F.
        hidden: Units per direction, H.
        depth: Number of stacked layers.
        bidirectional: Also read each clip from its last valid frame to its first.
        dropout: Probability of dropping a unit between layers.
        readout: What of the last layer is the embedding: `last`, the states after each clip's own last frame (and, when
            bidirectional, its first); `mean`, the mean over its frames; or `attention`, a mean with learned weights.
        packed: Whether clips go through the LSTM packed, without their padding; none packs on CUDA and nowhere else.

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
        packed: bool | None = None,
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"backbone.readout must be {', '.join(READOUTS[:-1])} or {READOUTS[-1]}, got {readout!r}")
        self.readout, self.packed = readout, packed
        directions = 2 if bidirectional else 1
        self.dim = hidden * directions
        self.bidirectional = bidirectional
        self.dropout = nn.Dropout(dropout)
        widths = [bins] + [self.dim] * (depth - 1)
        self.onward = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.backward_ = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths if bidirectional)
        self.attention = Attention(self.dim) if readout == "attention" else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Standardised frames (B, T, F), float32. What stands at or after a clip's length has no influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D).
        """
        end = (lengths - 1).view(-1, 1, 1)
        packed = lengths.cpu() if (x.is_cuda if self.packed is None else self.packed) else None
        for i, onward in enumerate(self.onward):
            states = run(onward, x, packed)
            last = take(states, end)
            if self.bidirectional:
                reverse = reversal(lengths, x.shape[1])
                flipped = run(self.backward_[i], take(x, reverse), packed)
                last = torch.cat([last, take(flipped, end)], dim=-1)
                states = torch.cat([states, take(flipped, reverse)], dim=-1)
            x = self.dropout(states)
        if self.readout == "last":
            return last[:, 0]
        if self.attention is not None:
            return self.attention(states, lengths)
        return (states * valid(lengths, x.shape[1])[..., None]).sum(1) / lengths[:, None]

    def layers(self) -> list[nn.Module]:
        """Trainable parts from input to output; the read-out, where it learns, belongs to the last."""
        if not self.bidirectional and self.attention is None:
            return list(self.onward)
        sides = [self.onward, self.backward_] if self.bidirectional else [self.onward]
        parts = [list(part) for part in zip(*sides, strict=True)]
        if self.attention is not None:
            parts[-1].append(self.attention)
        return [nn.ModuleList(part) for part in parts]


class Attention(nn.Module):
    """A mean over the frames of a clip whose weights are learned from each frame's own state.

    With one score per frame, vᵀ tanh(W h + b), as in Bahdanau, Cho & Bengio, 2015, "Neural machine translation by
    jointly learning to align and translate"; nothing is asked for here, so the score depends on the state alone.

    Args:
        dim: Size of a state, D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        # no bias at the end: what is added to every score changes no softmax
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """States (B, T, D) and valid frames (B,) to their weighted mean (B, D)."""
        padding = ~valid(lengths, states.shape[1])
        weights = self.score(states)[..., 0].masked_fill(padding, -torch.inf).softmax(1)
        return (weights[..., None] * states).sum(1)


def run(layer: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """States of one LSTM at every valid frame; what stands after a clip's end is not to be read.

    Args:
        layer: An LSTM of one direction.
        x: Its input (B, T, C).
        lengths: Valid frames (B,), on the CPU, to run packed; none runs dense.

    Returns:
        States (B, T, H).
    """
    if lengths is None:
        return layer(x)[0]
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def take(x: Tensor, frames: Tensor) -> Tensor:
    """Frames of each clip by index: (B, T, C) and (B, N, 1) int64 -> (B, N, C)."""
    return x.gather(1, frames.expand(-1, -1, x.shape[-1]))


def reversal(lengths: Tensor, frames: int) -> Tensor:
    """Indices (B, T, 1) that reverse each clip within its own length and leave its padding where it is."""
    t = torch.arange(frames, device=lengths.device).expand(len(lengths), -1)
    end = lengths[:, None]
    return torch.where(t < end, end - 1 - t, t)[..., None]
