"""Baselines of a run: statistics of its clips, and models that are fitted to the clips of the network's training.

The statistics are those of the default log-mel and chroma frames, whatever front end the network has. They are read
from the pack of the run if it contains default frames, otherwise from a small pack of their own. Collections without
audio files have only their own frames.

Predictions are stored beside the packs by a hash of all their inputs, so that the runs of a sweep share them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.clip_statistics import (
    PROPERTIES,
    PropertiesFront,
    StatisticsFront,
    default_front_end,
    frame_statistics,
)
from etude.data.packing import open_pack
from etude.data.sources.union import has_audio, open_properties
from etude.errors import DataError, RunError, UserError
from etude.evaluation.bootstrap import is_missing
from etude.evaluation.linear_models import VERSION, fit_linear_model
from etude.evaluation.predictions import constant_baseline
from etude.files import ownership
from etude.files.atomic import remove, write_bytes
from etude.runs.schemas import BASELINE, find_fault

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.data.pack import Pack


FOLDER = "baselines"  # below the folder of packs
MOST_STORED, MOST_FEATURES = 500, 20  # files of predictions and of features; the oldest are removed
MIN_SECONDS = 30.0  # time limit of all fits of a run
SHARE = 0.1  # time limit as a share of the training time, if that is longer
log = logging.getLogger(__name__)


@dataclass
class ClipFeatures:
    """Features of the clips of a run. They are computed on first access.

    Args:
        rows: Rows of the clips with features in the pack of the run (n,).
        name: Name of the features, such as "mel and chroma statistics".
        key: Hash of the frames from which the features are computed.
        compute: Function that returns the features (n, P), float16.
        path: File in which the features are stored for later runs, or None.
    """

    rows: np.ndarray
    name: str
    key: str
    compute: Callable[[], np.ndarray]
    path: Path | None = None

    @cached_property
    def x(self) -> np.ndarray:
        """Features (n, P), float16."""
        if self.path is None:
            return self.compute()
        if (stored := _read_features(self.path, len(self.rows))) is not None:
            return stored
        computed = np.ascontiguousarray(self.compute(), dtype=np.float16)
        content = computed.tobytes()
        _store(self.path, hashlib.sha256(content).digest() + content, "*.f16", MOST_FEATURES)
        return computed


def open_statistics(data: MusicData) -> Pack | None:
    """Return a pack from which the statistics of the default frames can be read, and prepare it if it is missing.

    Returns:
        The pack of default frames if it is complete, else the pack of statistics. None if there are no audio files, or
        if they cannot be read; the reason is logged.
    """
    front, options = default_front_end(), data.pack_options
    if data.feature.front == front:
        return data.pack if hasattr(data, "pack") else data.open_pack()
    if not has_audio(data.source):
        return None
    with suppress(DataError):
        return open_pack(data.source, front, replace(options, read_only=True))
    try:
        return open_pack(data.source, StatisticsFront(), options)
    except (UserError, RunError, OSError) as error:  # a run must not fail because of its baseline
        log.warning("the baseline uses the frames of the network, because there are no other statistics: %s", error)
        return None


def prepare_packs(data: MusicData, shortcuts: bool) -> None:
    """Prepare the packs of the baselines before the training, so that all decoding is at the start of a run."""
    open_statistics(data)
    if shortcuts and has_audio(data.source):
        read_shortcuts(data)


def read_features(data: MusicData) -> ClipFeatures:
    """Return the statistics of the clips of a run. Call `setup` of the data first.

    A clip that only one of the two packs contains has no features.
    """
    pack, index, front = open_statistics(data), data.pack.index, StatisticsFront()
    options = data.pack_options

    def path(key: str) -> Path | None:
        name = hashlib.sha256(f"{key} {front.version}".encode()).hexdigest()[:32]
        return None if options.read_only else options.packs / FOLDER / f"{name}.f16"

    if pack is None:
        key = data.pack.manifest["sha256"]
        return ClipFeatures(
            np.arange(len(index)),
            "statistics of the given frames",
            key,
            lambda: np.stack([frame_statistics(data.pack.clip(row)) for row in range(len(index))]),
            path(f"given {key}"),
        )
    rows, others = _match_clips(data, pack)
    has_statistics = pack.clip(0).shape[1] == front.bins

    def compute() -> np.ndarray:
        clips = (pack.clip(row) for row in others)
        return np.stack([clip[0] if has_statistics else front.from_frames(clip) for clip in clips])

    key = hashlib.sha256(json.dumps([pack.manifest["sha256"], others]).encode()).hexdigest()
    return ClipFeatures(rows, "mel and chroma statistics", key, compute, None if has_statistics else path(key))


def read_shortcuts(data: MusicData) -> ClipFeatures | None:
    """Return the level, bandwidth, length and silence of the files of a run, or None if there are no audio files."""
    if not has_audio(data.source):
        log.warning("shortcut_baseline: %s has no audio files, so there is no baseline on shortcuts", data.source.name)
        return None
    try:
        pack = open_properties(data.source, data.pack_options)
    except (UserError, RunError, OSError) as error:  # a run must not fail because of its baseline
        log.warning("shortcut_baseline: there is no baseline on shortcuts: %s", error)
        return None
    rows, others = _match_clips(data, pack)
    name = ", ".join(list(PROPERTIES)[:-1]) + f" and {list(PROPERTIES)[-1]}"
    key = hashlib.sha256(json.dumps([pack.manifest["sha256"], others]).encode()).hexdigest()
    return ClipFeatures(rows, name, key, lambda: np.stack([pack.clip(row)[0] for row in others]))


def fit_baselines(
    data: MusicData,
    rows: np.ndarray,
    targets: Mapping[str, Mapping[str, Any]],
    train_seconds: float,
    shortcuts: bool = False,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, Any]]]:
    """Fit the baselines of all targets to the training clips and predict clips.

    Args:
        data: Data of the run.
        rows: Predicted clips (n,), as rows of the pack.
        targets: Specifications of the targets.
        train_seconds: Duration of the training of the network, which limits the time of the fits.
        shortcuts: Whether there is also a baseline on level, bandwidth, length and silence of the files.

    Returns:
        Predictions (n,) by target and name of the baseline, and the description of each baseline for the record, also
        by target and name.
    """
    inputs = {"statistics": read_features(data)}
    if shortcuts and (properties := read_shortcuts(data)):
        inputs["shortcuts"] = properties
    limit = max(MIN_SECONDS, SHARE * train_seconds) / max(1, len(targets) * len(inputs))
    predictions: dict[str, dict[str, np.ndarray]] = {target: {} for target in targets}
    records: dict[str, dict[str, Any]] = {target: {} for target in targets}
    for target, spec in targets.items():
        for name, features in inputs.items():
            values, record = _stored_or_fitted(data, features, rows, target, spec, limit)
            predictions[target][name], records[target][name] = values, record
    return predictions, records


def _match_clips(data: MusicData, pack: Pack) -> tuple[np.ndarray, list[int]]:
    """Return the rows of the clips that both packs contain, in the pack of the run (n,) and in the other pack."""
    row_of_id = {clip: row for row, clip in enumerate(pack.index["id"])}
    ids = data.pack.index["id"].to_numpy()
    rows = np.array([row for row, clip in enumerate(ids) if clip in row_of_id], dtype=np.int64)
    return rows, [row_of_id[clip] for clip in ids[rows]]


def _stored_or_fitted(
    data: MusicData,
    features: ClipFeatures,
    rows: np.ndarray,
    target: str,
    spec: Mapping[str, Any],
    limit: float,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the predictions (n,) of a baseline and its description, from an earlier run with equal inputs if any."""
    import sklearn

    inputs = [data.pack.index[column].astype(str).tolist() for column in ("id", "group", target)]
    versions = [VERSION, StatisticsFront().version, PropertiesFront().version, sklearn.__version__]
    parts = [
        versions,
        features.name,
        features.key,
        features.rows.tolist(),
        rows.tolist(),
        spec["kind"],
        np.isin(data.splits, data.fitted_splits).tolist(),
        inputs,
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = data.pack_options.packs / FOLDER / f"{key[:32]}.json"
    if stored := _read_stored(path, key, len(rows), spec):
        return np.array(stored[0], dtype=np.float64 if spec["kind"] == "scalar" else object), stored[1]
    values, record = _fit(data, features, rows, target, spec, limit)
    if not data.pack_options.read_only:
        content = {"key": key, "predictions": values.tolist(), "record": record}
        _store(path, json.dumps(content).encode(), "*.json", MOST_STORED)
    return values, record


def _fit(
    data: MusicData,
    features: ClipFeatures,
    rows: np.ndarray,
    target: str,
    spec: Mapping[str, Any],
    limit: float,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit a baseline to the clips to which the network is fitted, and predict clips.

    A clip without features has the prediction of the constant baseline. A clip among the fitted ones has the prediction
    of an inner fold, as those of a network with joined validation clips.
    """
    y, groups = data.pack.index[target].to_numpy(), data.pack.index["group"]
    position = np.full(len(y), -1)
    position[features.rows] = np.arange(len(features.rows))
    train = np.flatnonzero(np.isin(data.splits, data.fitted_splits))
    constant, used = constant_baseline(y[train], spec["kind"]), train[position[train] >= 0]
    values = np.full(len(rows), constant, dtype=np.float64 if spec["kind"] == "scalar" else object)
    x = features.x[position[used]]
    fitted = fit_linear_model(x, y[used], spec["kind"], groups.iloc[used].tolist(), max_seconds=limit)
    known = position[rows] >= 0
    values[known] = fitted.predict(features.x[position[rows[known]]].astype(np.float64))
    for i in np.flatnonzero(np.isin(rows, used)):
        inner = constant if fitted.out_of_fold is None else fitted.out_of_fold[np.searchsorted(used, rows[i])]
        if not is_missing(inner):  # a clip without a true value is not fitted
            values[i] = inner
    remarks = [fitted.remark]
    if missing := int(np.count_nonzero(~known)) + len(train) - len(used):
        remarks.append(f"{missing} clips without these features are not used, or have the prediction of the constant")
    return values, {
        "name": f"{fitted.name} on {features.name}" if fitted.penalty else fitted.name,
        "penalty": fitted.penalty,
        "inner_score": fitted.score,
        "seconds": round(fitted.seconds, 2),
        "remark": "; ".join(filter(None, remarks)),
    }


def _read_stored(path: Path, key: str, count: int, spec: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """Return stored predictions and the description, or None if they are missing or damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        values, record = stored["predictions"], stored["record"]
        classes = set(spec.get("classes") or ())
        valid = all(np.isfinite(value) if spec["kind"] == "scalar" else value in classes for value in values)
        if stored["key"] == key and len(values) == count and valid and not find_fault(record, BASELINE):
            return values, record
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _read_features(path: Path, count: int) -> np.ndarray | None:
    """Return stored features (n, P), float16, or None if they are missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, values = content[:32], content[32:]
    if hashlib.sha256(values).digest() != digest or not count or not values or len(values) % (2 * count):
        return None
    return np.frombuffer(values, np.float16).reshape(count, -1)


def _store(path: Path, content: bytes, pattern: str, most: int) -> None:
    """Write a file for later runs, and remove the oldest ones. Failures are ignored, because a run needs no file."""
    try:
        ownership.open_folder(path.parent)
        write_bytes(path, content)
        for old in sorted(path.parent.glob(pattern), key=lambda file: file.stat().st_mtime_ns)[:-most]:
            remove(old)
    except (OSError, UserError) as error:
        log.debug("%s was not written: %s", path, error)
