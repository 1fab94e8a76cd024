"""How soon the command line answers, and that nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys

from etude.benchmarks.timing import Bar, Section, rounds
from etude.config.compose import conf_dir

ROUNDS = 3
HEAVY = ("torch", "pytorch_lightning", "librosa", "umap", "wandb")


def run() -> list[Section]:
    """Time `python train.py --help`."""
    door = conf_dir().parent / "train.py"  # there is none beside an installed package
    words = [str(door), "--help"] if door.is_file() else ["-m", "etude", "train", "--help"]
    name = f"python {' '.join(words)}".replace(str(door), door.name)
    times = rounds({name: lambda: _python(*words)}, ROUNDS)
    seconds = times.median(name)
    found = heavy(_python("-X", "importtime", *words))
    section = Section("Start-up", "ms", [(name, 1e3 * seconds, 1.0)])
    section.bars = [
        Bar(name, seconds, 1, False, " s"),
        Bar(f"of {', '.join(HEAVY)} imported", len(found), 0, False, ""),
    ]
    section.notes = [f"{module} is imported" for module in found]
    return [section]


def heavy(listing: str) -> list[str]:
    """Which heavy packages stand in what `python -X importtime` says."""
    imported = {line.rpartition("|")[2].strip() for line in listing.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in imported]


def _python(*words: str) -> str:
    """What another interpreter writes to its standard error."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    return done.stderr
