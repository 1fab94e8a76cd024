"""Base class of backbones, and LSTMs that torch.export can trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from etude.errors import UserError
from etude.files.published import PublishedWeights, find_published

WEIGHTS = Path(__file__).with_name("weights")  # folder of embedded weights
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
        version: Version of the computation. It is increased when the outputs for equal frames and weights change, so
            that stored embeddings are computed again.
        embedded_weights: Stems of the files of the weights in the package, by the name in `backbone.weights`.
        published_weights: Weights that are downloaded, by the name in `backbone.weights`.
        weights_keys: Keys of the config that only select the weights. They are no part of the identity of an encoder.
        libraries: Libraries whose versions can change the outputs.
        tag_names: Names of the outputs of the classifier in the pretrained weights; empty without such a classifier.
        skips_standardisation: Whether frames are used unchanged, because pretrained weights expect their scale.
            Otherwise frames are standardised with the statistics of the training split.
        required_front_end: Dotted name of the front end that the pretrained weights require; None for other networks.
        variable_length: Whether clips of different lengths can share a batch of an exported graph. Otherwise all clips
            of a batch have one length.
        patch_frames: Number of frames of the patches (N, T, F) into which the network divides a batch of clips, without
            reducing the number of frames; None if it processes complete clips.
        min_frames: Number of frames that an exported graph requires, because its shapes must be valid for every length.
            The graph adds this many padding frames, which are masked. Where all clips of a batch have one length, that
            length must be at least `min_frames`.
    """

    dim: int
    steps: int = 0
    axis: int = 1
    version: int = 1
    embedded_weights: Mapping[str, str] = MappingProxyType({})
    published_weights: Mapping[str, PublishedWeights] = MappingProxyType({})
    weights_keys: Sequence[str] = ("weights",)
    libraries: Sequence[str] = ("timm", "torch")
    tag_names: Sequence[str] = ()
    skips_standardisation: bool = False
    required_front_end: str | None = None
    variable_length: bool = True
    patch_frames: int | None = None
    min_frames: int = 32

    @classmethod
    def check_weights(cls, config: Mapping[str, Any]) -> None:
        """Check that the files of pretrained weights exist, without reading them. Published weights are downloaded.

        The default checks the weights of a backbone with embedded weights.

        Args:
            config: Config of the backbone.

        Raises:
            UserError: A file is missing and cannot be downloaded.
        """
        if cls.embedded_weights and config.get("weights") is not None:
            find_weights_file(config["weights"], cls.embedded_weights, cls.published_weights)

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

    def tag_probabilities(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the probabilities of the classifier in the pretrained weights.

        Args:
            x: Frames (B, T, F), float32.
            lengths: Valid frames per clip (B,), int64.

        Returns:
            Probabilities (B, len(tag_names)), independent of each other.
        """
        raise NotImplementedError

    def forward_with_tags(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the outputs of `forward` (B, D) and of `tag_probabilities` (B, K).

        The default runs the network twice. A backbone with a classifier overrides this method and runs it once.
        """
        return self(x, lengths), self.tag_probabilities(x, lengths)

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

    def hidden_states(self, x: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute the states of all layers over time.

        State 0 is the input embedding. In a network without an input embedding, it is the frames. The other states are
        the outputs of the layers, in the order of `layers`. A final norm belongs to the last layer. Feature maps are
        averaged over frequency. Tokens without a position in time, such as a class token, are not included.

        The default runs the steps. A network that overrides `forward` overrides this method as well.

        Args:
            x: Frames (B, T, F), as in `forward`.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            For each layer, its states (B, T_l, D_l), and the number of valid states of each clip (B,), int64. The
            states after a clip's end are undefined.
        """
        return self._run_with_states(x, lengths)[0]

    def forward_with_states(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Compute the outputs of `forward` (B, D) and of `hidden_states` in one pass.

        It is used only for networks that can be split, one clip at a time.
        """
        states, last = self._run_with_states(x, lengths)
        return self.end(last), states

    def _run_with_states(self, x: Tensor, lengths: Tensor) -> tuple[list[tuple[Tensor, Tensor]], State]:
        """Return the output of `hidden_states`, and the output of the last step."""
        state, states = self.begin(x, lengths), [(x, lengths)]
        for index in range(self.steps):
            state = self.step(index, state)
            values = state[0] if state[0].ndim == 3 else state[0].mean(5 - self.axis).transpose(1, 2)
            states.append((values, state[1]))
        return states, state

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


def find_weights_file(
    weights: str, embedded: Mapping[str, str], published: Mapping[str, PublishedWeights] = MappingProxyType({})
) -> Path:
    """Return the file of pretrained weights. Published weights are downloaded if they are not on this machine.

    Args:
        weights: Value of `backbone.weights`, a file or the name of weights.
        embedded: Stems of the files of embedded weights, by name.
        published: Published weights, by name.

    Raises:
        UserError: The value is neither a name nor a file, or the file cannot be downloaded.
        RunError: The disk is full.
    """
    path = WEIGHTS / f"{embedded[weights]}.safetensors" if weights in embedded else Path(weights).expanduser()
    if path.is_file():
        return path
    if weights in published:
        return find_published(published[weights])
    names = ", ".join([*embedded, *published])
    raise UserError(f"backbone.weights={weights}: there is no such weights file; set {names} or a file")


def read_tag_names(weights: str | None, embedded: Mapping[str, str]) -> list[str]:
    """Return the names of the outputs of a pretrained classifier, from the metadata of its file.

    Arguments are the same as in `find_weights_file`. There are no names if the file is missing or contains none.
    """
    if weights is None:
        return []
    try:
        with safe_open(find_weights_file(weights, embedded), "pt") as file:
            names = json.loads((file.metadata() or {}).get("tags", "[]"))
    except (OSError, SafetensorError, ValueError):  # UserError, a missing file, is a ValueError
        return []
    return [str(name) for name in names]


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
