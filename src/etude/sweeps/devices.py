"""Which GPUs a job gets: those that nobody has, as many as its trainer asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from etude.errors import UserError

ON_GPUS = ("auto", "gpu", "cuda")


def visible() -> list[str]:
    """The GPUs of this machine that a process may use, without waking any of them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name.strip() for name in said.split(",") if name.strip() and name.strip() != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(line for line in listing.splitlines() if line.startswith("GPU"))]


class Pool:
    """GPUs that jobs share out.

    Args:
        names: Of the GPUs, as CUDA_VISIBLE_DEVICES has them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.taken: dict[int, list[str]] = {}

    def wanted(self, trainer: Mapping[str, Any]) -> int:
        """How many GPUs a trainer needs, 0 where it trains on a CPU.

        Raises:
            UserError: There are not as many.
        """
        if not self.names or trainer.get("accelerator", "auto") not in ON_GPUS:
            return 0
        devices = trainer.get("devices", "auto")
        if isinstance(devices, list):
            raise UserError("trainer.devices: a sweep shares the GPUs out; say how many a job gets, not which")
        count = len(self.names) if devices in ("auto", -1, "-1") else int(devices)
        if count > len(self.names):
            raise UserError(f"trainer.devices={count}: there are {len(self.names)} GPUs here; ask for fewer")
        return count

    def take(self, number: int, count: int) -> list[str] | None:
        """Give a job its GPUs; none when not enough are free."""
        busy = {name for names in self.taken.values() for name in names}
        free = [name for name in self.names if name not in busy]
        if len(free) < count:
            return None
        self.taken[number] = free[:count]
        return self.taken[number]

    def give(self, number: int) -> None:
        """Take a job's GPUs back."""
        self.taken.pop(number, None)
