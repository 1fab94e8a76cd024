"""Start-up time of the command line, duration of short commands, and cost of a process for each job of a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np

from etude.benchmarks.timing import Requirement, Section, time_rounds
from etude.config.compose import conf_dir

ROUNDS = 3
HEAVY = ("torch", "pytorch_lightning", "librosa", "umap", "wandb")
JOBS = 8
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
OVERRIDES = ("backbone=lstm", "debug=fast", "data.crop=1.0", f"seed={','.join(map(str, range(JOBS)))}")


TORCH = "python -c 'import torch'"
PREDICT, TRAIN, EXPORT = "predict one file of 8 s", "train a small LSTM with debug=fast", "export a CNN to ONNX"
LIMITS = {PREDICT: 2.0, TRAIN: 3.0, EXPORT: 4.0}  # durations relative to the import of torch
SECONDS, RATE = 8, 22050


def benchmark_startup() -> list[Section]:
    """Measure `python train.py --help`, the packages that it imports, and short commands from start to end."""
    return [_time_help(), time_commands()]


def _time_help() -> Section:
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
    return section


def time_commands(rounds: int = ROUNDS) -> Section:
    """Measure short commands from start to end, relative to the import of torch, in one thread.

    Before, a CNN is trained for two steps on the demo clips, whose frames are then stored.

    Args:
        rounds: Number of rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, sound, numbers = Path(folder) / "run", Path(folder) / "sound.wav", count()
        _run_etude(folder, "train", "debug=fast", "outputs=.", f"hydra.run.dir={run}")
        _write_sound(sound)
        short = ("backbone=lstm", "backbone.hidden=16", "data.crop=1.0", "debug=fast", "outputs=.")
        functions: dict[str, Callable[[], object]] = {
            TORCH: lambda: _python("-c", "import torch"),
            PREDICT: lambda: _run_etude(folder, "predict", run, sound, "--out", f"predict{next(numbers)}"),
            TRAIN: lambda: _run_etude(folder, "train", *short, f"hydra.run.dir=train{next(numbers)}"),
        }
        if has_onnx := all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
            functions[EXPORT] = lambda: _run_etude(folder, "export", run, "--out", f"export{next(numbers)}")
        times = time_rounds(functions, rounds)
    section = Section("Short commands, from start to end; one thread", "s")
    section.rows = [(name, times.median(name), times.ratio(TORCH, name)) for name in functions]
    section.requirements = [
        Requirement(f"duration: {name} / {TORCH}", times.ratio(name, TORCH), LIMITS[name], at_least=False)
        for name in functions
        if name in LIMITS
    ]
    section.notes = [] if has_onnx else ["onnx, onnxscript or onnxruntime is not installed, so export was not timed"]
    return section


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
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True)
    return result.stderr


def _run_etude(folder: str, *arguments: object) -> None:
    """Run a command of Étude in a folder, in one thread."""
    command = [sys.executable, "-m", "etude", *map(str, arguments)]
    subprocess.run(command, cwd=folder, env=os.environ | ONE_THREAD, capture_output=True, check=True)


def _write_sound(path: Path) -> None:
    """Write a decaying chord as a WAV file."""
    import soundfile

    time = np.arange(SECONDS * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in (220.0, 277.18, 329.63))
    soundfile.write(path, 0.2 * chord * np.exp(-(time % 1)), RATE)


def _run_sweep(launcher: str, folder: str) -> None:
    """Run `python train.py -m` in one thread."""
    _run_etude(folder, "train", "-m", f"hydra/launcher={launcher}", *OVERRIDES)
