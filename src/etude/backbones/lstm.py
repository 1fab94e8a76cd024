"""Recurrent backbone that is exact on padded clips and fast on CPU.

PyTorch runs packed sequences through a slow path on CPU: oneDNN's LSTM takes dense input only. A padded batch gives
the same states at every valid frame, because a forward LSTM never looks ahead; so we run it dense and read the states
at the frames that exist, a few clips of like length at a time, which leaves most of the padding out of its work. The
backward direction is a forward LSTM over each clip reversed within its own length. On a GPU, cuDNN takes packed
sequences and leaves padding out by itself, so there they are packed; both give equal states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from etude.audio.masks import valid
from etude.backbones.base import Backbone, State

READOUTS = ("last", "mean", "attention")
GROUP = 8  # clips: a batch costs a CPU core as much as its parts, down to where the products of a frame get too small


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
        self.readout, self.packed, self.least = readout, packed, 0
        directions = 2 if bidirectional else 1
        self.dim, self.steps = hidden * directions, depth
        self.bidirectional = bidirectional
        self.dropout = nn.Dropout(dropout)
        widths = [bins] + [self.dim] * (depth - 1)
        self.onward = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.backward_ = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths if bidirectional)
        self.attention = Attention(self.dim) if readout == "attention" else None

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,), as they are."""
        return x, lengths

    def step(self, place: int, state: State) -> State:
        """Through one layer: states (B, T, C) of the one before to its own (B, T, D)."""
        (x, lengths), onward = state, self.onward[place]
        if place:
            # none on the way into a layer that is frozen; contiguous, so that the same numbers are drawn however x lies
            x = F.dropout(x.contiguous(), self.dropout.p, onward.training)
        packed = lengths.cpu() if self._packs(x) else None
        states = run(onward, x, packed)
        if self.bidirectional:
            reverse = reversal(lengths, x.shape[1])
            flipped = run(self.backward_[place], take(x, reverse), packed)
            states = torch.cat([states, take(flipped, reverse)], dim=-1)
        return states, lengths

    def end(self, state: State) -> Tensor:
        """Read out, (B, D)."""
        states, lengths = state
        if self.readout == "last":  # of the backward direction that is the state at the first frame
            last, half = take(states, (lengths - 1).view(-1, 1, 1))[:, 0], self.dim // 2
            return torch.cat([last[:, :half], states[:, 0, half:]], dim=1) if self.bidirectional else last
        if self.attention is not None:
            return self.attention(states, lengths)
        return (states * valid(lengths, states.shape[1])[..., None]).sum(1) / lengths[:, None]

    def after(self, place: int, state: State) -> Tensor:
        """What goes into a layer (B, T, C) to the embedding (B, D); on a CPU, clips of like length at a time."""
        x, lengths = state
        if self._packs(x) or x.device.type != "cpu" or torch.compiler.is_compiling() or lengths.min() == lengths.max():
            return super().after(place, state)
        order = lengths.argsort(descending=True)
        groups = zip(x[order].split(GROUP), lengths[order].split(GROUP), strict=True)
        return torch.cat([super(LSTM, self).after(place, (x[:, : int(n[0])], n)) for x, n in groups])[order.argsort()]

    def _packs(self, x: Tensor) -> bool:
        """Return whether clips go through packed."""
        return x.is_cuda if self.packed is None else self.packed

    def for_export(self) -> Self:
        """Return a copy that runs all clips padded, because other devices run the graph."""
        copy = super().for_export()
        copy.packed = False
        return copy

    def reversed_modules(self) -> Sequence[nn.Module]:
        """Return the LSTMs of the backward direction."""
        return list(self.backward_)

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
    t = torch.arange(frames, device=lengths.device).expand(lengths.shape[0], -1)
    end = lengths[:, None]
    return torch.where(t < end, end - 1 - t, t)[..., None]
