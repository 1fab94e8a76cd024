"""Start-up time of the command line, and cost of a process for each job of a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from etude.benchmarks.timing import Bar, Section, rounds
from etude.config.compose import conf_dir

ROUNDS = 3
HEAVY = ("torch", "pytorch_lightning", "librosa", "umap", "wandb")
JOBS = 8
LINE = ("backbone=lstm", "debug=fast", "data.crop=1.0", f"seed={','.join(map(str, range(JOBS)))}")


def run() -> list[Section]:
    """Time `python train.py --help`, and list the heavy packages that it imports."""
    script = conf_dir().parent / "train.py"  # there is none beside an installed package
    arguments = [str(script), "--help"] if script.is_file() else ["-m", "etude", "train", "--help"]
    name = f"python {' '.join(arguments)}".replace(str(script), script.name)
    times = rounds({name: lambda: _python(*arguments)}, ROUNDS)
    seconds = times.median(name)
    found = heavy(_python("-X", "importtime", *arguments))
    section = Section("Start-up", "ms", [(name, 1e3 * seconds, 1.0)])
    section.bars = [
        Bar(name, seconds, 1, False, " s"),
        Bar(f"of {', '.join(HEAVY)} imported", len(found), 0, False, ""),
    ]
    section.notes = [f"{module} is imported" for module in found]
    return [section]


def run_sweeps() -> list[Section]:
    """Time a sweep of tiny jobs with both launchers, from the command to its tables."""
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


def heavy(listing: str) -> list[str]:
    """Return the heavy packages in the output of `python -X importtime`."""
    imported = {line.rpartition("|")[2].strip() for line in listing.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in imported]


def _python(*arguments: str) -> str:
    """Run another interpreter and return its standard error."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stderr


def _sweep(launcher: str, folder: str) -> None:
    """Run `python train.py -m` in one thread."""
    command = [sys.executable, "-m", "etude", "train", "-m", f"hydra/launcher={launcher}", *LINE]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
