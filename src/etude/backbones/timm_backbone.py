"""Backbone of any timm network that accepts images of any size.

These networks have no mask: filters extend beyond a clip's end, and the mean includes every column. Clips of a batch
are therefore grouped by length, so that no image contains padding.
"""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.masks import valid
from etude.backbones.base import Backbone
from etude.backbones.vit_checkpoints import mismatch_error, one_channel, read_weights

SMALLEST = (128, 64)  # frames and bins: five halvings leave enough values for batch statistics


class Timm(Backbone):
    """Image network of timm, with the input of its classifier as embedding.

    Batches of one length are fastest. Crops in training have one length; clips in evaluation may not.

    Args:
        bins: Feature bins per frame, F.
        model: Name in timm, with or without the tag of its weights.
        weights: Initial weights: `imagenet` for the ImageNet weights of timm, or a file with the parameter names of
            timm; None for random weights.
        dropout: Probability of dropping a unit of the embedding.
        drop_path: Probability of skipping the last block. The probability increases linearly from the first block to
            the last. Not every network supports this option.

    Attributes:
        dim: Size of the embedding, D.
        one_length: Whether all clips of a batch have one length, as in an exported graph.

    Raises:
        ValueError: There is no such network, or it accepts images of one size only.
    """

    variable_length, min_frames = False, SMALLEST[0]
    axis = 3  # the columns of its images are time

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
        self.model, self.weights, self.bins = model, weights, max(bins, SMALLEST[1])
        self.one_length = False
        name = model.partition(".")[0]
        # only a name and no hub address, so that an untrusted checkpoint cannot start a download
        if not timm.is_model(name):
            raise ValueError(f"backbone.model must be the name of a network of timm, got {model!r}")
        defaults = timm.models.get_pretrained_cfg(name)
        if defaults is not None and defaults.fixed_input_size:
            raise ValueError(
                f"backbone.model={model} accepts images of one size only; use backbone=ast for vision transformers"
            )
        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        self.net = timm.create_model(name, in_chans=1, num_classes=0, **options)
        self.net.to(memory_format=torch.channels_last)  # faster, on CPU too
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():  # the attribute with the width differs between networks
            self.dim = self.net.eval()(torch.zeros(1, 1, self.bins, SMALLEST[0])).shape[1]
        self.train()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Embed a batch of clips.

        Args:
            x: Standardised frames (B, T, F), float32. Frames at or after a clip's length have no influence.
            lengths: Valid frames per clip (B,), int64, each in 1..T.

        Returns:
            Embedding (B, D).
        """
        x = x * valid(lengths, x.shape[1])[..., None]
        x = F.pad(x, (0, self.bins - x.shape[2], 0, max(0, SMALLEST[0] - x.shape[1]))).transpose(1, 2)[:, None]
        if self.one_length:
            return self.net(x)
        lengths = lengths.clamp(min=SMALLEST[0])  # a short clip is zero-padded independently of its batch
        rows, embeddings = [], []
        for length in lengths.unique().tolist():
            rows.append((lengths == length).nonzero()[:, 0])
            embeddings.append(self.net(x[rows[-1], :, :, :length]))
        return self.dropout(torch.cat(embeddings)[torch.cat(rows).argsort()])

    def for_export(self) -> Self:
        """Return a copy for batches of one length."""
        copy = super().for_export()
        copy.one_length = True
        return copy

    def layers(self) -> list[nn.Module]:
        """Return the children of the network in order, with sequences replaced by their elements."""
        modules: list[nn.Module] = []
        for child in self.net.children():
            modules += child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
        return [module for module in modules if next(module.parameters(), None) is not None]

    def initialise(self) -> None:
        """Load the pretrained weights, with RGB filters converted to a single channel.

        Raises:
            UserError: The weights are not available, or belong to another network.
        """
        if self.weights is None:
            return
        tensors, own = read_weights(self.weights, self.model), self.net.state_dict()
        for name, value in tensors.items():
            if name in own and value.ndim == 4 and value.shape[1] == 3 and own[name].shape[1] == 1:
                tensors[name] = one_channel(value)
        try:
            self.net.load_state_dict({name: value for name, value in tensors.items() if name in own})
        except RuntimeError as error:
            raise mismatch_error(self.weights, self.model, error) from error
