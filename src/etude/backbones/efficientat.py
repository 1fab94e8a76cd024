"""EfficientAT: a MobileNetV3 over log-mel that AudioSet's transformers have taught, small enough for any machine.

Schmid, Koutini & Widmer, 2023, "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation"; the
network is MobileNetV3-large (Howard et al., 2019) with squeeze-excitation over channels. Names of weights are those of
the published files, so that these load; frames lie in time by frequency, so their filters are turned on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.masks import MaskedBatchNorm, valid
from etude.backbones.base import Backbone, State
from etude.errors import UserError
from etude.files.safe_read import read_tensors

# kernel, expanded channels, channels, squeeze-excitation, hard swish, stride: MobileNetV3-large at width 1
LAYERS = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip


class EfficientAT(Backbone):
    """MobileNetV3 over a spectrogram of any length, read out as the mean over time and frequency.

    Args:
        bins: Feature bins per frame, F.
        width: Multiplier of all channels: 0.4 for the published mn04, 1.0 for mn10, ...
        weights: A published file (mn04_as_mAP_432.pt, ...), which hears through `feature=efficientat`; none begins with
            random weights and standardised frames.

    Attributes:
        dim: Size of the embedding, D.
    """

    hears = "etude.audio.kaldi.EfficientATFront"
    axis = 2

    def __init__(self, bins: int, width: float = 0.4, weights: str | None = None) -> None:
        super().__init__()
        self.width, self.weights, self.raw = width, weights, weights is not None
        before = _eighths(16 * width)
        self.features = nn.ModuleList([Conv(1, before, 3, 2, swish=True)])
        for kernel, expanded, after, squeezed, swish, stride in LAYERS:
            sizes = (before, _eighths(expanded * width), _eighths(after * width))
            block = Inverted(*sizes, kernel, stride, squeezed, swish)
            self.features.append(block)
            before = _eighths(after * width)
        self.dim = 6 * before
        self.features.append(Conv(before, self.dim, 1, 1, swish=True))
        self.steps = len(self.features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                reach = module.kernel_size[0] ** 2 * module.out_channels / module.groups
                nn.init.normal_(module.weight, std=(2 / reach) ** 0.5)

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,) to a picture (B, 1, T, F) and its lengths."""
        return x[:, None], lengths

    def step(self, place: int, state: State) -> State:
        """Through the stem, a block or the last convolution."""
        return self.features[place](*state)

    def end(self, state: State) -> Tensor:
        """The mean over time and frequency, (B, D)."""
        x, lengths = state
        x = x * valid(lengths, x.shape[2])[:, None, :, None]
        return x.mean(3).sum(2) / lengths[:, None]

    def layers(self) -> list[nn.Module]:
        """Stem, blocks and last convolution, input to output."""
        return list(self.features)

    def initialise(self) -> None:
        """Read the published weights.

        Raises:
            UserError: The file is missing, or is of another network.
        """
        if self.weights is None:
            return
        found = read_tensors(Path(self.weights))
        turned = {k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in found.items() if k.startswith("features.")}
        try:
            self.load_state_dict(turned)
        except RuntimeError as error:
            raise UserError(
                f"backbone.weights={self.weights}: is no EfficientAT of backbone.width={self.width:g}; mn04 is 0.4 wide"
            ) from error


class Conv(nn.Sequential):
    """Convolution, batch norm and activation; what stands after a clip's end is not seen."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int, groups: int = 1, swish: bool | None = None
    ) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
            MaskedBatchNorm(after, eps=1e-3),
        )
        self.act = nn.Identity() if swish is None else nn.Hardswish() if swish else nn.ReLU()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, C, T, F), (B,) to (B, C', T', F'), (B,): halves rounded up with a stride of 2."""
        conv, norm = cast(nn.Conv2d, self[0]), self[1]
        if conv.kernel_size != (1, 1):  # a filter that reaches beyond the end
            x = x * valid(lengths, x.shape[2])[:, None, :, None]
        if conv.stride[0] == 2:
            lengths = (lengths + 1) // 2
        x = norm(conv(x), lengths)
        return self.act(x), lengths


class Inverted(nn.Module):
    """Inverted residual: expand, filter each channel, squeeze and excite, project (Sandler et al., 2018)."""

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
        """(B, C, T, F), (B,) to (B, C', T', F'), (B,)."""
        y, after = x, lengths
        for step in self.block:
            y, after = step(y, after)
        return (x + y if self.residual else y), after


class Concurrent(nn.Module):
    """The published files' place for squeeze-excitations, of which this network has one: over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([Squeeze(channels, _eighths(channels / 4))])

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the channels of (B, C, T, F) by what the valid frames hold on average."""
        mean = (x * valid(lengths, x.shape[2])[:, None, :, None]).mean(3).sum(2) / lengths[:, None]
        return x * self.conc_se_layers[0](mean)[..., None, None], lengths


class Squeeze(nn.Module):
    """Weights of channels (Hu et al., 2018): (B, C) to (B, C), in (0, 1)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """A bottleneck and a sigmoid."""
        return self.fc2(F.relu(self.fc1(x))).sigmoid()


def _eighths(channels: float) -> int:
    """The nearest multiple of eight that is not a tenth too small, at least eight."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
