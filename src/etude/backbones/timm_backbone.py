"""Backbone of any timm network that takes images.

Such networks take in their whole picture: filters reach over a clip's end, and the mean counts every column. So that
padding is never in the picture, clips of one length go through together and those of another by themselves.
"""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.masks import valid
from etude.backbones.base import Backbone
from etude.backbones.vit_checkpoints import misfit, one_channel, read_weights

LEAST = (128, 64)  # frames and bins: after the usual five halvings there is still a picture to take statistics of


class Timm(Backbone):
    """A network for pictures, read out where its classifier was.

    Batches of one length are fastest: crops of training are, whole clips of a collection may not be.

    Args:
        bins: Feature bins per frame, F.
        model: Its name in timm, with or without the tag of its weights.
        weights: What it begins from: `imagenet`, for timm's; a file of timm's names; none for random weights.
        dropout: Probability of dropping a unit of the embedding.
        drop_path: Probability of skipping a block, rising linearly to this at the last; not every network knows it.

    Attributes:
        dim: Size of the embedding, D.
        one_length: Whether all clips of a batch have one length, as in an exported graph.

    Raises:
        ValueError: There is no such network, or it takes pictures of one size only.
    """

    ragged, least = False, LEAST[0]
    axis = 3  # its pictures have time to the right

    def __init__(
        self,
        bins: int,
        model: str = "resnet10t",
        weights: str | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        import timm

        super().__init__()
        self.model, self.weights, self.bins = model, weights, max(bins, LEAST[1])
        self.one_length = False
        name = model.partition(".")[0]
        if not timm.is_model(name):  # a name, and no place on the hub: a checkpoint from a stranger fetches nothing
            raise ValueError(f"backbone.model must be the name of a network of timm, got {model!r}")
        known = timm.models.get_pretrained_cfg(name)
        if known is not None and known.fixed_input_size:
            raise ValueError(f"backbone.model={model} takes pictures of one size; backbone=ast has vision transformers")
        settings: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        self.net = timm.create_model(name, in_chans=1, num_classes=0, **settings)
        self.net.to(memory_format=torch.channels_last)  # faster, on CPU too
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():  # what a head is made of differs from one network to the other
            self.dim = self.net.eval()(torch.zeros(1, 1, self.bins, LEAST[0])).shape[1]
        self.train()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Standardised frames (B, T, F), float32. What stands at or after a clip's length has no influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D).
        """
        x = x * valid(lengths, x.shape[1])[..., None]
        x = F.pad(x, (0, self.bins - x.shape[2], 0, max(0, LEAST[0] - x.shape[1]))).transpose(1, 2)[:, None]
        if self.one_length:
            return self.net(x)
        lengths = lengths.clamp(min=LEAST[0])  # a short clip ends in zeros, whatever its neighbours
        rows, parts = [], []
        for length in lengths.unique().tolist():
            rows.append((lengths == length).nonzero()[:, 0])
            parts.append(self.net(x[rows[-1], :, :, :length]))
        return self.dropout(torch.cat(parts)[torch.cat(rows).argsort()])

    def for_export(self) -> Self:
        """Return a copy for batches of one length."""
        copy = super().for_export()
        copy.one_length = True
        return copy

    def layers(self) -> list[nn.Module]:
        """The network's parts, and the parts of those that are sequences, as they are listed in it."""
        parts: list[nn.Module] = []
        for part in self.net.children():
            parts += part.children() if isinstance(part, nn.Sequential | nn.ModuleList) else [part]
        return [part for part in parts if next(part.parameters(), None) is not None]

    def initialise(self) -> None:
        """Read the weights that were trained elsewhere; filters of three colours become filters of grey.

        Raises:
            UserError: They cannot be had, or are of another network.
        """
        if self.weights is None:
            return
        found, own = read_weights(self.weights, self.model), self.net.state_dict()
        for name, value in found.items():
            if name in own and value.ndim == 4 and value.shape[1] == 3 and own[name].shape[1] == 1:
                found[name] = one_channel(value)
        try:
            self.net.load_state_dict({name: value for name, value in found.items() if name in own})
        except RuntimeError as error:
            raise misfit(self.weights, self.model, error) from error
