"""Embeddings of audio files and arrays by the network of a run or by a pretrained backbone.

Embeddings and the windows of files are kept in the store of `etude.embeddings.store`. An interrupted command therefore
continues where it ended, and files that are known are not decoded again. A file is identified by its content.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from etude.audio.decode import decoder_versions
from etude.data import workers as worker_processes
from etude.data.audio_files import as_text
from etude.data.pack import PackOptions
from etude.embeddings.encoders import EmbeddingStore, windows_identity
from etude.embeddings.store import FOLDER, RecordStore
from etude.errors import UserError
from etude.files import os_errors, ownership
from etude.files.atomic import remove, replacing, write_text
from etude.files.journal import file_hash, file_stamp
from etude.inference import engine, inputs
from etude.inference.engine import FilePrediction
from etude.inference.model import Model, Pretrained
from etude.inference.windows import WindowPlan
from etude.system.streams import track

PACKS = PackOptions.packs
CLIP, WINDOW = "clip", "window"
INDEX = "index.json"
FILES = NPY, NPZ, PARQUET = ".npy", ".npz", ".parquet"
OVERLAP = 0.5  # of successive windows, as a fraction of a window
CHANGED = "was changed while it was read"
log = logging.getLogger(__name__)


@dataclass
class EmbedOptions:
    """Options of embeddings.

    Args:
        inputs: Audio files, arrays of frames, folders and lists.
        per: `clip` for the mean over the windows of each file, or `window` for each window that is not silent.
        window: Length of a window in seconds. None uses the length of the clips in the run's evaluation. With a
            pretrained backbone, None uses the complete file if it is not longer than `encoders.MAX_SECONDS`.
        overlap: Overlap of successive windows as a fraction of a window.
        batch_size: Number of windows in a batch.
        workers: Number of processes that decode files and, on a CPU, run the network. None means one per core.
        device: Device of the network.
        packs: Folder of packs. The store is in a subfolder.
    """

    inputs: Sequence[str | Path] = ()
    per: str = CLIP
    window: float | None = None
    overlap: float = OVERLAP
    batch_size: int = 32
    workers: int | None = None
    device: str = "auto"
    packs: Path = PACKS


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of audio files, with a row per file or per window.

    Args:
        paths: Path of the file of each row, in the order of the inputs.
        values: Embeddings (N, D), float32.
        start: Start of each row in its file, in seconds (N,).
        end: End of each row in its file, in seconds (N,). NaN for beat-synchronous arrays.
        description: Model, weights, front end, windows, and versions of libraries, as plain values.
        skipped: Reason for each file without an embedding, by its path.
    """

    paths: list[str]
    values: np.ndarray
    start: np.ndarray
    end: np.ndarray
    description: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def times(self) -> list[list[float | None]]:
        """Return start and end of each row for JSON, which has no NaN."""
        ends = [None if np.isnan(end) else float(end) for end in self.end]
        return [[float(start), end] for start, end in zip(self.start, ends, strict=True)]

    def __repr__(self) -> str:
        model = self.description.get("model", "a network")
        return f"Embeddings of {len(self)} rows by {self.values.shape[1]} values, from {model}"


@dataclass(frozen=True)
class EmbeddedFile:
    """Embeddings of one file.

    Args:
        seconds: Length of the file.
        windows: Start and end in seconds, and embedding (D,), of each window that is not silent.
    """

    seconds: float
    windows: list[tuple[float, float, np.ndarray]]

    def rows(self, per: str) -> list[tuple[float, float, np.ndarray]]:
        """Return start, end and embedding of each row."""
        if per == WINDOW:
            return self.windows
        return [(0.0, self.seconds, np.stack([z for *_, z in self.windows]).mean(0))]


