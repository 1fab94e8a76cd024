"""Record of a run: command, versions, machine and data."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.groups_help import program
from etude.system.machine import usable_cores

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData


FAULT = "ETUDE_FAULT"
"""Environment variable of a job of a sweep: the file in which it leaves the error that ended it."""
PACKAGES = (
    "etude",
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "timm",
    "torchmetrics",
    "librosa",
    "numpy",
    "scikit-learn",
)


def environment() -> dict[str, Any]:
    """Return the command, the git commit of the working directory, versions, and the machine."""
    from importlib.metadata import version  # heavy: email

    return {
        "command": command(),
        "git": git(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": hardware(),
    }


def command() -> str:
    """Return the command line that repeats the run; of a job of a sweep, without its position in the sweep."""
    words = sys.argv[1:]
    if FAULT in os.environ:
        words = [word for word in words if not word.startswith(("--run", "hydra.", "hydra/", "sweep=", "sweep."))]
    return f"{program()} {shlex.join(words)}".rstrip()


def git() -> dict[str, Any]:
    """Return the commit of the working directory and whether it has changes.

    Returns:
        `commit` and `dirty`, and where either is unknown `reason`: no git, no repository, or what git says of it.
    """
    known: dict[str, Any] = {"commit": None, "dirty": None}
    try:
        known["commit"] = _git("rev-parse", "HEAD")
        known["dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except FileNotFoundError:
        known["reason"] = "git is not installed"
    except subprocess.TimeoutExpired as error:
        known["reason"] = f"git did not answer in {error.timeout:g} s"
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        known["reason"] = said[0].removeprefix("fatal: ") if said else f"git ended with status {error.returncode}"
    except OSError as error:
        known["reason"] = f"git cannot be started: {error.strerror}"
    return known


def _git(*arguments: str) -> str:
    """Return what git prints; its messages are in English whatever the user's language is."""
    return subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=10,
        env=os.environ | {"LC_ALL": "C"},
    ).stdout.strip()


def hardware() -> dict[str, Any]:
    """Return the processor, cores, memory and accelerator."""
    import torch

    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        name = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gb": round(pages / 2**30, 1),
        "accelerator": gpu,
    }


def dataset(data: MusicData) -> dict[str, Any]:
    """Return the content of the data module, for the data card of a report."""
    from etude.data.splits import SPLITS, UNUSED, group_codes, split_hash  # heavy: numpy

    index, source, front = data.pack.index, data.source, data.feature.front
    groups, used = group_codes(index), data.splits != UNUSED
    return {
        "name": source.name,
        "title": source.title,
        "card": source.card,
        "note": source.note,
        "hash": data.pack.manifest["sha256"],
        "labels": hashlib.sha256(index[["id", "group", *data.targets]].to_csv(index=False).encode()).hexdigest(),
        "clips": len(index),
        "seconds": None if front.sync == "beat" else round(int(index["frames"].sum()) / front.frames_per_second, 1),
        "licences": source.extra.get("licences", {}),
        "splits": {
            part: {"clips": int((data.splits == part).sum()), "groups": len(set(groups[data.splits == part]))}
            for part in SPLITS
        },
        "disjoint": len(set(zip(groups[used], data.splits[used], strict=True))) == len(set(groups[used])),
        "fold": data.split.fold,
        "folds": data.split.folds if data.split.fold is not None else None,
        "split_hash": split_hash(index["id"].to_numpy(), data.splits),
    }
