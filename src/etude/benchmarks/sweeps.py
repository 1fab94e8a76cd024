"""What it costs to give each job of a sweep a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from etude.benchmarks.timing import Bar, Section, rounds

JOBS = 8
ROUNDS = 3
LINE = ("backbone=lstm", "debug=fast", "data.crop=1.0", f"seed={','.join(map(str, range(JOBS)))}")


def run() -> list[Section]:
    """Time a sweep of tiny jobs by both launchers, to its tables."""
    names = {"basic": "all in one process", "isolated": "a process each"}
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Callable[[], object]] = {
            title: partial(_sweep, name, folder) for name, title in names.items()
        }
        times = rounds(contenders, ROUNDS)
    one, each = names.values()
    section = Section(f"A sweep of {JOBS} tiny jobs, from the command to its tables", "s")
    section.rows = [(name, times.median(name), times.ratio(one, name)) for name in names.values()]
    section.bars = [Bar(f"{each} against {one}", times.ratio(each, one), 2, False)]
    return [section]


def _sweep(launcher: str, folder: str) -> None:
    """`python train.py -m`, in one thread."""
    command = [sys.executable, "-m", "etude", "train", "-m", f"hydra/launcher={launcher}", *LINE]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
