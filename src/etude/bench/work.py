"""What a computation costs besides time: operations, and memory at its peak."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


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
