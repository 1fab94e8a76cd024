"""Readers and jobs for processes of their own: numpy alone, so that a worker is there soon."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def plain(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """A spectrogram."""
    import soundfile

    audio = soundfile.read(path, dtype="float32")[0]
    windows = np.lib.stride_tricks.sliding_window_view(audio, 512)[:: front.hop_length]
    return np.log1p(np.abs(np.fft.rfft(windows))[:, : front.bins]).astype(np.float32)


def maybe(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """Raises OSError for what is not there."""
    path.stat()
    return plain(path, front, shortest)


def counted(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """Says which file it reads; at the sixth, it waits for the other process."""
    with (path.parent / "calls").open("a") as file:
        file.write(f"{path.stem}\n")
    if path.stem == "005":
        wait((path.parent / "both").exists)
    return plain(path, front, shortest)


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something happens in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def square(number: int) -> int:
    return number * number


def origin(number: int) -> tuple[int, int, bool]:
    """The process, the one that it was forked from, and whether it had its imports before it was asked for anything."""
    return os.getpid(), os.getppid(), "torch" in sys.modules


LAST = 130  # job that raises


def noted(job: tuple[str, int]) -> tuple[int, int]:
    """Says in a file which job it is; its number, and how many threads it has."""
    import torch

    from etude.errors import UserError

    name, number = job
    with Path(name).open("a") as file:
        file.write(f"{number}\n")
    if number == LAST:
        raise UserError(f"job {number} is the user's to mend")
    return number, torch.get_num_threads()


def fails(number: int) -> int:
    if number == 13:
        raise LookupError("job 13")
    return number


def dies(number: int) -> int:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
