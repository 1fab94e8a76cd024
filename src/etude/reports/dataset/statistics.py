"""Statistics of a collection, such as class counts, lengths and loudness."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.audio.frontend import FrontEnd
from etude.data.partition import SPLITS, UNUSED
from etude.data.splits import group_codes
from etude.errors import DataError
from etude.reports.clip_frames import ClipFile
from etude.reports.dataset import leakage
from etude.system.streams import track

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.datamodule import MusicData
    from etude.data.pack import Pack
    from etude.data.splits import Split


BINS = 20
MIN_PAIRS = 3  # minimum number of clips for a correlation
MAX_MEASURED = 200  # clips whose loudness is measured: enough for a histogram, and decoded in seconds
FLOOR = -100.0  # dB of full scale, the level of silence
NO_AUDIO = "The loudness of these clips is unknown: their audio files are not available."


@dataclass(frozen=True)
class SplitAssignment:
    """Assignment of clips to the splits of a config.

    Args:
        assigned: Split of each clip (N,). None if the clips cannot be split.
        method: `kind`, `column`, `fold`, `folds`, `partitions` and `unused` of the split. Empty without a split.
        error: Reason why the configured split is refused, or "". If it is refused, `assigned` is a split that allows
            shared groups and duplicates.
    """

    assigned: np.ndarray | None
    method: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def assign_splits(module: MusicData, pack: Pack) -> SplitAssignment:
    """Return the configured split.

    If this split is refused, return the reason, and a split that allows shared groups and duplicates.
    """
    names = list(module.source.targets)
    try:
        return SplitAssignment(*_plan(module.split, pack, names))
    except DataError as error:
        reason = str(error)
    permissive = replace(module.split, allow_shared_groups=True, duplicates="allow")
    try:
        return SplitAssignment(*_plan(permissive, pack, names), reason)
    except DataError:
        return SplitAssignment(None, error=reason)


def _plan(split: Split, pack: Pack, names: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the split of each clip, and a description of how clips were split."""
    plan = split.plan(pack.index, names)
    description = {"kind": plan.kind, "column": plan.column, "fold": plan.fold, "folds": list(plan.folds)}
    return plan.splits, description | {"partitions": plan.partitions, "unused": plan.unused}


def compute_statistics(
    source: Any, pack: Pack, front: FrontEnd, files: dict[str, ClipFile], split: SplitAssignment, seed: int
) -> dict[str, Any]:
    """Compute all statistics of a collection.

    Args:
        source: The collection, or another object that can be packed.
        pack: Pack of the collection.
        front: Front end of the pack.
        files: Files of the clips, as returned by `clip_frames.clip_files`.
        split: Split of the collection.
        seed: Seed of the selection of clips whose loudness is measured.

    Returns:
        Values that can be written as JSON, by topic.
    """
    index, assigned, targets = pack.index, split.assigned, source.targets
    ids = [str(clip) for clip in index["id"]]
    labels = {name: spec for name, spec in targets.items() if spec["kind"] == "label"}
    scalars = {name: spec for name, spec in targets.items() if spec["kind"] == "scalar"}
    before_merging, merged = (source.extra.get(key, {}) for key in ("before", "merged"))
    return {
        "data": _describe_data(source, index, front),
        "split_error": split.error,
        "split_method": split.method,
        "splits": split_counts(index, assigned),
        "labels": {
            name: label_counts(index, name, spec, assigned)
            | {"note": spec["note"], "before_merging": before_merging.get(name, {})}
            | {"merged_into": merged.get(name, {})}
            | {"single_group_classes": leakage.single_group_classes(index, name, spec["classes"])}
            for name, spec in labels.items()
        },
        "scalars": {
            name: histogram(index[name].to_numpy(float), spec["low"], spec["high"])
            | {"note": spec["note"], "range": [spec["low"], spec["high"]]}
            for name, spec in scalars.items()
        },
        "correlations": rank_correlations(index, list(scalars)) if len(scalars) > 1 else [],
        "by_class": {
            name: scalars_by_class(index, name, spec["classes"], list(scalars))
            for name, spec in labels.items()
            if scalars
        },
        "lengths": length_histogram(pack.lengths, front),
        "loudness": loudness_histogram(files, ids, front, seed),
        "identical": [_compare_clips(index, targets, rows, split) for rows in leakage.identical_clips(index)],
        "similar": _similar_clips(pack, targets, front, split),
        "shared_groups": leakage.groups_in_several_splits(index, assigned),
        "repeated_names": leakage.repeated_file_names(files, ids),
    }


