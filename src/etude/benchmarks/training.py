"""A training step as every contender takes it, and how much of it is work that the machine could not do faster.

Seconds say which network is faster here; operations beside the fastest the machine can multiply say how much faster it
could still become. The multiplication takes its turn among the contenders, because a machine's speed drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.base import Backbone
from etude.benchmarks.timing import Section, Timing, flops, rounds

CLASSES, SIDE = 10, 2048
Clips = tuple[Tensor, Tensor, Tensor]  # frames (B, T, F), valid frames (B,), classes (B,)


class Classifier(nn.Module):
    """A backbone and one linear layer.

    Args:
        backbone: Frames to embedding.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.dim, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, F) and valid frames (B,) to scores (B, K)."""
        return self.head(self.backbone(x, lengths))


def clips(lengths: Sequence[int] | Tensor, bins: int) -> Clips:
    """A batch of noise, padded to the longest."""
    lengths = torch.as_tensor(lengths)
    x = torch.randn(len(lengths), int(lengths.max()), bins)
    return x, lengths, torch.randint(CLASSES, lengths.shape)


def steps(net: nn.Module, batches: Sequence[Clips]) -> Callable[[], None]:
    """Training steps, one a batch: forward, cross-entropy, backward, AdamW.

    Args:
        net: Frames (B, T, F) and valid frames (B,) to scores (B, K). What of it needs no gradient does not learn.
        batches: What it learns from.
    """
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-4, fused=True)
    net.train()

    def run() -> None:
        for x, lengths, classes in batches:
            F.cross_entropy(net(x, lengths), classes).backward()
            optimiser.step()
            optimiser.zero_grad()

    return run


def compare(
    title: str,
    contenders: dict[str, Callable[[], object]],
    count: int,
    batches: int = 1,
    clips_of: int | None = None,
) -> tuple[Section, Timing]:
    """Time training steps in turns with the multiplication of two large matrices.

    Args:
        title: Of the table.
        contenders: By name, what runs one step a batch.
        count: Rounds.
        batches: How many batches each of them goes through.
        clips_of: Clips in a batch, for a table in clips/s; none gives one in ms a step.

    Returns:
        The table, without bars, and the times.
    """
    matrix, into, product = torch.randn(SIDE, SIDE), torch.empty(SIDE, SIDE), "the multiplication"
    times = rounds({**contenders, product: lambda: torch.mm(matrix, matrix, out=into)}, count)
    work = {name: flops(function) for name, function in contenders.items()}
    section = Section(title, "clips/s" if clips_of else "ms a step")
    first = next(iter(contenders))
    for name in contenders:
        seconds = times.median(name) / batches
        section.rows.append((name, clips_of / seconds if clips_of else 1e3 * seconds, times.ratio(first, name)))
    section.further = {
        "GFLOP a step": [1e-9 * work[name] / batches for name in contenders],
        "% of peak": [100 * work[name] / (2 * SIDE**3) * times.ratio(product, name) for name in contenders],
    }
    return section, times
