"""Training steps of compared networks, and their use of the machine's peak performance.

Durations show which network is faster on this machine. The number of operations relative to the fastest matrix product
of the machine shows how much faster a network could become. Each round measures the matrix product and all networks,
because the speed of a machine changes over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.base import Backbone
from etude.benchmarks.timing import Section, Timing, count_flops, time_rounds

CLASSES, SIDE = 10, 2048
RandomBatch = tuple[Tensor, Tensor, Tensor]  # frames (B, T, F), valid frames (B,), classes (B,)


class Classifier(nn.Module):
    """Backbone with one linear layer.

    Args:
        backbone: Backbone.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.dim, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return scores (B, K) of frames (B, T, F) and valid frames (B,)."""
        return self.head(self.backbone(x, lengths))


def random_batch(lengths: Sequence[int] | Tensor, bins: int) -> RandomBatch:
    """Return a batch of noise, padded to the longest clip."""
    lengths = torch.as_tensor(lengths)
    x = torch.randn(len(lengths), int(lengths.max()), bins)
    return x, lengths, torch.randint(CLASSES, lengths.shape)


def training_steps(net: nn.Module, batches: Sequence[RandomBatch]) -> Callable[[], None]:
    """Return a function that runs a training step per batch, with cross-entropy and AdamW.

    Args:
        net: Network that takes frames (B, T, F) and valid frames (B,), and returns scores (B, K). Parameters without
            gradient are not trained.
        batches: Training data.
    """
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-4, fused=True)
    net.train()

    def train() -> None:
        for x, lengths, classes in batches:
            F.cross_entropy(net(x, lengths), classes).backward()
            optimiser.step()
            optimiser.zero_grad()

    return train


def compare_training(
    title: str,
    functions: dict[str, Callable[[], object]],
    count: int,
    n_batches: int = 1,
    clips_per_batch: int | None = None,
) -> tuple[Section, Timing]:
    """Measure training steps and the product of two large matrices in every round.

    Args:
        title: Title of the table.
        functions: Functions by name. Each runs one training step per batch.
        count: Number of rounds.
        n_batches: Number of batches of each function.
        clips_per_batch: Clips in a batch, for a table in clips/s. None gives a table in ms per step.

    Returns:
        The table without requirements, and the durations.
    """
    matrix, result, product = torch.randn(SIDE, SIDE), torch.empty(SIDE, SIDE), "matrix product"
    times = time_rounds({**functions, product: lambda: torch.mm(matrix, matrix, out=result)}, count)
    flops = {name: count_flops(function) for name, function in functions.items()}
    section = Section(title, "clips/s" if clips_per_batch else "ms per step")
    first = next(iter(functions))
    for name in functions:
        seconds = times.median(name) / n_batches
        value = clips_per_batch / seconds if clips_per_batch else 1e3 * seconds
        section.rows.append((name, value, times.ratio(first, name)))
    section.columns = {
        "GFLOP per step": [1e-9 * flops[name] / n_batches for name in functions],
        "% of peak": [100 * flops[name] / (2 * SIDE**3) * times.ratio(product, name) for name in functions],
    }
    return section, times
