"""Timing of implementations, required values, and counts of operations and memory.

The speed of a shared machine can change by a factor of two within minutes. Therefore each round measures every
implementation once. A ratio of two implementations is computed in each round, and its median over rounds is reported.

Training steps of networks are also compared with the fastest matrix product of the machine. The number of operations
relative to this product shows how much faster a network could become.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from etude.backbones.base import Backbone

CLASSES, SIDE = 10, 2048
RandomBatch = tuple[Tensor, Tensor, Tensor]  # frames (B, T, F), valid frames (B,), classes (B,)


@dataclass
class Timing:
    """Durations of each implementation in each round.

    Args:
        names: Names of the implementations.
        seconds: Durations (rounds, implementations).
    """

    names: list[str]
    seconds: np.ndarray

    def median(self, name: str) -> float:
        """Return the median duration of an implementation in seconds."""
        return float(np.median(self.seconds[:, self.names.index(name)]))

    def ratio(self, slow: str, fast: str) -> float:
        """Return the duration of `slow` divided by the duration of `fast`, as the median over rounds."""
        numerator, denominator = (self.seconds[:, self.names.index(name)] for name in (slow, fast))
        return float(np.median(numerator / denominator))


@dataclass(frozen=True)
class Requirement:
    """Limit for a measured value.

    Args:
        name: Description of the comparison.
        value: Measured value.
        limit: Smallest or largest allowed value.
        at_least: Whether the limit is the smallest allowed value.
        unit: Unit of the value, such as dB. The unit of a ratio is ×.
    """

    name: str
    value: float
    limit: float
    at_least: bool = True
    unit: str = "×"

    @property
    def met(self) -> bool:
        """Whether the requirement is met. NaN does not meet it."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Section:
    """Table of implementations with their requirements.

    Args:
        title: Title with the timed operation and its data.
        unit: Unit of the values, such as ms or clips/s.
        rows: Name, value and ratio to the first row.
        requirements: Requirements.
        notes: Notes, such as implementations that could not be timed.
        columns: Further columns by title, with a number for each row.
    """

    title: str
    unit: str
    rows: list[tuple[str, float, float]] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=dict)


def time_rounds(functions: dict[str, Callable[[], object]], count: int, warm_up: bool = True) -> Timing:
    """Measure the duration of each function once in every round.

    Args:
        functions: Functions by name.
        count: Number of rounds.
        warm_up: Whether to call each function once before the first round.
    """
    for function in functions.values() if warm_up else ():
        function()
    seconds = np.empty((count, len(functions)))
    for row in seconds:
        for i, function in enumerate(functions.values()):
            start = time.perf_counter()
            function()
            row[i] = time.perf_counter() - start
    return Timing(list(functions), seconds)


def count_flops(function: Callable[[], object]) -> int:
    """Count multiplications and additions of a call, in matrix products, convolutions, attention and LSTMs."""
    onednn = {  # torch has no formulas for these operators
        torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
        torch.ops.aten.mkldnn_rnn_layer_backward: lambda *shapes, **settings: 2 * _lstm_flops(*shapes),
    }
    with FlopCounterMode(display=False, custom_mapping=onednn) as counter:
        function()
    return counter.get_total_flops()


def _lstm_flops(x: Any, weights: Any, recurrent: Any, *others: Any, **settings: Any) -> int:
    """Return the operations of one layer from the shapes of its input (T, B, C) and weights (4 H, C) and (4 H, H)."""
    return 2 * x[0] * x[1] * weights[0] * (weights[1] + recurrent[1])


def peak_memory(function: Callable[[], object]) -> int:
    """Return the peak memory in bytes that a call uses in torch's allocator.

    The value includes all tensors and the buffers of torch's kernels, but no earlier allocations. Unlike the
    size of the process, the value is reproducible and does not depend on earlier calls.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler writes two lines to stderr
    with TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            function()
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak


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


def to_plain_values(sections: dict[str, list[Section]]) -> dict[str, object]:
    """Return sections as plain values for JSON."""
    return {
        name: [
            {**asdict(section), "requirements": [{**asdict(r), "met": r.met} for r in section.requirements]}
            for section in group
        ]
        for name, group in sections.items()
    }


def print_sections(sections: list[Section]) -> None:
    """Print sections as tables, each with its requirements and notes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for section in sections:
        table = Table(
            title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("")
        table.add_column(section.unit, justify="right")
        table.add_column("speed", justify="right")
        for title in section.columns:
            table.add_column(title, justify="right")
        for row, (name, value, ratio) in enumerate(section.rows):
            further = (_format_value(column[row]) for column in section.columns.values())
            table.add_row(name, _format_value(value), f"{ratio:.2f} ×", *further)
        console.print(table)
        for requirement in section.requirements:
            verdict, limit = ("met" if requirement.met else "NOT MET"), f"{requirement.limit:g}{requirement.unit}"
            measured = f"{requirement.value:.3g}{requirement.unit}"
            sign = "at least" if requirement.at_least else "at most"
            console.print(f"  {verdict:<7} {requirement.name}: {measured} ({sign} {limit})")
        for note in section.notes:
            console.print(f"  note: {note}")
        console.print()


def _format_value(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
