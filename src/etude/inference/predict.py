"""Prediction of sound files into tables, a summary and a page, with a journal from which it resumes."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from etude.data import workers
from etude.data.audio_files import as_text
from etude.errors import UserError
from etude.files import os_errors, ownership
from etude.files.journal import Journal, file_stamp, read_lines
from etude.files.lock import Lock
from etude.files.progress import track
from etude.inference import engine, figure, inputs, page, tables
from etude.inference.engine import FilePrediction
from etude.inference.model import Model
from etude.inference.windows import UNKNOWN, WindowPlan
from etude.runs.folder import PREDICT, find_weights

PAGES = 20  # files that the page shows
JOURNAL, LOCK = "journal.jsonl", ".lock"
DIGITS = 7  # of a value in the journal; what a float32 holds
log = logging.getLogger(__name__)


@dataclass
class PredictOptions:
    """Options of a prediction.

    Args:
        run: A run folder, or a checkpoint.
        sounds: Files, folders and lists.
        to: Folder of the results; None: beside what predicts.
        formats: Of the tables.
        window: Seconds of a window; None: of the clips of training.
        overlap: Share of a window that the next one has again.
        batch: Windows in a batch.
        workers: Processes that decode; None: one per core.
        device: Device of the network.
        page: Whether a page is written.
    """

    run: Path
    sounds: list[str] = field(default_factory=list)
    to: Path | None = None
    formats: list[str] = field(default_factory=lambda: ["csv"])
    window: float | None = None
    overlap: float = 0.5
    batch: int = 32
    workers: int | None = None
    device: str = "auto"
    page: bool = True


def predict_files(wish: PredictOptions, command: str = "") -> tuple[list[Path], int]:
    """Predict sound files and write the results.

    Args:
        wish: The network, the sounds, and the folder of the results.
        command: Command line that the page shows.

    Returns:
        Paths of the results, and how many files could not be decoded.

    Raises:
        UserError: There is no such run or sound, or the folder cannot be written.
    """
    if not wish.run.exists():
        raise UserError(f"{wish.run}: there is no such run folder or checkpoint")
    files = inputs.files(wish.sounds)
    workers.prepare_workers(len(files), wish.workers)
    checkpoint = find_weights(wish.run)
    to = wish.to or (wish.run if wish.run.is_dir() else wish.run.parent) / PREDICT
    pages = [page.NAME, f"{figure.FOLDER}/"] if wish.page else []
    ownership.check_names(to, [*(path.name for path in tables.paths_of(to, wish.formats)), *pages])
    model = Model(checkpoint, wish.device)
    plan = model.plan(wish.window, wish.overlap)
    if wish.window is None and not model.has_clip_length:
        log.warning(
            "%s does not say how long its clips were: windows are of %g s; window= says another", checkpoint, UNKNOWN
        )
    with PredictionJournal(to, model.identity(plan)) as journal:
        try:
            failed = _predict(model, files, plan, journal, wish)
        except KeyboardInterrupt:
            known = sum(path in journal for path in files)
            log.warning("%d of %d files are done; the same command goes on from here", known, len(files))
            raise

        def results() -> Iterator[FilePrediction]:
            return (journal.read(path) for path in files)

        with os_errors.explain_errors(to, os_errors.FOLDER_REMEDY, f"to={to}"):
            paths = tables.write_tables(to, results(), model.columns, wish.formats)
            tables.print_summary(results(), len(files), model.columns, failed)
            if wish.page:
                paths.append(page.write(to, results(), len(files), model, plan, command, PAGES, wish.workers))
    return paths, failed


class PredictionJournal:
    """Journal of predicted files, opened or begun; a context manager.

    The first line holds what the predictions depend on besides the files: another network, or other windows, begin the
    journal anew. A file is recognised by its path, size and time of change; one that failed is tried again.

    Args:
        folder: Its folder; created where it is missing.
        identity: What the predictions depend on, as plain values.

    Raises:
        UserError: The folder cannot be written, or another process writes there.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._entries: dict[str, tuple[int, int, int]] = {}  # by path: size, time of change, offset of the line
        try:
            ownership.open_folder(folder)
            self._lock = Lock(folder / LOCK, f"to={folder}")
            self._lock.acquire()
            self._journal = Journal(folder / JOURNAL)
        except OSError as error:
            raise os_errors.explain(error, folder, os_errors.FOLDER_REMEDY, f"to={folder}") or error from error
        self.path = self._journal.path
        head = _line(identity)
        if next((line for _, line in read_lines(self.path)), b"") == head:
            self._restore()
        else:
            if self._journal.size:
                log.warning("to=%s: its results were of another network or other windows, and are replaced", folder)
            self._journal.truncate(0)
            self._journal.append(head)

    def __enter__(self) -> PredictionJournal:
        return self

    def __exit__(self, *ended: object) -> None:
        self._journal.close()
        self._lock.release()

    def __contains__(self, path: Path) -> bool:
        """Return whether a file was predicted and has not changed since."""
        return self._entries.get(os.fspath(path), (0, 0))[:2] == file_stamp(path)

    def append(self, prediction: FilePrediction) -> None:
        """Write down the prediction of a file."""
        path = os.fspath(prediction.path)
        if prediction.reason:
            self._entries.pop(path, None)
        values: dict[str, Any] = {
            "path": path,
            "size": prediction.size,
            "modified": prediction.modified,
            "seconds": prediction.seconds,
        }
        if prediction.reason:
            values["reason"] = prediction.reason
        else:
            assert prediction.values is not None and prediction.embedding is not None
            values["values"] = _rounded(prediction.values)
            values["windows"] = [
                (start, end, None if each is None else _rounded(each)) for start, end, each in prediction.windows
            ]
            values["embedding"] = base64.b64encode(prediction.embedding.astype("<f4").tobytes()).decode()
        self._entries[path] = (prediction.size, prediction.modified, self._journal.append(_line(values)))

    def read(self, path: Path) -> FilePrediction:
        """Return the prediction of a file that was written down."""
        line = json.loads(self._journal.read(self._entries[os.fspath(path)][2]))
        prediction = FilePrediction(
            Path(line["path"]), line["size"], line["modified"], line["seconds"], reason=line.get("reason", "")
        )
        if not prediction.reason:
            prediction.values = line["values"]
            prediction.windows = [(start, end, each) for start, end, each in line["windows"]]
            prediction.embedding = np.frombuffer(base64.b64decode(line["embedding"]), "<f4")
        return prediction

    def _restore(self) -> None:
        """Read the lines behind the first, and remove all behind the last one that is complete and valid."""
        lines = read_lines(self.path)
        end = len(next(lines)[1])
        for start, line in lines:
            try:
                known = json.loads(line)
                entry = (int(known["size"]), int(known["modified"]), start)
                self._entries[str(known["path"])] = (-2, 0, start) if "reason" in known else entry
            except (ValueError, KeyError, TypeError):
                break
            end = start + len(line)
        self._journal.truncate(end)


def _predict(
    model: Model, files: list[Path], plan: WindowPlan, journal: PredictionJournal, wish: PredictOptions
) -> int:
    """Predict the files that the journal does not hold, and return how many of them could not be decoded."""
    wanted = [path for path in files if path not in journal]
    if len(wanted) < len(files):
        log.info("going on: %d of %d files are done", len(files) - len(wanted), len(files))
    if not wanted:
        return 0
    failed = 0
    results = engine.predict(model, wanted, plan, wish.batch, wish.workers)
    for prediction in track(results, len(wanted), "Predictions", "files"):
        with os_errors.explain_errors(journal.path, os_errors.FOLDER_REMEDY):
            journal.append(prediction)
        name = as_text(prediction.path)
        if prediction.reason:
            failed += 1
            log.warning("%s: %s", name, prediction.reason)
        elif prediction.suspect:
            log.warning("%s: is used, although it may not be music: it %s", name, prediction.suspect)
    return failed


def _line(values: dict[str, Any]) -> bytes:
    """Return a line of the journal, in ASCII, which any name of a file can be written in."""
    return (json.dumps(values, separators=(",", ":")) + "\n").encode()


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