class FileStore:
    """Embeddings of files by the hash of a file, in a store of embeddings and one of the windows of files.

    Args:
        model: The network.
        plan: Window plan.
        packs: Folder of packs.
    """

    def __init__(self, model: Model, plan: WindowPlan, packs: Path) -> None:
        identity = windows_identity(plan.front, plan.to_dict())
        windows = {"kind": "files", "model": "windows of audio files", "identity": identity}
        with os_errors.explain_errors(packs, os_errors.PACKS_REMEDY):
            self._embeddings = EmbeddingStore(packs / FOLDER, model.encoder_name, model.encoder_identity)
            self._files = RecordStore(packs / FOLDER, windows)

    def close(self) -> None:
        """Close both stores."""
        self._embeddings.close()
        self._files.close()

    def read(self, sha256: str) -> EmbeddedFile | None:
        """Return the embeddings of the file with a hash, or None if it or one of its windows is not stored."""
        (value,) = self._files.read([bytes.fromhex(sha256)])
        if value is None:
            return None
        stored = json.loads(value)
        arrays = self._embeddings.get([key for *_, key in stored["windows"]])
        times = [(start, end) for start, end, _ in stored["windows"]]
        windows = [(*time, z) for time, z in zip(times, arrays, strict=True) if z is not None]
        seconds = float("nan") if stored["seconds"] is None else stored["seconds"]
        return EmbeddedFile(seconds, windows) if len(windows) == len(times) else None

    def write(self, sha256: str, prediction: FilePrediction) -> EmbeddedFile:
        """Store the embeddings of a file, and return them."""
        windows = [
            (start, end, key, z)
            for (start, end, _), (key, z) in zip(prediction.windows, prediction.window_embeddings, strict=True)
            if z is not None
        ]
        seconds = None if np.isnan(prediction.seconds) else prediction.seconds
        record = {"seconds": seconds, "windows": [[start, end, key] for start, end, key, _ in windows]}
        with os_errors.explain_errors(None, os_errors.PACKS_REMEDY):
            self._embeddings.put([key for *_, key, _ in windows], [z for *_, z in windows])
            self._files.write({bytes.fromhex(sha256): json.dumps(record).encode()})
        return EmbeddedFile(prediction.seconds, [(start, end, z) for start, end, _, z in windows])


def embed_files(source: Path | Pretrained | Model, options: EmbedOptions) -> Embeddings:
    """Embed audio files or arrays.

    Args:
        source: A run folder, a checkpoint, a pretrained backbone, or a network that is already loaded.
        options: Files and windows.

    Raises:
        UserError: The run or a file is missing, options exclude each other, the store cannot be written, or none of the
            files can be embedded.
    """
    if options.per not in (CLIP, WINDOW):
        raise UserError(f"per={options.per}: must be {CLIP} or {WINDOW}")
    found = inputs.find_files(options.inputs)
    worker_processes.prepare_workers(found.count, options.workers)
    model = source if isinstance(source, Model) else Model(source, options.device)
    plan = replace(model.plan(options.window, options.overlap), hashed=True)
    files = found.select(model.takes_arrays)
    if options.window is not None:
        inputs.check_no_arrays(files, f"--window {options.window:g}")
    with closing(FileStore(model, plan, options.packs)) as store:
        embedded, skipped = _embed(model, plan, files, store, options)
    rows = [(path, *row) for path, file in embedded.items() for row in file.rows(options.per)]
    if not rows:
        path, reason = next(iter(skipped.items()))
        raise UserError(f"none of the {len(files)} files can be embedded; {as_text(path)}: {reason}")
    paths, start, end, values = zip(*rows, strict=True)
    return Embeddings(
        [as_text(path) for path in paths], np.stack(values).astype(np.float32), np.array(start), np.array(end),
        describe(model, plan, options.per, len(values[0])), {as_text(path): reason for path, reason in skipped.items()},
    )  # fmt: skip


def describe(model: Model, plan: WindowPlan, per: str, dim: int) -> dict[str, Any]:
    """Return the description of embeddings as plain values.

    Args:
        model: The network.
        plan: Window plan.
        per: `clip` or `window`.
        dim: Size of an embedding, D.
    """
    return {
        "model": model.name,
        "checkpoint": None if model.checkpoint is None else {"name": model.checkpoint.name, "sha256": model.sha256},
        "overrides": [*model.source.overrides] if isinstance(model.source, Pretrained) else [],
        "dim": dim,
        "per": per,
        "windows": plan.to_dict(),
        "encoder": model.encoder_identity,
        "versions": {"etude": version("etude"), **decoder_versions()},
    }


def check_out(out: Path) -> None:
    """Check before the computation that the result can be written.

    Raises:
        UserError: The path has another suffix, or is a file that Étude did not write.
    """
    if out.suffix in FILES and not out.is_dir():
        names = [out.name, out.with_suffix(".json").name]
        ownership.check_names(out.parent, names if out.suffix == NPY else names[:1])
    elif out.suffix and not out.is_dir():
        raise UserError(f"--out {out}: must end with {', '.join(FILES)}, or be the name of a folder without a suffix")
    else:
        ownership.check_names(out, [INDEX])


