"""Batched prediction of audio files and arrays of frames, in worker processes if there are many.

On a CPU each worker decodes files and runs the network on their windows. The workers share the memory of its weights.
On a GPU, or if the network cannot be sent to other processes, the workers only decode and compute frames, and the
network runs in this process.

Results are in the order of the files. Only a few files are in progress at a time, and only the frames of their windows
are in memory. Memory usage therefore does not grow with the number of files. A batch can contain windows of several
files. The windows of a file longer than about a quarter of an hour are predicted during decoding, in the process that
runs the network. Memory usage therefore does not grow with the length of a file either.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.audio.clip_statistics import SoundStatistics
from etude.audio.decode import stream
from etude.audio.formats import DecodeError, TooLongError
from etude.data import workers as worker_processes
from etude.data.audio_files import SILENT, array_mismatch, as_text, is_array, read_precomputed
from etude.errors import one_line_message
from etude.files.journal import file_stamp
from etude.inference import inputs
from etude.inference.windows import Window, WindowPlan, cut_windows, evaluation_crops, window_key
from etude.system.machine import SharedObject, one_torch_thread

if TYPE_CHECKING:
    from etude.inference.model import Model, WindowOutput


MAX_BYTES = 16 << 20  # limit of the frames of a file that are sent between processes; about a quarter of an hour
ALL_SILENT = "all windows are silent"
SHARD = 8  # files that a worker predicts before it sends the results
log = logging.getLogger(__name__)


@dataclass
class WindowedFile:
    """Windows of a decoded audio file, or an array of frames as one window.

    Args:
        path: The file.
        size, modified: `file_stamp` of the file: size in bytes, and time of change in nanoseconds since 1970; -1 and 0
            if the file is missing.
        seconds: Length of the file. NaN for an array of beat-synchronous frames.
        frames: Number of frames of an array. None for an audio file.
        windows: Windows of the file, in order.
        reason: Reason why there are no windows. If it is set, windows that were already yielded are invalid.
        suspect: Reason why the file may not contain music.
        plan: Window plan of a file that is too long to be kept in memory. `windows` is then empty, and `iter_windows`
            computes the windows.
    """

    path: Path
    size: int = -1
    modified: int = 0
    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    frames: int | None = None
    reason: str = ""
    suspect: str = ""
    plan: WindowPlan | None = None

    def iter_windows(self) -> Iterator[Window]:
        """Yield the windows. The windows of a long file are computed during the iteration and not kept."""
        if self.plan is None:
            yield from self.windows
            return
        remaining = self.stream(self.plan)
        while True:
            with one_torch_thread():  # as in worker processes
                window = next(remaining, None)
            if window is None:
                return
            yield window

    def stream(self, plan: WindowPlan, longest: float | None = None) -> Iterator[Window]:
        """Yield the windows during decoding, then set `seconds`, or `reason` after a failure.

        Args:
            plan: Window plan.
            longest: Maximum length in seconds. None sets no limit.

        Raises:
            TooLongError: The file is longer.
        """
        statistics, rate = SoundStatistics(), plan.front.rate
        samples, peak = 0, 0.0

        def decoded_blocks() -> Iterator[np.ndarray]:
            nonlocal samples, peak
            for block in stream(self.path, rate, longest, statistics):
                samples, peak = samples + len(block), max(peak, float(np.abs(block).max()))
                yield block

        try:
            pending: list[Window] = []
            for window in cut_windows(decoded_blocks(), plan):
                pending.append(window)
                if samples / rate >= plan.shortest and peak >= SILENT:
                    yield from pending
                    pending = []
            self.seconds = samples / rate
            if self.seconds < plan.shortest:
                raise DecodeError(f"is too short ({self.seconds:.2f} s, at least {plan.shortest:g} s are needed)")
            if peak < SILENT:
                raise DecodeError("is silent")
            self.suspect = "; ".join(statistics.findings())
        except TooLongError:
            raise
        except Exception as error:  # one invalid file must not end the prediction of the others
            self.set_reason(error)

    def read_array(self, plan: WindowPlan) -> None:
        """Read an array of frames as one window, like a clip of the collection, or set `reason` after a failure."""
        try:
            if array_mismatch(plan.front):
                raise DecodeError(f"is an array of frames; {inputs.NO_ARRAYS}")
            frames = read_precomputed(self.path, plan.front, plan.shortest)
            beats = plan.front.sync == "beat"
            self.seconds = float("nan") if beats else len(frames) / plan.front.frames_per_second
            self.frames = len(frames)
            crops = evaluation_crops(frames[:, slice(*plan.columns)], plan)
            self.windows = [Window(0.0, self.seconds, crops, window_key(crops, plan))]
        except Exception as error:  # one invalid file must not end the prediction of the others
            self.set_reason(error)

    def set_reason(self, error: Exception) -> None:
        """Set the reason why there are no windows from an exception."""
        if isinstance(error, OSError):
            self.reason = f"cannot be read ({error.strerror or error})"
        elif isinstance(error, MemoryError):
            self.reason = "is too long for the memory of this machine"
        else:
            self.reason = one_line_message(error)
        # the tables have the path in another column
        self.reason = as_text(self.reason).removeprefix(f"{as_text(self.path)}: ")


@dataclass
class FilePrediction:
    """Predictions of a network for an audio file or an array of frames.

    Args:
        path: The file.
        size, modified: `file_stamp` of the file.
        seconds: Length of the file. NaN for an array of beat-synchronous frames.
        values: Predictions for the file, in the order of the columns. The outputs of the windows are averaged first,
            and then converted to probabilities or values. Evaluation does the same with the crops of a clip. None if
            the file could not be decoded.
        windows: Start and end of each window in seconds, and its predictions, or None for a silent window.
        embedding: Mean over the windows (D,), float32.
        window_embeddings: Key of each window's frames, and its embedding (D,), or None for a silent window.
        frames: Number of frames of an array. None for an audio file.
        reason: Reason why there is no prediction.
        suspect: Reason why the file may not contain music.
    """

    path: Path
    size: int
    modified: int
    seconds: float
    values: list[float] | None = None
    windows: list[tuple[float, float, list[float] | None]] = field(default_factory=list)
    embedding: np.ndarray | None = None
    window_embeddings: list[tuple[str, np.ndarray | None]] = field(default_factory=list)
    frames: int | None = None
    reason: str = ""
    suspect: str = ""


def predict(
    model: Model, files: Sequence[Path], plan: WindowPlan, batch: int = 32, workers: int | None = None
) -> Iterator[FilePrediction]:
    """Yield the predictions for audio files and arrays in their order.

    Args:
        model: Trained network.
        files: Audio files and arrays of frames.
        plan: Window plan.
        batch: Number of windows in a batch, or in the batches of all workers together.
        workers: Number of processes. None means one per core, or only this process if there are few files.
    """
    count = worker_processes.count_workers(len(files), workers)
    shared = _share(model) if count > 1 and model.device.type == "cpu" else None
    results: Iterator[FilePrediction]
    if shared is not None:
        predict_shard = partial(_predict_shard, shared, plan, -(-batch // count))
        shards = inputs.divide_files(files, min(SHARD, -(-batch // count)), count)
        by_shard = worker_processes.run_in_processes(predict_shard, shards, count, shard=1, meanwhile=True)
        results = chain.from_iterable(by_shard)
    else:
        jobs = [(path, plan) for path in files]
        loaded = worker_processes.map_jobs(load_file, jobs, workers, shard=2, meanwhile=True)
        results = predict_windows(model, loaded, batch)
    n_frames: list[int] = []
    for prediction in results:
        if prediction.frames:
            n_frames.append(prediction.frames)
        yield prediction
    if n_frames:
        inputs.warn_of_length(float(np.median(n_frames)), plan)


def predict_windows(model: Model, files: Iterable[WindowedFile], batch: int) -> Iterator[FilePrediction]:
    """Yield the predictions for decoded files. Windows of several files share a batch."""
    pending: deque[_PendingFile] = deque()
    queue: list[tuple[_PendingFile, int, Window]] = []

    def flush(entries: list[tuple[_PendingFile, int, Window]]) -> None:
        outputs = model.predict([window for *_, window in entries])
        for (file, index, window), output in zip(entries, outputs, strict=True):
            file.outputs[index], window.crops = output, []
            file.n_remaining -= 1

    for file in files:
        current = _PendingFile(file)
        pending.append(current)
        for window in file.iter_windows():
            index = current.add(window)
            if window.crops:
                queue.append((current, index, window))
            if len(queue) >= batch:
                entries, queue = queue[:batch], queue[batch:]
                flush(entries)
        while pending and not pending[0].n_remaining:
            yield pending.popleft().result(model)
    if queue:
        flush(queue)
    while pending:
        yield pending.popleft().result(model)


def _share(model: Model) -> SharedObject[Model] | None:
    """Return a network for worker processes, or None if it cannot be sent to them."""
    try:
        return SharedObject(model)
    except Exception as error:  # of the classes of the network
        log.info("the network runs in one process: it cannot be sent to others (%s)", one_line_message(error))
        return None


def _predict_shard(
    model: SharedObject[Model], plan: WindowPlan, batch: int, files: Sequence[Path]
) -> list[FilePrediction]:
    """Return the predictions for some files."""
    return list(predict_windows(model.value, (load_file((path, plan)) for path in files), batch))


def load_file(job: tuple[Path, WindowPlan]) -> WindowedFile:
    """Return the windows of an audio file, or an array of frames as one window."""
    path, plan = job
    if not is_array(path):
        return load_windows(job)
    file = WindowedFile(path, *file_stamp(path))
    file.read_array(plan)
    return file


def load_windows(job: tuple[Path, WindowPlan], max_bytes: int | None = MAX_BYTES) -> WindowedFile:
    """Decode an audio file and compute the frames of its windows.

    Args:
        job: Path of the file and window plan.
        max_bytes: Maximum size of all frames in bytes. The result for a larger file has a plan instead of windows. None
            sets no limit.
    """
    path, plan = job
    file = WindowedFile(path, *file_stamp(path))
    try:
        file.windows = list(file.stream(plan, None if max_bytes is None else plan.max_seconds(max_bytes)))
    except TooLongError:
        file.plan = plan
    if file.reason:
        file.windows = []
    return file


class _PendingFile:
    """File with windows that are not yet predicted."""

    def __init__(self, file: WindowedFile) -> None:
        self.file = file
        self.windows: list[Window] = []
        self.outputs: list[WindowOutput | None] = []
        self.non_silent: list[int] = []
        self.n_remaining = 0

    def add(self, window: Window) -> int:
        """Add a window and return its index."""
        self.windows.append(window)
        self.outputs.append(None)
        if window.crops:
            self.non_silent.append(len(self.windows) - 1)
            self.n_remaining += 1
        return len(self.windows) - 1

    def result(self, model: Model) -> FilePrediction:
        """Return the prediction for the file from the outputs of its windows."""
        file = self.file
        result = FilePrediction(
            file.path, file.size, file.modified, file.seconds, frames=file.frames, reason=file.reason,
            suspect=file.suspect,
        )  # fmt: skip
        if file.reason or not self.non_silent:
            result.reason = file.reason or ALL_SILENT
            return result
        outputs = [output for output in (self.outputs[index] for index in self.non_silent) if output is not None]
        values = [None if output is None else model.values(output[1]) for output in self.outputs]
        result.values = next(value for value in values if value is not None)
        if len(outputs) > 1:
            result.values = model.values(
                {name: np.stack([out[name] for _, out in outputs]).mean(0) for name in outputs[0][1]}
            )
        result.embedding = np.stack([z for z, _ in outputs]).mean(0)
        result.window_embeddings = [
            (window.key, None if output is None else output[0])
            for window, output in zip(self.windows, self.outputs, strict=True)
        ]
        result.windows = [(window.start, window.end, value) for window, value in zip(self.windows, values, strict=True)]
        return result


def warn_if_suspect(prediction: FilePrediction) -> None:
    """Log a warning if a file was used although it may not contain music."""
    if prediction.suspect and not prediction.reason:
        log.warning("%s: is used although it may not be music: it %s", as_text(prediction.path), prediction.suspect)
