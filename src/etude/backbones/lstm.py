"""Recurrent backbone that is exact on padded clips and fast on CPU.

PyTorch runs packed sequences through a slow path on CPU, because oneDNN's LSTM accepts only dense input. A padded batch
gives the same states at every valid frame, because a forward LSTM is causal. On CPU the layers therefore run on dense
batches, and the states are gathered at valid frames. Clips of similar length are grouped, which avoids most computation
on padding. The backward direction is a forward LSTM over each clip reversed within its own length. On a GPU, cuDNN
accepts packed sequences and skips padding, so clips are packed there. Both paths give equal states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone, State

READOUTS = ("last", "mean", "attention")
GROUP = 8  # clips; in smaller groups the matrix products of a frame are too small to be efficient on a CPU core


class LSTM(Backbone):
    """Stacked LSTM over frames, with a read-out over each clip's valid frames.

    Args:
        bins: Feature bins per frame, F.
        hidden: Units per direction, H.
        depth: Number of stacked layers.
        bidirectional: Whether each clip is also processed from its last valid frame to its first.
        dropout: Probability of dropping a unit between layers.
        readout: Read-out of the last layer: `last`, the states after each clip's last frame (and, when bidirectional,
            its first); `mean`, the mean over its frames; or `attention`, a mean with learned weights.
        packed: Whether clips are packed, which skips their padding; None packs only on CUDA.

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
        self.readout, self.packed, self.min_frames = readout, packed, 0
        directions = 2 if bidirectional else 1
        self.dim, self.steps = hidden * directions, depth
        self.bidirectional = bidirectional
        self.dropout = nn.Dropout(dropout)
        widths = [bins] + [self.dim] * (depth - 1)
        self.forward_layers = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.backward_layers = nn.ModuleList(
            nn.LSTM(width, hidden, batch_first=True) for width in widths if bidirectional
        )
        self.attention = Attention(self.dim) if readout == "attention" else None

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Return frames (B, T, F) and lengths (B,) unchanged."""
        return x, lengths

    def step(self, index: int, state: State) -> State:
        """Compute the states (B, T, D) of one layer from the states (B, T, C) of the previous layer."""
        (x, lengths), layer = state, self.forward_layers[index]
        if index:
            # no dropout before a frozen layer; contiguous, so that the random mask does not depend on the memory layout
            x = F.dropout(x.contiguous(), self.dropout.p, layer.training)
        packed = lengths.cpu() if self._packs(x) else None
        states = run_lstm(layer, x, packed)
        if self.bidirectional:
            reverse = reversed_indices(lengths, x.shape[1])
            flipped = run_lstm(self.backward_layers[index], gather_frames(x, reverse), packed)
            states = torch.cat([states, gather_frames(flipped, reverse)], dim=-1)
        return states, lengths

    def end(self, state: State) -> Tensor:
        """Compute the embedding (B, D) by the read-out of the last layer."""
        states, lengths = state
        if self.readout == "last":  # the backward direction ends at the first frame
            last, half = gather_frames(states, (lengths - 1).view(-1, 1, 1))[:, 0], self.dim // 2
            return torch.cat([last[:, :half], states[:, 0, half:]], dim=1) if self.bidirectional else last
        if self.attention is not None:
            return self.attention(states, lengths)
        return (states * valid(lengths, states.shape[1])[..., None]).sum(1) / lengths[:, None]

    def forward_from(self, index: int, state: State) -> Tensor:
        """Compute the embedding (B, D) from the input of a layer (B, T, C), on CPU in groups of similar length."""
        x, lengths = state
        if self._packs(x) or x.device.type != "cpu" or torch.compiler.is_compiling() or lengths.min() == lengths.max():
            return super().forward_from(index, state)
        order = lengths.argsort(descending=True)
        groups = zip(x[order].split(GROUP), lengths[order].split(GROUP), strict=True)
        embeddings = [super(LSTM, self).forward_from(index, (x[:, : int(n[0])], n)) for x, n in groups]
        return torch.cat(embeddings)[order.argsort()]

    def _packs(self, x: Tensor) -> bool:
        """Return whether clips are packed."""
        return x.is_cuda if self.packed is None else self.packed

    def for_export(self) -> Self:
        """Return a copy that never packs, because the graph may run on another device."""
        copy = super().for_export()
        copy.packed = False
        return copy

    def reversed_modules(self) -> Sequence[nn.Module]:
        """Return the LSTMs of the backward direction."""
        return list(self.backward_layers)

    def layers(self) -> list[nn.Module]:
        """Return the trainable layers from input to output. A learned read-out belongs to the last layer."""
        if not self.bidirectional and self.attention is None:
            return list(self.forward_layers)
        sides = [self.forward_layers, self.backward_layers] if self.bidirectional else [self.forward_layers]
        layers = [list(modules) for modules in zip(*sides, strict=True)]
        if self.attention is not None:
            layers[-1].append(self.attention)
        return [nn.ModuleList(modules) for modules in layers]


class Attention(nn.Module):
    """Weighted mean over the frames of a clip, with weights computed from each frame's state.

    The score of a frame is vᵀ tanh(W h + b), as in Bahdanau, Cho & Bengio, 2015, "Neural machine translation by jointly
    learning to align and translate". There is no query here, so the score depends only on the state.

    Args:
        dim: Size of a state, D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        # no final bias, because the softmax is invariant to a constant added to all scores
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Compute the weighted mean (B, D) of states (B, T, D) with `lengths` (B,) valid frames."""
        padding = ~valid(lengths, states.shape[1])
        weights = self.score(states)[..., 0].masked_fill(padding, -torch.inf).softmax(1)
        return (weights[..., None] * states).sum(1)


def run_lstm(layer: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Compute the states of one LSTM at every valid frame.

    Args:
        layer: An LSTM of one direction.
        x: Input (B, T, C).
        lengths: Valid frames (B,), on the CPU, to pack the clips; None does not pack them.

    Returns:
        States (B, T, H). The states after a clip's end are undefined.
    """
    if lengths is None:
        return layer(x)[0]
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def gather_frames(x: Tensor, frames: Tensor) -> Tensor:
    """Select frames of each clip (B, T, C) by index (B, N, 1) int64, and return them (B, N, C)."""
    return x.gather(1, frames.expand(-1, -1, x.shape[-1]))


def reversed_indices(lengths: Tensor, frames: int) -> Tensor:
    """Return indices (B, T, 1) that reverse each clip within its own length and leave its padding unchanged."""
    t = torch.arange(frames, device=lengths.device).expand(lengths.shape[0], -1)
    end = lengths[:, None]
    return torch.where(t < end, end - 1 - t, t)[..., None]
