"""Read-outs, which compute the embedding of a clip from the hidden states of a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone

POOLINGS = {"mean": 1, "mean_std": 2, "mean_max": 2}  # number of statistics
N_STATISTICS = 3  # mean, standard deviation and maximum, in the output of `layer_statistics`
COMBINATIONS = ("concat", "weighted")


class Readout(nn.Module):
    """Embedding of a clip, computed from the hidden states of some layers of the backbone.

    Each layer is pooled over the valid frames of a clip. The pooled values of several layers are concatenated, or
    summed with learned weights as in SUPERB (Yang et al., 2021, "SUPERB: speech processing universal performance
    benchmark") and MARBLE (Yuan et al., 2023, "MARBLE: music audio representation benchmark for universal evaluation").
    The weights are the softmax of one parameter per layer, and equal at the beginning.

    Args:
        backbone: The backbone. It is not part of this module.
        bins: Feature bins per frame, F.
        layers: Layers that are read. None for the backbone's own embedding; `last`; `middle`; `all`; or a list of
            numbers. Layer 0 is the input embedding, 1 the first layer, and -1 the last layer. `all` includes layer 0,
            and `middle` is layer L / 2 of L layers, rounded up.
        pooling: Statistics over the valid frames of a clip: `mean`; `mean_std`, the mean and the population standard
            deviation; or `mean_max`, the mean and the maximum.
        combine: `concat`, or `weighted` for a sum with learned weights. A sum requires layers of equal width.

    Attributes:
        dim: Size of the embedding D, the sum over layers and statistics.
        layers: Numbers of the layers that are read, from 0; None for the backbone's own embedding.
        weights: Parameters of the learned weights (L,); None if there are none.

    Raises:
        ValueError: An option is unknown or has no effect, a layer does not exist, or the layers differ in width.
    """

    def __init__(
        self,
        backbone: Backbone,
        bins: int,
        layers: str | Sequence[int] | None = None,
        pooling: str = "mean",
        combine: str = "concat",
    ) -> None:
        super().__init__()
        for key, value, choices in (("pooling", pooling, (*POOLINGS,)), ("combine", combine, COMBINATIONS)):
            if value not in choices:
                raise ValueError(f"readout.{key} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
            if layers is None and value != choices[0]:
                raise ValueError(
                    f"readout.{key}={value} has no effect on the backbone's own embedding; set readout.layers=last, or "
                    f"readout.{key}={choices[0]}"
                )
        self.pooling, self.dim = pooling, backbone.dim
        self._own_dim, self._widths = backbone.dim, list[int]()
        self.layers: list[int] | None = None
        self.weights: nn.Parameter | None = None
        if layers is None:
            return
        self._widths = all_widths = hidden_widths(backbone, bins)
        self.layers = layer_numbers(layers, len(all_widths))
        widths = [all_widths[layer] for layer in self.layers]
        if combine == "weighted" and len(set(widths)) > 1:
            numbers = ", ".join(f"{width} (layer {n})" for n, width in zip(self.layers, widths, strict=True))
            raise ValueError(
                f"readout.combine=weighted requires layers of equal width, and readout.layers={layers} of "
                f"{type(backbone).__name__} have the widths {numbers}; select other layers, or readout.combine=concat"
            )
        if combine == "weighted":
            self.weights = nn.Parameter(torch.zeros(len(widths)))
        self.dim = POOLINGS[pooling] * (sum(widths) if self.weights is None else widths[0])

    def forward(self, backbone: Backbone, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute embeddings.

        Args:
            backbone: The backbone.
            x: Frames (B, T, F), the input of the backbone.
            lengths: Valid frames (B,), int64.

        Returns:
            Embeddings (B, D).
        """
        return self.combine(self.pool(backbone, x, lengths))

    def pool(self, backbone: Backbone, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute the pooled values of all layers that are read, without the learned weights.

        Arguments are the same as in `forward`.

        Returns:
            Concatenated pooled values (B, P), or the backbone's own embedding (B, D).
        """
        if self.layers is None:
            return backbone(x, lengths)
        states = backbone.hidden_states(x, lengths)
        return torch.cat([pool_states(*states[layer], self.pooling) for layer in self.layers], dim=1)

    def select(self, statistics: Tensor) -> Tensor:
        """Return the output of `pool` (B, P) or (B, D) from the output of `layer_statistics`."""
        if self.layers is None:
            return statistics[:, : self._own_dim]
        blocks = statistics[:, self._own_dim :].split([N_STATISTICS * width for width in self._widths], dim=1)
        pooled = []
        for layer in self.layers:
            mean, std, maximum = blocks[layer].chunk(N_STATISTICS, dim=1)
            pooled += {"mean": [mean], "mean_std": [mean, std], "mean_max": [mean, maximum]}[self.pooling]
        return torch.cat(pooled, dim=1)

    def combine(self, pooled: Tensor) -> Tensor:
        """Compute embeddings (B, D) from the output of `pool` (B, P)."""
        if self.weights is None:
            return pooled
        return (pooled.unflatten(1, (-1, self.dim)) * self.layer_weights()[:, None]).sum(1)

    def describe(self) -> str:
        """Return the layers that are read and their statistics as text."""
        if self.layers is None:
            return "the backbone's own"
        statistics = {"mean": "means", "mean_std": "means and standard deviations", "mean_max": "means and maxima"}
        first, last = self.layers[0], self.layers[-1]
        text = f"layer {first}" if len(self.layers) == 1 else f"layers {', '.join(map(str, self.layers))}"
        if len(self.layers) > 2 and self.layers == [*range(first, last + 1)]:
            text = f"layers {first} to {last}"
        return f"{statistics[self.pooling]} of {text}" + (
            ", summed with learned weights" if self.weights is not None else ""
        )

    def layer_weights(self) -> Tensor:
        """Return the weights (L,) of the layers that are read, with sum 1. Without learned weights, they are equal."""
        logits = torch.zeros(len(self.layers or ())) if self.weights is None else self.weights
        return logits.softmax(0)


def layer_statistics(backbone: Backbone, x: Tensor, lengths: Tensor) -> Tensor:
    """Compute the embeddings and the statistics of all hidden states, from which `Readout.select` selects.

    Args:
        backbone: A backbone that can be split.
        x: Frames of one clip (1, T, F).
        lengths: Valid frames (1,), int64.

    Returns:
        The backbone's own embedding, and the mean, standard deviation and maximum of each layer, (1, D + 3 sum(D_l)).
    """
    z, states = backbone.forward_with_states(x, lengths)
    values = [z]
    for state in states:
        values += [pool_states(*state, "mean_std"), pool_states(*state, "mean_max")[:, state[0].shape[2] :]]
    return torch.cat(values, dim=1)


def pool_states(states: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Pool states over the valid frames of each clip, in single precision or better.

    The gradient is finite for constant states and for clips of one frame, whose standard deviation is 0.

    Args:
        states: States (B, T, D). Values after a clip's end have no influence.
        lengths: Valid states (B,), int64, each in 1..T.
        pooling: `mean`, `mean_std` or `mean_max`.

    Returns:
        Statistics (B, D), or (B, 2 D) with the means first.
    """
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    mask, count = valid(lengths, states.shape[1])[..., None], lengths[:, None]
    mean = torch.where(mask, states, 0.0).sum(1) / count
    if pooling == "mean":
        return mean
    if pooling == "mean_max":
        return torch.cat([mean, torch.where(mask, states, -torch.inf).amax(1)], dim=1)
    variance = torch.where(mask, states - mean[:, None], 0.0).square().sum(1) / count
    positive = variance > 0  # the gradient of a square root is infinite at 0
    std = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)
    return torch.cat([mean, std], dim=1)


def hidden_widths(backbone: Backbone, bins: int) -> list[int]:
    """Return the width D_l of each hidden state of a backbone for frames of `bins` values.

    Raises:
        ValueError: The backbone has no hidden states.
    """
    training, frames = backbone.training, max(1, backbone.min_frames)
    device = next(backbone.parameters(), torch.empty(0)).device
    x, lengths = torch.zeros(1, frames, bins, device=device), torch.tensor([frames], device=device)
    try:
        with torch.no_grad():
            states = backbone.eval().hidden_states(x, lengths)
    except NotImplementedError:
        raise ValueError(
            f"readout.layers: {type(backbone).__name__} has no hidden states; use readout.layers=null"
        ) from None
    finally:
        backbone.train(training)
    return [values.shape[2] for values, _ in states]


def layer_numbers(layers: str | Sequence[int], count: int) -> list[int]:
    """Return the numbers of the selected layers, each in 0..count - 1.

    Args:
        layers: `last`, `middle`, `all`, or a list of numbers, which are negative if they count from the last layer.
        count: Number of layers with the input embedding.

    Raises:
        ValueError: The selection is none of these, is empty, or contains a layer twice or a layer that does not exist.
    """
    named = {"last": [count - 1], "middle": [count // 2], "all": list(range(count))}
    if isinstance(layers, str) and layers in named:
        return named[layers]
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ValueError(
            f"readout.layers must be null, last, middle, all or a list of numbers such as [0,-1], got {layers!r}"
        )
    numbers = []
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool) or not -count <= layer < count:
            raise ValueError(
                f"readout.layers: the backbone has {count - 1} layers, so each number must be a whole number from "
                f"{-count} to {count - 1} (0 is the input embedding), got {layer!r}"
            )
        numbers.append(layer % count)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"readout.layers must contain each layer once, got {list(layers)}")
    return numbers
