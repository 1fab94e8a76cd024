"""Start-up time of the command line, and cost of a process for each job of a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from etude.benchmarks.timing import Requirement, Section, time_rounds
from etude.config.compose import conf_dir

ROUNDS = 3
HEAVY = ("torch", "pytorch_lightning", "librosa", "umap", "wandb")
JOBS = 8
OVERRIDES = ("backbone=lstm", "debug=fast", "data.crop=1.0", f"seed={','.join(map(str, range(JOBS)))}")


def benchmark_startup() -> list[Section]:
    """Measure the time of `python train.py --help`, and list the heavy packages that it imports."""
    script = conf_dir().parent / "train.py"  # an installed package has no script
    arguments = [str(script), "--help"] if script.is_file() else ["-m", "etude", "train", "--help"]
    name = f"python {' '.join(arguments)}".replace(str(script), script.name)
    times = time_rounds({name: lambda: _python(*arguments)}, ROUNDS)
    seconds = times.median(name)
    imported = heavy_imports(_python("-X", "importtime", *arguments))
    section = Section("Start-up", "ms", [(name, 1e3 * seconds, 1.0)])
    section.requirements = [
        Requirement(name, seconds, 1, False, " s"),
        Requirement(f"number of imported packages among {', '.join(HEAVY)}", len(imported), 0, False, ""),
    ]
    section.notes = [f"{module} is imported" for module in imported]
    return [section]


def benchmark_sweeps() -> list[Section]:
    """Measure the time of a sweep of tiny jobs with both launchers, from the command to its tables."""
    names = {"basic": "one process for all jobs", "isolated": "a process per job"}
    with tempfile.TemporaryDirectory() as folder:
        functions: dict[str, Callable[[], object]] = {
            title: partial(_run_sweep, name, folder) for name, title in names.items()
        }
        times = time_rounds(functions, ROUNDS)
    single, separate = names.values()
    section = Section(f"Sweep of {JOBS} tiny jobs, from the command to its tables", "s")
    section.rows = [(name, times.median(name), times.ratio(single, name)) for name in names.values()]
    section.requirements = [Requirement(f"duration: {separate} / {single}", times.ratio(separate, single), 2, False)]
    return [section]


def heavy_imports(listing: str) -> list[str]:
    """Return the heavy packages in the output of `python -X importtime`."""
    imported = {line.rpartition("|")[2].strip() for line in listing.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in imported]


def _python(*arguments: str) -> str:
    """Run another interpreter and return its standard error."""
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return result.stderr


def _run_sweep(launcher: str, folder: str) -> None:
    """Run `python train.py -m` in one thread."""
    command = [sys.executable, "-m", "etude", "train", "-m", f"hydra/launcher={launcher}", *OVERRIDES]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