def split_counts(index: pd.DataFrame, assigned: np.ndarray | None) -> dict[str, dict[str, int]]:
    """Return the number of clips and groups in each split. Empty if there is no split."""
    if assigned is None:
        return {}
    groups = group_codes(index)
    masks = {split: assigned == split for split in (*SPLITS, UNUSED)}
    return {
        split: {"clips": int(mask.sum()), "groups": len(set(groups[mask]))}
        for split, mask in masks.items()
        if split != UNUSED or mask.any()
    }


def label_counts(index: pd.DataFrame, name: str, spec: dict[str, Any], assigned: np.ndarray | None) -> dict[str, Any]:
    """Count the clips and groups of each class.

    Args:
        index: Table of the pack.
        name: Name of the label.
        spec: Description of the label in the collection.
        assigned: Split of each clip (N,), or None.

    Returns:
        - `missing`: number of clips without this label
        - `classes`: for each class `class`, `clips`, `groups`, and `splits` (number of clips by split; empty if there
          is no split)
    """
    groups, column = group_codes(index), index[name].to_numpy()
    splits = (
        []
        if assigned is None
        else [split for split in (*SPLITS, UNUSED) if split != UNUSED or (assigned == split).any()]
    )
    rows = []
    for class_name in spec["classes"]:
        mask = column == class_name
        counts = {split: int((mask & (assigned == split)).sum()) for split in splits}
        row = {"class": class_name, "clips": int(mask.sum()), "groups": len(set(groups[mask])), "splits": counts}
        rows.append(row)
    return {"missing": int(index[name].isna().sum()), "classes": rows}


