"""Prediction of audio files and arrays, with tables, a summary and a page, and a journal for resuming."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from etude.data import workers
from etude.data.audio_files import as_text, is_array
from etude.errors import DataError, UserError, missing_path
from etude.files import os_errors, ownership
from etude.files.journal import Journal, Lock, file_stamp, read_lines
from etude.inference import engine, figure, inputs, page, tables
from etude.inference.engine import FilePrediction
from etude.inference.model import Model, PredictionRow, Pretrained
from etude.inference.windows import DEFAULT_SECONDS, WindowPlan
from etude.runs.folder import PREDICT, find_weights
from etude.system.streams import track

PAGE_SECTIONS = 20  # files with a player and plots on the page
JOURNAL, LOCK = "journal.jsonl", ".lock"
DIGITS = 7  # of a value in the journal, the precision of a float32
OVERLAP = 0.5  # of successive windows, as a fraction of a window
log = logging.getLogger(__name__)


@dataclass
class PredictOptions:
    """Options of a prediction.

    Args:
        source: A run folder, a checkpoint, or a pretrained backbone whose own classifier predicts tags.
        inputs: Audio files, arrays of frames, folders and lists.
        out: Folder of the results, or a .csv file for one table with an id and a column per target. None selects a
            subfolder of the run, of the folder of the checkpoint, or of the current folder for a backbone.
        id_format: Format of the ids in this table, with `{id}`, the text before the first dot of a file name, or
            `{name}`, the file name. None selects `{name}`, and for arrays and a run on `data=patreco` the ids of this
            data.
        formats: Formats of the tables.
        window: Length of a window in seconds. None uses the length of the clips in the run's evaluation.
        overlap: Overlap of successive windows as a fraction of a window.
        batch_size: Number of windows in a batch.
        workers: Number of processes that decode files and, on a CPU, run the network. None means one per core.
        device: Device of the network.
        page: Whether a page is written. None writes it into a folder of results for audio files.
    """

    source: Path | Pretrained
    inputs: list[str] = field(default_factory=list)
    out: Path | None = None
    formats: list[str] = field(default_factory=lambda: ["csv"])
    window: float | None = None
    overlap: float = OVERLAP
    batch_size: int = 32
    workers: int | None = None
    device: str = "auto"
    page: bool | None = None
    id_format: str | None = None


@dataclass
class PredictResult:
    """Result of a prediction.

    Args:
        paths: Paths of the written files.
        n_failed: Number of files that could not be decoded.
        rows: Rows of the table of files, if they were requested.
    """

    paths: list[Path]
    n_failed: int
    rows: list[PredictionRow]


def predict_files(options: PredictOptions, command: str = "", return_rows: bool = False) -> PredictResult:
    """Predict audio files or arrays and write the results.

    Args:
        options: Network, files and folder or table of the results.
        command: Command line that the page shows.
        return_rows: Whether the result contains the predictions.

    Raises:
        UserError: The run or a file is missing, options exclude each other, or the folder cannot be written.
        DataError: A file cannot be read, and the result is a table with an id and a column per target.
    """
    run = options.source if isinstance(options.source, Path) else None
    if run is not None and not run.exists():
        raise UserError(missing_path(run, "run folder or checkpoint"))
    found = inputs.find_files(options.inputs)
    id_table = options.out if options.out and options.out.suffix.lower() == ".csv" else None
    _check_options(options, id_table is not None)
    workers.prepare_workers(found.count, options.workers)
    source = options.source if run is None else find_weights(run)
    folder = options.out or (run if run and run.is_dir() else run.parent if run else Path()) / PREDICT
    if id_table:
        inputs.check_id_table(id_table, tables.ID)
    else:
        names = [path.name for path in tables.table_paths(folder, options.formats)]
        page_names = [] if options.page is False else [page.NAME, f"{figure.FOLDER}/"]
        ownership.check_names(folder, [*names, *page_names])
    model = Model(source, options.device, tags=True)
    plan = model.plan(options.window, options.overlap)
    if options.window is None and not model.has_clip_length:
        text = "%s: the length of the training clips is unknown, so windows of %g s are used; --window sets another"
        log.warning(text, model.checkpoint, DEFAULT_SECONDS)
    files = found.select(model.takes_arrays)
    has_arrays = any(map(is_array, files))
    if options.window is not None:
        inputs.check_no_arrays(files, f"--window {options.window:g}")
    if options.overlap != OVERLAP:
        inputs.check_no_arrays(files, f"--overlap {options.overlap:g}")
    if options.page:
        inputs.check_no_arrays(files, "--page")
    if id_table:
        return _write_id_table(id_table, model, files, plan, options)
    if has_arrays and options.page is None:
        log.info("%s is not written, because it shows audio files", page.NAME)
    with PredictionJournal(folder, model.identity(plan)) as journal:
        try:
            n_failed = _predict_missing(model, files, plan, journal, options)
        except KeyboardInterrupt:
            done = sum(path in journal for path in files)
            log.warning("%d of %d files are predicted; repeat the command to resume", done, len(files))
            raise

        def results() -> Iterator[FilePrediction]:
            return (journal.read(path) for path in files)

        with os_errors.explain_errors(folder, os_errors.FOLDER_REMEDY, f"--out {folder}"):
            paths = tables.write_tables(folder, results(), model.columns, options.formats)
            tables.print_summary(results(), len(files), model.columns, n_failed)
            if options.page or (options.page is None and not has_arrays):
                paths.append(
                    page.write_page(folder, results(), len(files), model, plan, command, PAGE_SECTIONS, options.workers)
                )
            rows = [tables.file_row(result, model.columns) for result in results()] if return_rows else []
    return PredictResult(paths, n_failed, rows)


def predict_by_several(options: Sequence[PredictOptions], folder: Path, command: str = "") -> PredictResult:
    """Predict files by several runs, each into a subfolder, and write one table with a row per file.

    Args:
        options: Options of each run, with the same files.
        folder: Folder of the results.
        command: Command line that the pages show.

    Raises:
        UserError: A run or a file is missing, or the folder cannot be written.
    """
    names = inputs.name_runs([own.source for own in options if isinstance(own.source, Path)])
    ownership.check_names(folder, [tables.MODELS])
    results = []
    for name, own in zip(names, options, strict=True):
        inputs.print_run_name(name)
        results.append(predict_files(replace(own, out=folder / name), command, return_rows=True))
        if [row["path"] for row in results[-1].rows] != [row["path"] for row in results[0].rows]:
            text = f"{names[0]} and {name} read different files, because only one of them takes arrays of frames"
            raise UserError(f"{text}; give audio files or arrays alone")
    rows = tables.join_rows(names, [result.rows for result in results])
    path = tables.write_models(folder / tables.MODELS, rows)
    return PredictResult([path, *(p for r in results for p in r.paths)], max(r.n_failed for r in results), rows)


def _check_options(options: PredictOptions, id_table: bool) -> None:
    """Check the options that depend on `--out`.

    Args:
        options: Options of the prediction.
        id_table: Whether the result is one table with an id and a column per target.

    Raises:
        UserError: An option has no effect on this result.
    """
    if not id_table:
        if options.id_format is not None:
            raise UserError("--id-format: needs --out FILE.csv, a table with ids; give one, or remove --id-format")
        return
    if options.formats != ["csv"]:
        formats = ",".join(options.formats)
        raise UserError(f"--format {formats}: --out {options.out} is a CSV file; name a folder, or remove --format")
    if options.page:
        raise UserError(f"--page: --out {options.out} is a file; name a folder, or remove --page")


def _write_id_table(
    path: Path, model: Model, files: list[Path], plan: WindowPlan, options: PredictOptions
) -> PredictResult:
    """Predict files and write one table with an id and a column per target, sorted by id.

    Raises:
        UserError: Two files have the same id, or the table cannot be written.
        DataError: A file cannot be read. Nothing is written.
    """
    ids = inputs.sort_by_id(files, options.id_format, inputs.array_id_format(model.checkpoint or Path()))
    rows, shown = [], list[FilePrediction]()
    results = engine.predict(model, list(ids.values()), plan, options.batch_size, options.workers)
    try:
        for name, prediction in zip(ids, track(results, len(ids), "Predictions", "files"), strict=True):
            if prediction.reason:
                raise DataError(f"{as_text(prediction.path)}: {prediction.reason}; {path} is not written")
            engine.warn_if_suspect(prediction)
            rows.append({tables.ID: name, **tables.file_row(prediction, model.columns)})
            if len(shown) < tables.SUMMARY_ROWS:
                shown.append(prediction)
    except KeyboardInterrupt:
        log.warning("%d of %d files were predicted; %s is not written", len(rows), len(ids), path)
        raise
    with os_errors.explain_errors(path, os_errors.FOLDER_REMEDY, f"--out {path}"):
        ownership.open_folder(path.parent)
        tables.write_id_table(path, rows, model.columns)
    tables.print_summary(shown, len(rows), model.columns, 0)
    return PredictResult([path], 0, rows)


class PredictionJournal:
    """Context manager that opens or creates the journal of predicted files.

    The first line contains all settings that determine predictions, such as the network and the windows. With other
    settings the journal is replaced. A file is identified by its path, size and time of change. A file that failed is
    predicted again.

    Args:
        folder: Folder of the journal, which is created if it is missing.
        identity: Everything that determines predictions except the files, as plain values.

    Raises:
        UserError: The folder cannot be written, or another process writes to it.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._entries: dict[str, tuple[int, int, int]] = {}  # by path: size, time of change, offset of the line
        try:
            ownership.open_folder(folder)
            self._lock = Lock(folder / LOCK, f"--out {folder}")
            self._lock.acquire()
            self._journal = Journal(folder / JOURNAL)
        except OSError as error:
            raise os_errors.explain(error, folder, os_errors.FOLDER_REMEDY, f"--out {folder}") or error from error
        self.path = self._journal.path
        header = _journal_line(identity)
        if next((line for _, line in read_lines(self.path)), b"") == header:
            self._restore()
        else:
            if self._journal.size:
                log.warning(
                    "--out %s: replacing its results, because they are from another network or other windows", folder
                )
            self._journal.truncate(0)
            self._journal.append(header)

    def __enter__(self) -> PredictionJournal:
        return self

    def __exit__(self, *ended: object) -> None:
        self._journal.close()
        self._lock.release()

    def __contains__(self, path: Path) -> bool:
        """Return whether a file was predicted and has not changed since."""
        return self._entries.get(os.fspath(path), (0, 0))[:2] == file_stamp(path)

    def append(self, prediction: FilePrediction) -> None:
        """Store the prediction for a file."""
        path = os.fspath(prediction.path)
        if prediction.reason:
            self._entries.pop(path, None)
        entry: dict[str, Any] = {
            "path": path,
            "size": prediction.size,
            "modified": prediction.modified,
            "seconds": prediction.seconds,
        }
        if prediction.reason:
            entry["reason"] = prediction.reason
        else:
            assert prediction.values is not None and prediction.embedding is not None
            entry["values"] = _round_values(prediction.values)
            entry["windows"] = [
                (start, end, None if values is None else _round_values(values))
                for start, end, values in prediction.windows
            ]
            entry["embedding"] = base64.b64encode(prediction.embedding.astype("<f4").tobytes()).decode()
        self._entries[path] = (prediction.size, prediction.modified, self._journal.append(_journal_line(entry)))

    def read(self, path: Path) -> FilePrediction:
        """Return the stored prediction for a file."""
        entry = json.loads(self._journal.read(self._entries[os.fspath(path)][2]))
        prediction = FilePrediction(
            Path(entry["path"]), entry["size"], entry["modified"], entry["seconds"], reason=entry.get("reason", "")
        )
        if not prediction.reason:
            prediction.values = entry["values"]
            prediction.windows = [(start, end, values) for start, end, values in entry["windows"]]
            prediction.embedding = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
        return prediction

    def _restore(self) -> None:
        """Read the lines after the first, and remove all lines after the last one that is complete and valid."""
        lines = read_lines(self.path)
        end = len(next(lines)[1])
        for start, line in lines:
            try:
                entry = json.loads(line)
                stamp = (int(entry["size"]), int(entry["modified"]), start)
                self._entries[str(entry["path"])] = (-2, 0, start) if "reason" in entry else stamp
            except (ValueError, KeyError, TypeError):
                break
            end = start + len(line)
        self._journal.truncate(end)


def _predict_missing(
    model: Model, files: list[Path], plan: WindowPlan, journal: PredictionJournal, options: PredictOptions
) -> int:
    """Predict the files that are not in the journal, and return how many of them could not be decoded."""
    missing = [path for path in files if path not in journal]
    if len(missing) < len(files):
        log.info("resuming: %d of %d files are predicted", len(files) - len(missing), len(files))
    if not missing:
        return 0
    n_failed = 0
    results = engine.predict(model, missing, plan, options.batch_size, options.workers)
    for prediction in track(results, len(missing), "Predictions", "files"):
        with os_errors.explain_errors(journal.path, os_errors.FOLDER_REMEDY):
            journal.append(prediction)
        if prediction.reason:
            n_failed += 1
            log.warning("%s: %s", as_text(prediction.path), prediction.reason)
        engine.warn_if_suspect(prediction)
    return n_failed


def _journal_line(values: dict[str, Any]) -> bytes:
    """Return a line of the journal in ASCII, which can represent all file names."""
    return (json.dumps(values, separators=(",", ":")) + "\n").encode()


def _round_values(values: list[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
