"""Readers and jobs for worker processes, which import only numpy, and interruptions at a given call."""

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
    """Return a spectrogram."""
    import soundfile

    audio = soundfile.read(path, dtype="float32")[0]
    windows = np.lib.stride_tricks.sliding_window_view(audio, 512)[:: front.hop_length]
    return np.log1p(np.abs(np.fft.rfft(windows))[:, : front.bins]).astype(np.float32)


def maybe(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """Return a spectrogram, or raise OSError if the file is missing."""
    path.stat()
    return plain(path, front, shortest)


def counted(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """Record the file name and return a spectrogram; wait for the other process at the sixth file."""
    with (path.parent / "calls").open("a") as file:
        file.write(f"{path.stem}\n")
    if path.stem == "005":
        wait((path.parent / "both").exists)
    return plain(path, front, shortest)


def interrupt_call(method: str, step: int, monkeypatch: Any) -> None:
    """Raise KeyboardInterrupt before the n-th call of a function of os; `monkeypatch.undo` restores it."""
    real, calls = getattr(os, method), 0

    def stopping(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(os, method, stopping)


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Return whether a condition becomes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def square(number: int) -> int:
    return number * number


def origin(number: int) -> tuple[int, int, bool]:
    """Return the process id, the id of its parent, and whether its imports preceded the first job."""
    return os.getpid(), os.getppid(), "torch" in sys.modules


LAST = 130  # job that raises


def noted(job: tuple[str, int]) -> tuple[int, int]:
    """Record the number of the job in a file; return it with the number of threads."""
    import torch

    from etude.errors import UserError

    name, number = job
    with Path(name).open("a") as file:
        file.write(f"{number}\n")
    if number == LAST:
        raise UserError(f"job {number} must be repaired")
    return number, torch.get_num_threads()


def fails(number: int) -> int:
    if number == 13:
        raise LookupError("job 13")
    return number


def dies(number: int) -> int:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
