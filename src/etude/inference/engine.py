"""Prediction of files: decoding in worker processes, batches in this one.

Results come in the order of the files. Only a few files are under way, and of each only the frames of its windows, so
that memory does not grow with their number. A batch takes windows of as many files as fill it. A file of more than a
quarter of an hour or so is decoded in this process, and its windows are judged while it is, so that memory does not
grow with its length either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.data import workers as runners
from etude.inference.decoding import WindowedFile, load_windows
from etude.inference.windows import Plan, Window

if TYPE_CHECKING:
    from etude.inference.model import Judged, Model


SILENCE = "every window of it is silent"


@dataclass
class FilePrediction:
    """What a network says of a file.

    Args:
        path: The file.
        size, modified: By which it is known.
        seconds: Its length.
        values: Of the whole file, in the order of the columns: outputs are averaged over its windows before they become
            probabilities or values, as evaluation averages crops of a clip. None where it could not be heard.
        windows: First and last second of each window, and its values; none where it is silent.
        embedding: Mean over its windows (D,), float32.
        reason: Why there is nothing.
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


class _Open:
    """A file of which some windows are not judged yet."""

    def __init__(self, heard: WindowedFile) -> None:
        self.heard = heard
        self.windows: list[Window] = []
        self.judged: list[Judged | None] = []
        self.wanted: list[int] = []
        self.left = 0

    def add(self, window: Window) -> int:
        """Add a window and return its index."""
        self.windows.append(window)
        self.judged.append(None)
        if window.crops:
            self.wanted.append(len(self.windows) - 1)
            self.left += 1
        return len(self.windows) - 1

    def said(self, model: Model) -> FilePrediction:
        heard = self.heard
        said = FilePrediction(
            heard.path, heard.size, heard.modified, heard.seconds, reason=heard.reason, suspect=heard.suspect
        )
        known = [self.judged[place] for place in self.wanted]
        if heard.reason or not known:
            said.reason = heard.reason or SILENCE
            return said
        one: list[Judged] = [judged for judged in known if judged is not None]
        values = [None if judged is None else model.values(judged[1]) for judged in self.judged]
        said.values = next(filter(None, values))
        if len(one) > 1:
            said.values = model.values({name: np.stack([out[name] for _, out in one]).mean(0) for name in one[0][1]})
        said.embedding = np.stack([z for z, _ in one]).mean(0)
        said.windows = [(window.start, window.end, value) for window, value in zip(self.windows, values, strict=True)]
        return said


def predict(
    model: Model, files: Sequence[Path], plan: Plan, batch: int = 32, workers: int | None = None
) -> Iterator[FilePrediction]:
    """What a network says of files, in their order.

    Args:
        model: The network.
        files: What is heard.
        plan: How it is cut.
        batch: Windows that are judged at a time.
        workers: Processes that hear; none means one per core, and for few files none but this.
    """
    jobs = [(path, plan) for path in files]
    yield from judge(model, runners.run(load_windows, jobs, workers, shard=2, meanwhile=True), batch)


def judge(model: Model, heard: Iterable[WindowedFile], batch: int) -> Iterator[FilePrediction]:
    """Judge what was heard, so many windows at a time."""
    files: deque[_Open] = deque()
    waiting: list[tuple[_Open, int, Window]] = []

    def flush(some: list[tuple[_Open, int, Window]]) -> None:
        for (file, place, window), judged in zip(some, model.judge([window for *_, window in some]), strict=True):
            file.judged[place], window.crops = judged, []
            file.left -= 1

    for one in heard:
        file = _Open(one)
        files.append(file)
        for window in one.parts():
            place = file.add(window)
            if window.crops:
                waiting.append((file, place, window))
            if len(waiting) >= batch:
                some, waiting = waiting[:batch], waiting[batch:]
                flush(some)
        while files and not files[0].left:
            yield files.popleft().said(model)
    if waiting:
        flush(waiting)
    while files:
        yield files.popleft().said(model)
