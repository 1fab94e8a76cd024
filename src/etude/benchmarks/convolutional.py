"""The convolutional network against the textbook's: convolution, batch norm, ReLU, then pooling, channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from etude.backbones.base import valid
from etude.backbones.cnn import CNN
from etude.benchmarks.timing import Bar, Section
from etude.benchmarks.training import CLASSES, Classifier, clips, compare, steps

BINS, FRAMES, CHANNELS, BATCH, ROUNDS = 128, 1293, (32, 64, 128, 256), 4, 3
PLAIN, OURS, FLAT = "plain: NCHW, ReLU before pooling", "ours: channels last, pooling before ReLU", "plain, flattened"


class Plain(nn.Module):
    """The same network in torch's own modules, in their usual order and layout.

    Args:
        twin: Whose weights it takes.
        flat: Whether all that is left goes into a linear layer as wide as the embedding, in place of a mean over time
            and frequency; it then takes clips of one length alone.
    """

    def __init__(self, twin: Classifier, flat: bool = False) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for block in twin.backbone.blocks:  # type: ignore[union-attr]
            norm = nn.BatchNorm2d(len(block.norm.weight))  # type: ignore[union-attr]
            norm.load_state_dict(block.norm.state_dict())  # type: ignore[union-attr]
            parts += [deepcopy(block.conv), norm, nn.ReLU(), deepcopy(block.pool)]  # type: ignore[union-attr]
        self.blocks, self.halvings = nn.Sequential(*parts), len(parts) // 4
        left = twin.backbone.dim * (FRAMES >> self.halvings) * (BINS >> self.halvings)
        self.flat = nn.Sequential(nn.Flatten(), nn.Linear(left, twin.backbone.dim)) if flat else None
        self.head = nn.Linear(twin.backbone.dim, CLASSES)
        self.head.load_state_dict(twin.head.state_dict())
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, F) and valid frames (B,) to scores (B, K)."""
        x = self.blocks(x[:, None])
        if self.flat is not None:
            return self.head(self.flat(x))
        lengths = lengths >> self.halvings
        mask = valid(lengths, x.shape[2])[:, None, :, None]
        return self.head((x * mask).mean(3).sum(2) / lengths[:, None])


def section() -> Section:
    """Time a training step of whole clips of one length."""
    ours = Classifier(CNN(BINS, CHANNELS, dropout=0.0))
    for block in ours.backbone.blocks:  # type: ignore[union-attr]
        nn.init.uniform_(block.norm.weight, 0.5, 1.5)  # type: ignore[union-attr]
        nn.init.uniform_(block.norm.bias, -0.5, 0.5)  # type: ignore[union-attr]
    plain, flat = Plain(ours), Plain(ours, flat=True)
    batch = clips([FRAMES] * BATCH, BINS)
    with torch.no_grad():
        apart = float((ours.eval()(*batch[:2]) - plain.eval()(*batch[:2])).abs().max())
    contenders: dict[str, Callable[[], object]] = {
        PLAIN: steps(plain, [batch]),
        OURS: steps(ours, [batch]),
        FLAT: steps(flat, [batch]),
    }
    widths = "-".join(map(str, CHANNELS))
    title = f"CNN {widths}, {BINS} x {FRAMES}, a training step of {BATCH} clips; one thread"
    made, times = compare(title, contenders, ROUNDS, clips_of=BATCH)
    made.bars = [
        Bar("ours against plain", times.ratio(PLAIN, OURS), 1.25),
        Bar("largest difference of a score from plain", apart, 1e-5, False, ""),
    ]
    return made
