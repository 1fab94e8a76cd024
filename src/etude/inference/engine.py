"""Prediction of files: decoding in worker processes, batches in this one.

Results come in the order of the files. Only a few files are under way, and of each only the frames of its windows, so
that memory does not grow with their number. A batch takes windows of as many files as fill it. A file of more than a
quarter of an hour or so is decoded in this process, and its windows are predicted while it is, so that memory does not
grow with its length either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.audio.decode import stream
from etude.audio.formats import DecodeError, TooLongError
from etude.audio.plausibility import SoundStatistics
from etude.data import workers as worker_processes
from etude.data.audio_files import as_text
from etude.data.readers import SILENT
from etude.errors import one_line_message
from etude.files.journal import file_stamp
from etude.inference.windows import Window, WindowPlan, windows

if TYPE_CHECKING:
    from etude.inference.model import Model, WindowOutput


LIMIT = 16 << 20  # bytes of frames of a file that travel between processes; a quarter of an hour of most
SILENCE = "every window of it is silent"


@dataclass
class WindowedFile:
    """Windows of a decoded file.

    Args:
        path: The file.
        size, modified: Its `file_stamp`: bytes, and nanoseconds since 1970; -1 and 0 where there is no file.
        seconds: Its length.
        windows: Its windows in order.
        reason: Why there are none; windows that were yielded before it was known do not count.
        suspect: Why it may not be music.
        plan: How it is cut, for a file that is too long to be held: `windows` is empty, and `iter_windows` makes them.
    """

    path: Path
    size: int = -1
    modified: int = 0
    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    reason: str = ""
    suspect: str = ""
    plan: WindowPlan | None = None

    def iter_windows(self) -> Iterator[Window]:
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

    def stream(self, plan: WindowPlan, longest: float | None = None) -> Iterator[Window]:
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
        except Exception as error:  # one bad file must not end the prediction of the others
            self.reason = one_line_message(error)
        # a table of files need not repeat the path
        self.reason = as_text(self.reason).removeprefix(f"{as_text(self.path)}: ")


@dataclass
class FilePrediction:
    """Predictions of a network for a file.

    Args:
        path: The file.
        size, modified: Its `file_stamp`.
        seconds: Its length.
        values: Of the whole file, in the order of the columns: outputs are averaged over its windows before they become
            probabilities or values, as evaluation averages crops of a clip. None where it could not be decoded.
        windows: First and last second of each window, and its values; None where it is silent.
        embedding: Mean over its windows (D,), float32.
        reason: Why there is no prediction.
        suspect: Why it may not be music.
    """

    path: Path
    size: int
    modified: int
    seconds: float
    values: list[float] | None = None
    windows: list[tuple[float, float, list[float] | None]] = field(default_factory=list)
    embedding: np.ndarray | None = None
    reason: str = ""
    suspect: str = ""


def predict(
    model: Model, files: Sequence[Path], plan: WindowPlan, batch: int = 32, workers: int | None = None
) -> Iterator[FilePrediction]:
    """Yield the predictions of files, in their order.

    Args:
        model: The network.
        files: Sound files.
        plan: How they are cut.
        batch: Windows in a batch.
        workers: Processes that decode; None means one per core, and for few files none but this.
    """
    jobs = [(path, plan) for path in files]
    yield from predict_windows(
        model, worker_processes.map_jobs(load_windows, jobs, workers, shard=2, meanwhile=True), batch
    )


def predict_windows(model: Model, files: Iterable[WindowedFile], batch: int) -> Iterator[FilePrediction]:
    """Yield the predictions of decoded files; windows of several files share a batch."""
    pending: deque[_PendingFile] = deque()
    waiting: list[tuple[_PendingFile, int, Window]] = []

    def flush(some: list[tuple[_PendingFile, int, Window]]) -> None:
        for (file, index, window), output in zip(some, model.predict([window for *_, window in some]), strict=True):
            file.outputs[index], window.crops = output, []
            file.left -= 1

    for file in files:
        current = _PendingFile(file)
        pending.append(current)
        for window in file.iter_windows():
            index = current.add(window)
            if window.crops:
                waiting.append((current, index, window))
            if len(waiting) >= batch:
                some, waiting = waiting[:batch], waiting[batch:]
                flush(some)
        while pending and not pending[0].left:
            yield pending.popleft().result(model)
    if waiting:
        flush(waiting)
    while pending:
        yield pending.popleft().result(model)


def load_windows(job: tuple[Path, WindowPlan], limit: int | None = LIMIT) -> WindowedFile:
    """Decode a file, cut it, and make the frames of its windows.

    Args:
        job: The file, and how it is cut.
        limit: Bytes of frames above which the result has no windows but a plan; None is for any length.
    """
    path, plan = job
    file = WindowedFile(path, *file_stamp(path))
    try:
        file.windows = list(file.stream(plan, None if limit is None else _seconds(plan, limit)))
    except TooLongError:
        file.plan = plan
    if file.reason:
        file.windows = []
    return file


class _PendingFile:
    """File of which some windows are not predicted yet."""

    def __init__(self, file: WindowedFile) -> None:
        self.file = file
        self.windows: list[Window] = []
        self.outputs: list[WindowOutput | None] = []
        self.audible: list[int] = []
        self.left = 0

    def add(self, window: Window) -> int:
        """Add a window and return its index."""
        self.windows.append(window)
        self.outputs.append(None)
        if window.crops:
            self.audible.append(len(self.windows) - 1)
            self.left += 1
        return len(self.windows) - 1

    def result(self, model: Model) -> FilePrediction:
        """Return the prediction of the whole file from the outputs of its windows."""
        file = self.file
        result = FilePrediction(
            file.path, file.size, file.modified, file.seconds, reason=file.reason, suspect=file.suspect
        )
        if file.reason or not self.audible:
            result.reason = file.reason or SILENCE
            return result
        known = [output for output in (self.outputs[index] for index in self.audible) if output is not None]
        values = [None if output is None else model.values(output[1]) for output in self.outputs]
        result.values = next(filter(None, values))
        if len(known) > 1:
            result.values = model.values(
                {name: np.stack([out[name] for _, out in known]).mean(0) for name in known[0][1]}
            )
        result.embedding = np.stack([z for z, _ in known]).mean(0)
        result.windows = [(window.start, window.end, value) for window, value in zip(self.windows, values, strict=True)]
        return result


def _seconds(plan: WindowPlan, limit: int) -> float:
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