def histogram(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """Count values in 20 equal bins, or in fewer bins for integers, because these bins have integer widths.

    Args:
        values: Values (n,), NaN where they are missing.
        low: Minimum possible value.
        high: Maximum possible value.

    Returns:
        `n`, `missing`, `edges` (B + 1), `counts` (B), `mean`, `sd`, `min`, `median` and `max`. The last five are None
        if there are too few values.
    """
    finite = values[np.isfinite(values)]
    bins, integers = BINS, len(finite) > 0 and (finite == finite.round()).all() and high - low >= 2
    if integers:  # otherwise some bins would contain more integers than others
        step = int(np.ceil((high - low + 1) / BINS))
        bins, low = int(np.ceil((high - low + 1) / step)), low - 0.5
        high = low + bins * step
    counts, edges = np.histogram(finite, bins, (low, high))
    result: dict[str, Any] = {"n": len(finite), "missing": len(values) - len(finite)}
    result |= {"counts": counts.tolist(), "edges": edges.tolist()}
    for name, function in (("mean", np.mean), ("min", np.min), ("median", np.median), ("max", np.max)):
        result[name] = float(function(finite)) if len(finite) else None
    return result | {"sd": _sample_deviation(finite)}


def rank_correlations(index: pd.DataFrame, names: list[str]) -> list[list[dict[str, Any]]]:
    """Return Spearman's rank correlation of each pair of scalars as `value`, with the number of clips `n`.

    Only clips with both values are included.
    """
    return [[_spearman(index[row].to_numpy(float), index[col].to_numpy(float)) for col in names] for row in names]


def scalars_by_class(index: pd.DataFrame, name: str, classes: list[str], scalars: list[str]) -> list[dict[str, Any]]:
    """Return mean, sample standard deviation and number of values of each scalar for each class of a label."""
    rows = []
    for class_name in classes:
        clips = index[index[name] == class_name]
        cells = []
        for scalar in scalars:
            values = clips[scalar].dropna().to_numpy(float)
            mean = float(values.mean()) if len(values) else None
            cells.append({"mean": mean, "sd": _sample_deviation(values), "n": len(values)})
        rows.append({"class": class_name, "scalars": cells})
    return rows


def length_histogram(frames: np.ndarray, front: FrontEnd) -> dict[str, Any]:
    """Return a histogram of lengths, in seconds, in beats for frames by beat, or in frames if there is no audio.

    Args:
        frames: Number of frames of each clip (N,).
        front: Front end of the frames.

    Returns:
        Result of `histogram` with `unit`.
    """
    unit = "beats" if front.sync == "beat" else "s" if front.reads_sound else "frames"
    values = frames / (front.frames_per_second if unit == "s" else 1.0)
    return histogram(values, float(values.min()), float(values.max())) | {"unit": unit}


def loudness_histogram(files: dict[str, ClipFile], ids: list[str], front: FrontEnd, seed: int) -> dict[str, Any]:
    """Return a histogram of the level of at most 200 random clips.

    Args:
        files: Files of the clips by id.
        ids: Ids of the clips in the pack.
        front: Front end, which defines the sample rate.
        seed: Seed of the selection.

    Returns:
        Result of `histogram` for the root mean square in dB of full scale, where a full-scale square wave has 0 dB. If
        no audio is available, only the `reason`.
    """
    audio_ids = [clip for clip in ids if clip in files and files[clip].is_audio]
    if not audio_ids:
        return {"reason": NO_AUDIO}
    if len(audio_ids) > MAX_MEASURED:
        selection = np.random.default_rng(seed).choice(len(audio_ids), MAX_MEASURED, replace=False)
        audio_ids = [audio_ids[i] for i in sorted(selection)]
    values = [_rms_level(files[clip], front) for clip in track(audio_ids, len(audio_ids), "Loudness", "clips")]
    levels = np.array([value for value in values if value is not None])
    if not len(levels):
        return {"reason": NO_AUDIO}
    low, high = 3 * np.floor(levels.min() / 3), max(0.0, 3 * np.ceil(levels.max() / 3))
    return histogram(levels, float(low), float(high)) | {"unit": "dB of full scale"}


def _sample_deviation(values: np.ndarray) -> float | None:
    """Return the sample standard deviation, or None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _spearman(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return Spearman's rank correlation and the number of pairs. The correlation of constant values is None."""
    from scipy.stats import spearmanr

    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    defined = len(x) >= MIN_PAIRS and len(set(x)) > 1 and len(set(y)) > 1
    return {"value": float(spearmanr(x, y).statistic) if defined else None, "n": len(x)}


def _rms_level(file: ClipFile, front: FrontEnd) -> float | None:
    """Return the RMS level of an audio file in dB of full scale, or None if it can no longer be decoded."""
    try:
        audio = decode(file.locate(front), front.rate)
    except DecodeError:
        return None
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return max(FLOOR, 10 * np.log10(power)) if power > 0 else FLOOR


def _describe_data(source: Any, index: pd.DataFrame, front: FrontEnd) -> dict[str, Any]:
    """Return the name, size, front end and licences of a collection."""
    has_group = index["group"].notna()
    in_seconds = front.reads_sound and front.sync != "beat"
    seconds = float(index["frames"].sum()) / front.frames_per_second if in_seconds else None
    return {
        "name": source.name,
        "title": source.title,
        "note": source.note,
        "clips": len(index),
        "groups": int(index["group"][has_group].nunique()),
        "without_group": int((~has_group).sum()),
        "seconds": seconds,
        "frames": int(index["frames"].sum()),
        "front_end": front.to_dict(),
        "is_audio": front.reads_sound,
        "licences": source.extra.get("licences", {}),
    }


def _compare_clips(
    index: pd.DataFrame, targets: dict[str, dict[str, Any]], rows: list[int], split: SplitAssignment
) -> dict[str, Any]:
    """Return ids, groups and splits of some clips, whether they cross splits, and the targets that differ.

    Clips in different official folds cross splits too, because each fold is the test split once.
    """
    clips, assigned, method = index.iloc[rows], split.assigned, split.method
    folds = clips[method["column"]].unique() if method.get("folds") and method["column"] else []
    groups = clips["group"].astype(object).where(clips["group"].notna(), None)
    splits = [] if assigned is None else [str(assigned[row]) for row in rows]
    return {
        "ids": [str(clip) for clip in clips["id"]],
        "groups": [None if group is None else str(group) for group in groups],
        "splits": splits,
        "crosses_splits": len({split for split in splits if split in SPLITS}) > 1 or len(folds) > 1,
        "differing_targets": [name for name in targets if clips[name].dropna().nunique() > 1],
    }  # fmt: skip


def _similar_clips(
    pack: Pack, targets: dict[str, dict[str, Any]], front: FrontEnd, split: SplitAssignment
) -> dict[str, Any]:
    """Return pairs of clips that are probably the same recording, with offsets in seconds (or in beats)."""
    result: dict[str, Any] = {"similar": [], "n_compared": 0, "closest": None}
    if front.reads_sound:
        result = leakage.similar_pairs(pack, front.n_mels)
    frames_per_unit = 1.0 if front.sync == "beat" else front.frames_per_second

    def describe(pair: dict[str, Any]) -> dict[str, Any]:
        """Return both clips of a pair with their correlation, cosine and offset."""
        values = {"correlation": pair["correlation"], "cosine": pair["cosine"]}
        values["offset"] = pair["offset"] / frames_per_unit
        return _compare_clips(pack.index, targets, [pair["a"], pair["b"]], split) | values

    return {
        "pairs": [describe(pair) for pair in result["similar"]],
        "n_compared": result["n_compared"],
        "closest": describe(result["closest"]) if result["closest"] else None,
        "threshold": leakage.MIN_CORRELATION,
        "unit": "beats" if front.sync == "beat" else "s",
    }
