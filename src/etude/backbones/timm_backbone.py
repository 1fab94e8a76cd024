"""Backbone of any timm network that accepts images of any size.

These networks have no mask: filters extend beyond a clip's end, and the mean includes every column. Clips of a batch
are therefore grouped by length, so that no image contains padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone
from etude.backbones.vit_checkpoints import check_weights_file, mismatch_error, one_channel, read_weights
from etude.errors import UserError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

HOOKS = Lock()  # threads share a network in predictions, and a hook would record the outputs of all threads
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
        has_feature_maps: Whether a check has shown that the network has feature maps after every layer.

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
        self.one_length, self.has_feature_maps = False, False
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
        images, order = self._images(x, lengths)
        embeddings = torch.cat([self.net(image) for image in images])
        return self.dropout(embeddings if order is None else embeddings[order])

    def hidden_states(self, x: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute the states of all layers as in the base class.

        A layer has matrices; the layers without matrices after it, such as norms, belong to it. The state of a layer is
        its last feature map. All of its columns are valid, because the embedding is the mean over all columns too.

        Raises:
            UserError: The network has no feature maps (B, C, F', T') after a layer.
        """
        self._check_feature_maps()
        images, order = self._images(x, lengths)
        maps = [self._feature_maps(image) for image in images]
        states = [(x, lengths)]
        for outputs in zip(*maps, strict=True):
            width = max(values.shape[3] for values in outputs)
            padded = [F.pad(values.mean(2), (0, width - values.shape[3])).transpose(1, 2) for values in outputs]
            values = torch.cat(padded)
            columns = torch.cat([lengths.new_full((values.shape[0],), values.shape[3]) for values in outputs])
            states.append((values, columns) if order is None else (values[order], columns[order]))
        return states

    def _images(self, x: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return images (b, 1, F, T') of clips of one length each, and the order that restores the batch from them."""
        x = x * valid(lengths, x.shape[1])[..., None]
        x = F.pad(x, (0, self.bins - x.shape[2], 0, max(0, SMALLEST[0] - x.shape[1]))).transpose(1, 2)[:, None]
        if self.one_length:
            return [x], None
        lengths = lengths.clamp(min=SMALLEST[0])  # a short clip is zero-padded independently of its batch
        rows = [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]
        images = [x[clips, :, :, : int(lengths[clips[0]])] for clips in rows]
        return images, torch.cat(rows).argsort()

    def _feature_maps(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps (b, C, F', T') after each layer with matrices."""
        last: dict[int, Tensor] = {}
        hooks: list[RemovableHandle] = []
        index = 0  # of a layer with matrices
        with HOOKS:
            try:
                for layer in self.layers():
                    index += any(weight.ndim > 1 for weight in layer.parameters())
                    hooks.append(layer.register_forward_hook(partial(_record_map, last, index)))
                self.net(image)
            finally:
                for hook in hooks:
                    hook.remove()
        return [last.get(layer, image[:, :0]) for layer in range(1, index + 1)]

    def _check_feature_maps(self) -> None:
        """Check once that the outputs of all layers are feature maps (b, C, F', T').

        Raises:
            UserError: A layer has another output, such as tokens or maps with channels as last axis.
        """
        if self.has_feature_maps:
            return
        training, image = self.net.training, next(self.net.parameters()).new_zeros(1, 1, self.bins, 2 * SMALLEST[0])
        self.net.eval()
        with torch.no_grad():
            short, long = (self._feature_maps(image[..., :frames]) for frames in (SMALLEST[0], 2 * SMALLEST[0]))
        self.net.train(training)
        for a, b in zip(short, long, strict=True):
            is_pooled = a.shape[2:] == b.shape[2:] == (1, 1)
            if not a.numel() or a.shape[:3] != b.shape[:3] or not (is_pooled or a.shape[3] < b.shape[3]):
                raise UserError(
                    f"backbone.model={self.model}: has layers without feature maps over time, so it has no hidden "
                    "states; use readout.layers=null, or another model"
                )
        self.has_feature_maps = True

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

    @classmethod
    def check_weights(cls, config: Mapping[str, Any]) -> None:
        """Check that the file of the weights exists. ImageNet weights are downloaded later."""
        check_weights_file(config.get("weights"))

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


def _record_map(last: dict[int, Tensor], index: int, module: nn.Module, inputs: Any, out: Any) -> None:
    """Store the output of a layer if it is a feature map."""
    if isinstance(out, Tensor) and out.ndim == 4:
        last[index] = out
