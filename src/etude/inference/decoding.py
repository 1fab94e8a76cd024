"""Decoding of a sound file into the frames of its windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from etude.audio.decode import stream
from etude.audio.formats import DecodeError, TooLongError
from etude.audio.plausibility import SoundStatistics
from etude.data.readers import SILENT
from etude.inference.inputs import text
from etude.inference.windows import Plan, Window, windows

LIMIT = 16 << 20  # bytes of frames of a file that travel between processes; a quarter of an hour of most


@dataclass
class WindowedFile:
    """What was heard of a file.

    Args:
        path: The file.
        size, modified: Of the file, in bytes and in nanoseconds since 1970; -1 and 0 when there is none.
        seconds: Its length.
        windows: Its windows in order.
        reason: Why there are none; what was yielded before it was known does not count.
        suspect: Why it may not be music.
        plan: How it is cut, of a file that is too long to be held: it has no windows, and `parts` makes them.
    """

    path: Path
    size: int = -1
    modified: int = 0
    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    reason: str = ""
    suspect: str = ""
    plan: Plan | None = None

    def parts(self) -> Iterator[Window]:
        """Yield its windows; those of a long file are made meanwhile, and not kept here."""
        if self.plan is None:
            yield from self.windows
            return
        left = self.stream(self.plan)
        while True:
            with _one_thread():
                window = next(left, None)
            if window is None:
                return
            yield window

    def stream(self, plan: Plan, longest: float | None = None) -> Iterator[Window]:
        """Yield the windows of the file as it is decoded; fill in its length, and the reason where it ends early.

        Args:
            plan: How it is cut.
            longest: Length from which it is refused, in seconds.

        Raises:
            TooLongError: It is longer.
        """
        statistics, rate = SoundStatistics(), plan.front.rate
        samples, peak = 0, 0.0

        def counted() -> Iterator[np.ndarray]:
            nonlocal samples, peak
            for block in stream(self.path, rate, longest, statistics):
                samples, peak = samples + len(block), max(peak, float(np.abs(block).max()))
                yield block

        try:
            waiting: list[Window] = []
            for window in windows(counted(), plan):
                waiting.append(window)
                if samples / rate >= plan.shortest and peak >= SILENT:
                    yield from waiting
                    waiting = []
            self.seconds = samples / rate
            if self.seconds < plan.shortest:
                raise DecodeError(f"is too short ({self.seconds:.2f} s, at least {plan.shortest:g} s are needed)")
            if peak < SILENT:
                raise DecodeError("is silent")
            self.suspect = "; ".join(statistics.findings())
        except TooLongError:
            raise
        except OSError as error:
            self.reason = f"cannot be read ({error.strerror or error})"
        except MemoryError:
            self.reason = "is too long for the memory of this machine"
        except Exception as error:  # whatever a file of somebody's does, the others go on
            self.reason = " ".join(str(error).split()) or type(error).__name__
        # a table of files need not say the path twice
        self.reason = text(self.reason).removeprefix(f"{text(self.path)}: ")


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, by which it is known."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def load_windows(job: tuple[Path, Plan], limit: int | None = LIMIT) -> WindowedFile:
    """Decode a file, cut it, and make the frames of its windows.

    Args:
        job: The file, and how it is cut.
        limit: Bytes of frames above which the result has none and is `long`; None is for any length.
    """
    path, plan = job
    heard = WindowedFile(path, *file_stamp(path))
    try:
        heard.windows = list(heard.stream(plan, None if limit is None else _seconds(plan, limit)))
    except TooLongError:
        heard.plan = plan
    if heard.reason:
        heard.windows = []
    return heard


def _seconds(plan: Plan, limit: int) -> float:
    """Return the length of a sound whose windows have so many bytes of frames; at least that of one window."""
    fps = 2.0 if plan.front.sync == "beat" else plan.front.frames_per_second
    rate = fps * (plan.columns[1] - plan.columns[0]) * np.dtype(np.float16).itemsize / plan.hop
    return max(limit / rate, plan.window or 0.0, (plan.longest + 2) / fps)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread for frames, as processes do: more add up in another order, and the last digit differs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
