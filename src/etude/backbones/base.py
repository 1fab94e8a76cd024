"""Base class of backbones, and LSTMs that torch.export can trace."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import UserError

State = tuple[Any, ...]  # passed from step to step: values (B, ...), lengths (B,), and anything derived from these


class Backbone(nn.Module):
    """Network that computes the embedding of a clip from its frames.

    A subclass takes `bins`, the width F of a frame, as its first argument, sets `dim`, and defines `layers`. Frames at
    or after a clip's length must not influence its embedding. It computes the embedding in one of two ways:

    - It overrides `forward`.
    - It defines `begin`, `step` and `end`, with one step per layer, and sets `steps`; `begin` may run the first layer.
      The network can then be split before any step, so that the output of frozen layers is computed only once. A step
      is random only while its layer is in training mode.

    Attributes:
        dim: Size of the embedding, D.
        steps: Number of steps.
        axis: Time axis of a state's values.
        skips_standardisation: Whether frames are used unchanged, because pretrained weights expect their scale.
            Otherwise frames are standardised with the statistics of the training split.
        required_front_end: Dotted name of the front end that the pretrained weights require; None for other networks.
        variable_length: Whether clips of different lengths can share a batch of an exported graph. Otherwise all clips
            of a batch have one length.
        min_frames: Number of frames that an exported graph requires, because its shapes must be valid for every length.
            The graph adds this many padding frames, which are masked. Where all clips of a batch have one length, that
            length must be at least `min_frames`.
    """

    dim: int
    steps: int = 0
    axis: int = 1
    skips_standardisation: bool = False
    required_front_end: str | None = None
    variable_length: bool = True
    min_frames: int = 32

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Frames (B, T, F), float32, standardised unless `skips_standardisation`. Frames at or after a clip's
                length have no influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D).
        """
        return self.forward_from(0, self.begin(x, lengths))

    @property
    def splittable(self) -> bool:
        """Return whether the network can be split between steps.

        A network that overrides `forward` cannot be split.
        """
        return type(self).forward is Backbone.forward

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Compute the input of the first step from frames (B, T, F) and numbers of valid frames (B,)."""
        raise NotImplementedError

    def step(self, index: int, state: State) -> State:
        """Run one layer, with an index that begins at 0."""
        raise NotImplementedError

    def end(self, state: State) -> Tensor:
        """Compute the embedding (B, D) from the output of the last step."""
        raise NotImplementedError

    def forward_to(self, index: int, x: Tensor, lengths: Tensor) -> State:
        """Compute the input of step `index` from frames (B, T, F) and numbers of valid frames (B,)."""
        state = self.begin(x, lengths)
        for step in range(index):
            state = self.step(step, state)
        return state

    def forward_from(self, index: int, state: State) -> Tensor:
        """Compute the embedding (B, D) from the input of step `index`."""
        for step in range(index, self.steps):
            state = self.step(step, state)
        return self.end(state)

    def reversed_modules(self) -> Sequence[nn.Module]:
        """Return the modules that process a clip from its end to its beginning."""
        return ()

    def collate(self, values: Sequence[Tensor], lengths: Tensor) -> State:
        """Collate the states of clips that the first steps processed separately.

        Args:
            values: Values (1, ...) of each clip.
            lengths: Valid length of each clip along the time axis (B,).
        """
        frames = [clip.shape[self.axis] for clip in values]
        other_axes = (0, 0) * (values[0].ndim - 1 - self.axis)
        padded = [F.pad(clip, (*other_axes, 0, max(frames) - n)) for clip, n in zip(values, frames, strict=True)]
        return torch.cat(padded), lengths

    def initialise(self) -> None:
        """Load the pretrained weights that the config names, if any. This is called once, before training."""

    def for_export(self) -> Self:
        """Return a copy that torch.export can trace for batches of every shape.

        In the copy, no operation may depend on tensor values. A backbone with operations that depend on them overrides
        this method and replaces these operations. LSTMs are replaced in all backbones.
        """
        copy = deepcopy(self)
        replace_lstms(copy)
        return copy

    def layers(self) -> list[nn.Module]:
        """Return the trainable layers from input to output, for freezing, layer-wise learning rates and inspection.

        Every subclass defines this method.
        """
        raise NotImplementedError


def layer_indices(backbone: Backbone) -> list[int]:
    """Return the index of each layer of a backbone, from 0.

    A layer without matrices, such as a final norm, has the index of the layer before it.

    Args:
        backbone: Any backbone.
    """
    indices: list[int] = []
    for layer in backbone.layers():
        has_matrix = any(p.ndim > 1 for p in layer.parameters())
        indices.append(indices[-1] + has_matrix if indices else 0)
    return indices


def parameter_layer_index(backbone: Backbone) -> dict[str, int]:
    """Return the layer index of each parameter of a backbone by name. A parameter outside of all layers has index 0."""
    layers = zip(layer_indices(backbone), backbone.layers(), strict=True)
    index_of = {id(p): index for index, layer in layers for p in layer.parameters()}
    return {name: index_of.get(id(p), 0) for name, p in backbone.named_parameters()}


@torch.library.custom_op("etude::lstm", mutates_args=())
def lstm(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """Return the states (B, T, H) of an LSTM for input (B, T, C) and initial states (1, B, H), with torch's weights."""
    return torch.lstm(x, (h, c), (w_ih, w_hh, b_ih, b_hh), True, 1, 0.0, False, False, True)[0]


@lstm.register_fake
def _(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], w_hh.shape[1])


class TraceableLSTM(nn.Module):
    """LSTM of one layer and one direction as a single custom operation.

    torch.export cannot trace an LSTM over an arbitrary number of frames. In the graph, the layer is therefore a single
    operation, `etude::lstm`. The export replaces it by the LSTM of ONNX or torch.

    Args:
        layer: The LSTM.

    Raises:
        UserError: The LSTM has several layers or directions, a projection, no biases, or is not batch-first.
    """

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        if layer.num_layers > 1 or layer.bidirectional or layer.proj_size or not (layer.bias and layer.batch_first):
            raise UserError("export: an LSTM must have batch_first=True, one layer, one direction and biases")
        self.hidden = layer.hidden_size
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        self.weights = nn.ParameterList(getattr(layer, name) for name in names)
        self.train(layer.training)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Compute states (B, T, H) from frames (B, T, C)."""
        h, c = (x.new_zeros(1, x.shape[0], self.hidden) for _ in "hc")  # oneDNN writes into both
        return torch.ops.etude.lstm(x, h, c, *self.weights), None


def replace_lstms(module: nn.Module) -> None:
    """Replace all LSTMs in a module, at any depth, by `TraceableLSTM`, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.LSTM):
            setattr(module, name, TraceableLSTM(child))
        else:
            replace_lstms(child)
