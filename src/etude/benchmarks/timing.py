"""Timing of contenders in turns, their bars, and their cost in operations and memory.

The speed of a shared machine drifts by a factor of two within minutes. So contenders take turns, a round of all of them
at a time, and a ratio is the median over rounds of the ratios within a round.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Timing:
    """Seconds of each contender in each round.

    Args:
        names: Of the contenders.
        seconds: (rounds, contenders).
    """

    names: list[str]
    seconds: np.ndarray

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return float(np.median(self.seconds[:, self.names.index(name)]))

    def ratio(self, slow: str, fast: str) -> float:
        """How many times as long `slow` takes as `fast`."""
        first, second = (self.seconds[:, self.names.index(name)] for name in (slow, fast))
        return float(np.median(first / second))


@dataclass(frozen=True)
class Bar:
    """A limit, and what was measured against it.

    Args:
        name: What is compared.
        value: What was measured.
        limit: What it must reach, or must not exceed.
        at_least: Whether more is better.
        unit: Behind the numbers, such as dB; a ratio has ×.
    """

    name: str
    value: float
    limit: float
    at_least: bool = True
    unit: str = "×"

    @property
    def holds(self) -> bool:
        """Whether the bar holds; a value that is not a number does not."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Section:
    """A table of contenders and its bars.

    Args:
        title: What was timed, on what.
        unit: Of the values, such as ms or clips/s.
        rows: Name, value and ratio to the first row.
        bars: Limits.
        notes: What could not be timed, and why.
        further: More columns by title, a number for each row.
    """

    title: str
    unit: str
    rows: list[tuple[str, float, float]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    further: dict[str, list[float]] = field(default_factory=dict)


def rounds(contenders: dict[str, Callable[[], object]], count: int) -> Timing:
    """Time contenders in turns.

    Args:
        contenders: Functions by name. Each is called once before, untimed.
        count: Rounds.
    """
    for function in contenders.values():
        function()
    seconds = np.empty((count, len(contenders)))
    for row in seconds:
        for place, function in enumerate(contenders.values()):
            begun = time.perf_counter()
            function()
            row[place] = time.perf_counter() - begun
    return Timing(list(contenders), seconds)


def flops(function: Callable[[], object]) -> int:
    """Multiplications and additions of what a function runs, in matrix products, convolutions, attention and LSTMs."""
    onednn = {
        torch.ops.aten.mkldnn_rnn_layer: _lstm,  # which torch's own counter does not know
        torch.ops.aten.mkldnn_rnn_layer_backward: lambda *shapes, **settings: 2 * _lstm(*shapes),
    }
    with FlopCounterMode(display=False, custom_mapping=onednn) as counter:
        function()
    return counter.get_total_flops()


def _lstm(x: Any, weights: Any, recurrent: Any, *others: Any, **settings: Any) -> int:
    """Of one layer, from the shapes of its input (T, B, C) and of its weights (4 H, C) and (4 H, H)."""
    return 2 * x[0] * x[1] * weights[0] * (weights[1] + recurrent[1])


def peak(function: Callable[[], object]) -> int:
    """The most bytes that a function holds at once in memory which it took from torch itself.

    That is every tensor, and the buffers of torch's own kernels. What was there before does not count. Unlike the size
    of the process it is the same each time, and nothing that ran before can hide it.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler says on standard error that it began and ended
    with TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            function()
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def plain(sections: dict[str, list[Section]]) -> dict[str, object]:
    """Return sections as plain values, for JSON."""
    return {
        name: [
            {**asdict(section), "bars": [{**asdict(bar), "holds": bar.holds} for bar in section.bars]}
            for section in several
        ]
        for name, several in sections.items()
    }


def print_sections(sections: list[Section]) -> None:
    """Print sections as tables, each with its bars and notes."""
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
        for title in section.further:
            table.add_column(title, justify="right")
        for row, (name, value, ratio) in enumerate(section.rows):
            further = (_short(column[row]) for column in section.further.values())
            table.add_row(name, _short(value), f"{ratio:.2f} ×", *further)
        console.print(table)
        for bar in section.bars:
            verdict, sign = ("holds" if bar.holds else "DOES NOT HOLD"), ("at least" if bar.at_least else "at most")
            console.print(f"  {verdict:<13} {bar.name}: {bar.value:.3g}{bar.unit} ({sign} {bar.limit:g}{bar.unit})")
        for note in section.notes:
            console.print(f"  note: {note}")
        console.print()


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
