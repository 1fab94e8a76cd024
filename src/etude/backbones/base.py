"""Contract of backbones, and LSTMs that torch.export can trace."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import UserError

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

    def reversed_modules(self) -> Sequence[nn.Module]:
        """Return the modules that read a clip from its end."""
        return ()

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

    def for_export(self) -> Self:
        """Return a copy that torch.export can trace for batches of every shape.

        No operation of the copy depends on the values in a tensor. A backbone that has such operations replaces them
        here; LSTMs are replaced for all.
        """
        copy = deepcopy(self)
        replace_lstms(copy)
        return copy

    def layers(self) -> list[nn.Module]:
        """Trainable parts from input to output, for freezing, layer-wise learning rates and inspection."""
        raise NotImplementedError


@torch.library.custom_op("etude::lstm", mutates_args=())
def lstm(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """States (B, T, H) of an LSTM at every frame of (B, T, C), from first states (1, B, H), with weights as torch's."""
    return torch.lstm(x, (h, c), (w_ih, w_hh, b_ih, b_hh), True, 1, 0.0, False, False, True)[0]


@lstm.register_fake
def _(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], w_hh.shape[1])


class TraceableLSTM(nn.Module):
    """LSTM of one layer and one direction as the single operation `etude::lstm`.

    torch.export cannot trace an LSTM over any number of frames. So the layer is one operation in the graph; the writer
    of a file replaces it by the LSTM of ONNX or torch.

    Args:
        layer: The LSTM.

    Raises:
        UserError: It has more than that, or no biases.
    """

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        if layer.num_layers > 1 or layer.bidirectional or layer.proj_size or not (layer.bias and layer.batch_first):
            raise UserError("export: an LSTM must be one of batch_first=True, with one layer, one direction and biases")
        self.hidden = layer.hidden_size
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        self.weights = nn.ParameterList(getattr(layer, name) for name in names)
        self.train(layer.training)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Frames (B, T, C) to states (B, T, H)."""
        h, c = (x.new_zeros(1, x.shape[0], self.hidden) for _ in "hc")  # oneDNN writes into both
        return torch.ops.etude.lstm(x, h, c, *self.weights), None


def replace_lstms(module: nn.Module) -> None:
    """Replace all LSTMs in a module, at any depth, by `TraceableLSTM`, in place."""
    for name, part in module.named_children():
        if isinstance(part, nn.LSTM):
            setattr(module, name, TraceableLSTM(part))
        else:
            replace_lstms(part)