def write_embeddings(embeddings: Embeddings, out: Path) -> list[Path]:
    """Write embeddings as .npy, .npz or .parquet, or to a folder with an .npy file for each file, by the suffix.

    Returns:
        Path of the result; of an .npy file also the path of its .json; for a folder the path of its index.
    """
    description = {**embeddings.description, "skipped": embeddings.skipped}
    with os_errors.explain_errors(out, os_errors.FOLDER_REMEDY, f"--out {out}"):
        if out.suffix not in FILES or out.is_dir():
            return [_write_folder(embeddings, out)]
        ownership.open_folder(out.parent)
        with replacing(out) as draft:
            if out.suffix == PARQUET:
                _write_parquet(draft, embeddings, json.dumps(description))
                return [out]
            with draft.open("wb") as file:
                if out.suffix == NPZ:
                    arrays: Any = {"embeddings": embeddings.values, "start": embeddings.start, "end": embeddings.end}
                    np.savez(file, paths=embeddings.paths, description=json.dumps(description), **arrays)
                    return [out]
                np.save(file, embeddings.values, allow_pickle=False)
            rows = zip(embeddings.paths, embeddings.times(), strict=True)
            content = {**description, "rows": [{"path": path, "times": times} for path, times in rows]}
            return [out, write_text(out.with_suffix(".json"), json.dumps(content, indent=1) + "\n")]


def _embed(
    model: Model, plan: WindowPlan, files: Sequence[Path], store: FileStore, options: EmbedOptions
) -> tuple[dict[Path, EmbeddedFile], dict[Path, str]]:
    """Return the embeddings of files in order, and the reason for each file without one.

    Files with equal content are decoded once.
    """
    keys: dict[Path, str | Path] = {}
    stamps: dict[Path, tuple[int, int]] = {}
    known: dict[str | Path, EmbeddedFile] = {}
    jobs: dict[str | Path, Path] = {}
    for path in track(files, len(files), "Looking up stored embeddings", "files"):
        stamps[path], sha256 = file_stamp(path), _file_hash(path)
        key = keys[path] = sha256 or path
        if key not in known and key not in jobs:
            stored = store.read(sha256) if sha256 else None
            if stored is None:
                jobs[key] = path
            else:
                known[key] = stored
    if known:
        log.info("%d of %d files are in %s", len(files) - len(jobs), len(files), options.packs / FOLDER)
    reasons: dict[str | Path, str] = {}
    results: Iterable[FilePrediction] = ()
    if jobs:
        results = engine.predict(model, [*jobs.values()], plan, options.batch_size, options.workers)
        results = track(results, len(jobs), "Embeddings", "files")
    try:
        for key, prediction in zip(jobs, results, strict=True):
            if not prediction.reason and (prediction.size, prediction.modified) != stamps[prediction.path]:
                prediction.reason = CHANGED
            if prediction.reason or isinstance(key, Path):
                reasons[key] = prediction.reason or CHANGED
                log.warning("%s: %s", as_text(prediction.path), reasons[key])
                continue
            known[key] = store.write(key, prediction)
            engine.warn_if_suspect(prediction)
    except KeyboardInterrupt:
        log.warning("%d of %d files are embedded; repeat the command to resume", len(known), len(files))
        raise
    return (
        {path: known[key] for path, key in keys.items() if key in known},
        {path: reasons[key] for path, key in keys.items() if key in reasons},
    )


def _file_hash(path: Path) -> str | None:
    """Return the hash of a file, or None if it cannot be read. The reason is found when it is decoded."""
    try:
        return file_hash(path)
    except OSError:
        return None


def _write_folder(embeddings: Embeddings, folder: Path) -> Path:
    """Write an array for each file, (rows, D), and the index with paths and times, and return the path of the index."""
    ownership.open_folder(folder)
    entries: list[dict[str, Any]] = []
    times = embeddings.times()
    by_path: dict[str, list[int]] = {}
    for i, path in enumerate(embeddings.paths):
        by_path.setdefault(path, []).append(i)
    for path, rows in by_path.items():
        name = f"{len(entries):06d}.npy"
        with replacing(folder / name) as draft, draft.open("wb") as file:
            np.save(file, embeddings.values[rows], allow_pickle=False)
        entries.append({"path": path, "file": name, "times": [times[i] for i in rows]})
    for outdated in folder.glob("[0-9]*.npy"):
        if outdated.name not in {entry["file"] for entry in entries}:
            remove(outdated)
    content = {**embeddings.description, "files": entries, "skipped": embeddings.skipped}
    return write_text(folder / INDEX, json.dumps(content, indent=1) + "\n")


def _write_parquet(draft: Path, embeddings: Embeddings, description: str) -> None:
    """Write a table with path, start, end and embedding of each row, and the description in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    values = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.values.ravel()), embeddings.values.shape[1])
    times = {"start": pa.array(embeddings.start), "end": pa.array(embeddings.end)}
    table = pa.table({"path": pa.array(embeddings.paths), **times, "embedding": values})
    parquet.write_table(table.replace_schema_metadata({"etude": description}), draft)
