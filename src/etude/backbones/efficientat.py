"""EfficientAT, a small MobileNetV3 over log-mel frames that was distilled from transformers trained on AudioSet.

Source: Schmid, Koutini & Widmer, 2023, "Efficient large-scale audio tagging via transformer-to-CNN knowledge
distillation". The network is MobileNetV3-large (Howard et al., 2019) with squeeze-excitation over channels. Parameters
have the names of the published files, so that these files can be loaded. Here the axes of frames are time, then
frequency, so the published filters are transposed when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend_modules import MaskedBatchNorm, valid
from etude.backbones.base import Backbone, State, find_weights_file, read_tag_names
from etude.errors import UserError
from etude.files.published import AUDIOSET, EFFICIENTAT, PublishedWeights
from etude.files.safe_read import read_tensors

EMBEDDED, EMBEDDED_WIDTH = "mn04_as", 0.4
CLASSIFIER = ("classifier.2.weight", "classifier.2.bias", "classifier.5.weight", "classifier.5.bias")  # a published MLP
# kernel, expanded channels, channels, squeeze-excitation, hard swish, stride: MobileNetV3-large at width 1
LAYERS = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip


class EfficientAT(Backbone):
    """MobileNetV3 over a spectrogram of any length, averaged over time and frequency.

    Args:
        bins: Feature bins per frame, F.
        width: Multiplier of all channels: 0.4 for the published mn04, 1.0 for mn10, ... None for the width of the
            weights if they have a published name, otherwise 0.4.
        weights: Pretrained weights, which require `feature=efficientat`: `mn04_as`, which is embedded, the name of
            other published weights (`mn10_as`, ...), which are downloaded, or a file. None for random weights and
            standardised frames.

    Attributes:
        dim: Size of the embedding, D.
        tag_names: Classes of the pretrained classifier. They are known for the names of weights trained on AudioSet,
            and for a file with the 527 classes of AudioSet once it is read.

    Raises:
        UserError: `width` is not the width of the weights.
    """

    required_front_end = "etude.audio.kaldi.EfficientATFront"
    embedded_weights: Mapping[str, str] = MappingProxyType({EMBEDDED: EMBEDDED})
    published_weights: Mapping[str, PublishedWeights] = MappingProxyType(EFFICIENTAT)
    axis = 2

    def __init__(self, bins: int, width: float | None = None, weights: str | None = None) -> None:
        super().__init__()
        published = _published_weights(weights)
        own_width = EMBEDDED_WIDTH if published is None else float(published.options["width"])
        width = own_width if width is None else width
        self.width, self.weights, self.skips_standardisation = width, weights, weights is not None
        if weights in (*self.embedded_weights, *self.published_weights) and width != own_width:
            raise UserError(
                f"backbone.width={width:g}: backbone.weights={weights} has width {own_width:g}; set "
                f"backbone.width={own_width:g}, or the file of a network of this width"
            )
        self.is_tagger = published is None or published.trained_on == AUDIOSET
        name = EMBEDDED if published is not None and self.is_tagger else weights  # published files contain no names
        self.tag_names = read_tag_names(name, self.embedded_weights)
        self._classifier: dict[str, Tensor] | None = None  # not a submodule, because it is not trained
        before = _round_to_eight(16 * width)
        self.features = nn.ModuleList([Conv(1, before, 3, 2, swish=True)])
        for kernel, expanded, after, squeezed, swish, stride in LAYERS:
            sizes = (before, _round_to_eight(expanded * width), _round_to_eight(after * width))
            block = Inverted(*sizes, kernel, stride, squeezed, swish)
            self.features.append(block)
            before = _round_to_eight(after * width)
        self.dim = 6 * before
        self.features.append(Conv(before, self.dim, 1, 1, swish=True))
        self.steps = len(self.features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] ** 2 * module.out_channels / module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Return frames (B, T, F) as an image (B, 1, T, F) and its lengths (B,)."""
        return x[:, None], lengths

    def step(self, index: int, state: State) -> State:
        """Run the stem, a block or the last convolution."""
        return self.features[index](*state)

    def end(self, state: State) -> Tensor:
        """Return the mean over valid frames and all bins, (B, D)."""
        x, lengths = state
        x = x * valid(lengths, x.shape[2])[:, None, :, None]
        return x.mean(3).sum(2) / lengths[:, None]

    def layers(self) -> list[nn.Module]:
        """Return the stem, the blocks and the last convolution, from input to output."""
        return list(self.features)

    def initialise(self) -> None:
        """Load the published weights.

        Raises:
            UserError: The file is missing, or contains the weights of another network.
        """
        if self.weights is None:
            return
        tensors = self._read_weights()
        transposed = {
            k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in tensors.items() if k.startswith("features.")
        }
        try:
            self.load_state_dict(transposed)
        except RuntimeError as error:
            raise UserError(
                f"backbone.weights={self.weights}: the file does not fit an EfficientAT of "
                f"backbone.width={self.width:g}; set the width of the file (0.4 for mn04)"
            ) from error
        names = read_tag_names(EMBEDDED, self.embedded_weights)
        if self.is_tagger and not self.tag_names and len(tensors.get("classifier.5.bias", ())) == len(names):
            self.tag_names = names

    def tag_probabilities(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute the probabilities of AudioSet's classes by the pretrained classifier, an MLP over the embedding.

        They are meaningful while the backbone has its pretrained weights.

        Args:
            x: Frames (B, T, F) of `EfficientATFront`.
            lengths: Valid frames (B,).

        Returns:
            Probabilities (B, K), in the order of `tag_names`.

        Raises:
            UserError: The network has no pretrained weights, or their file has no classifier.
        """
        return self._classify(self(x, lengths))

    def forward_with_tags(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the embedding (B, D) and the probabilities of `tag_probabilities` (B, K) in one pass."""
        z = self(x, lengths)
        return z, self._classify(z)

    def _classify(self, z: Tensor) -> Tensor:
        """Return the probabilities (B, K) of the pretrained classifier from embeddings (B, D)."""
        if self._classifier is None:
            if self.weights is None:
                raise UserError("backbone.weights=null: random weights have no classifier; set mn04_as or a file")
            tensors = self._read_weights() if self.is_tagger else {}  # other files have a random classifier
            self._classifier = {name: value for name, value in tensors.items() if name in CLASSIFIER}
        if len(self._classifier) < len(CLASSIFIER):
            raise UserError(
                f"backbone.weights={self.weights}: the file has no classifier; set backbone.weights=mn04_as"
            )
        hidden_weight, hidden_bias, weight, bias = (self._classifier[name].to(z) for name in CLASSIFIER)
        return F.linear(F.hardswish(F.linear(z, hidden_weight, hidden_bias)), weight, bias).sigmoid()

    def _read_weights(self) -> dict[str, Tensor]:
        """Return the tensors of the weights file by their published names."""
        assert self.weights is not None
        return read_tensors(find_weights_file(self.weights, self.embedded_weights, self.published_weights))


def _published_weights(weights: str | None) -> PublishedWeights | None:
    """Return the published weights of a name, or of a file with a published file name."""
    if weights is None or weights in EFFICIENTAT:
        return EFFICIENTAT.get(weights or "")
    return next((entry for entry in EFFICIENTAT.values() if entry.file == Path(weights).name), None)


class Conv(nn.Sequential):
    """Block of convolution, batch norm and activation that ignores the padding after each clip's end."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int, groups: int = 1, swish: bool | None = None
    ) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
            MaskedBatchNorm(after, eps=1e-3),
        )
        self.act = nn.Identity() if swish is None else nn.Hardswish() if swish else nn.ReLU()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Compute (B, C', T', F') and lengths (B,) from (B, C, T, F) and lengths (B,).

        With a stride of 2, halves are rounded up.
        """
        conv, norm = cast(nn.Conv2d, self[0]), self[1]
        if conv.kernel_size != (1, 1):  # the filter extends beyond a clip's end
            x = x * valid(lengths, x.shape[2])[:, None, :, None]
        if conv.stride[0] == 2:
            lengths = (lengths + 1) // 2
        x = norm(conv(x), lengths)
        return self.act(x), lengths


class Inverted(nn.Module):
    """Inverted residual block of expansion, depthwise convolution, squeeze-excitation and projection.

    Source: Sandler et al., 2018.
    """

    def __init__(
        self, before: int, expanded: int, after: int, kernel: int, stride: int, squeezed: bool, swish: bool
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = [Conv(before, expanded, 1, 1, swish=swish)] if expanded != before else []
        steps.append(Conv(expanded, expanded, kernel, stride, groups=expanded, swish=swish))
        steps += [Concurrent(expanded)] if squeezed else []
        self.block = nn.ModuleList([*steps, Conv(expanded, after, 1, 1)])
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B, C', T', F') and lengths (B,) from (B, C, T, F) and lengths (B,)."""
        y, after = x, lengths
        for step in self.block:
            y, after = step(y, after)
        return (x + y if self.residual else y), after


class Concurrent(nn.Module):
    """Container of the squeeze-excitation over channels. It exists because the published files contain it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([Squeeze(channels, _round_to_eight(channels / 4))])

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scale the channels of (B, C, T, F) by weights computed from their means over valid frames."""
        mean = (x * valid(lengths, x.shape[2])[:, None, :, None]).mean(3).sum(2) / lengths[:, None]
        return x * self.conc_se_layers[0](mean)[..., None, None], lengths


class Squeeze(nn.Module):
    """Squeeze-excitation (Hu et al., 2018), from channel means (B, C) to channel weights (B, C) in (0, 1)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply a bottleneck and a sigmoid."""
        return self.fc2(F.relu(self.fc1(x))).sigmoid()


def _round_to_eight(channels: float) -> int:
    """Return the nearest multiple of eight that is at least 90 % of `channels`, and at least eight."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
