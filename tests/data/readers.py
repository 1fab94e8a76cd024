"""Readers and jobs for worker processes, which import only numpy, and interruption of a function call."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def read_spectrogram(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """Return a spectrogram."""
    import soundfile

    audio = soundfile.read(path, dtype="float32")[0]
    windows = np.lib.stride_tricks.sliding_window_view(audio, 512)[:: front.hop_length]
    return np.log1p(np.abs(np.fft.rfft(windows))[:, : front.bins]).astype(np.float32)


def read_existing_spectrogram(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """Return a spectrogram, or raise OSError if the file is missing."""
    path.stat()
    return read_spectrogram(path, front, shortest)


def read_and_record(path: Path, front: Any, shortest: float = 0.0) -> np.ndarray:
    """Record the file name and return a spectrogram, after waiting for the other process at the sixth file."""
    with (path.parent / "calls").open("a") as file:
        file.write(f"{path.stem}\n")
    if path.stem == "005":
        wait_until((path.parent / "both").exists)
    return read_spectrogram(path, front, shortest)


def interrupt_call(method: str, step: int, monkeypatch: Any) -> None:
    """Raise KeyboardInterrupt before the n-th call of a function of os, until `monkeypatch.undo`."""
    original, calls = getattr(os, method), 0

    def interrupted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(os, method, interrupted)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Return whether a condition becomes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def square(number: int) -> int:
    return number * number


def describe_process(number: int) -> tuple[int, int, bool]:
    """Return the process id, the id of its parent, and whether its frozen imports preceded the first job."""
    return os.getpid(), os.getppid(), "torch" in sys.modules and gc.get_freeze_count() > 100_000


LAST = 130  # job that raises


def record_job(job: tuple[str, int]) -> tuple[int, int]:
    """Record the number of the job in a file, and return it with the number of threads."""
    import torch

    from etude.errors import UserError

    name, number = job
    with Path(name).open("a") as file:
        file.write(f"{number}\n")
    if number == LAST:
        raise UserError(f"job {number} must be repaired")
    return number, torch.get_num_threads()


def raise_at_13(number: int) -> int:
    if number == 13:
        raise LookupError("job 13")
    return number


def exit_at_13(number: int) -> int:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
