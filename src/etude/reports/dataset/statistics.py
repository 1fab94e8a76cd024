"""Statistics of a collection: counts, lengths, loudness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.audio.frontend import FrontEnd
from etude.data.splits import SPLITS, UNUSED, group_codes
from etude.files.progress import track
from etude.reports.clip_frames import ClipFile
from etude.reports.dataset import leakage

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack


BINS = 20
ENOUGH = 3  # pairs of values below which a correlation says nothing
MEASURED = 200  # clips whose loudness is measured: enough for a distribution, and seconds to decode
FLOOR = -100.0  # dB of full scale; what is below is silence
UNKNOWN = "The loudness of these clips is not known: their sound is not at hand, and frames do not tell it."


@dataclass(frozen=True)
class SplitAssignment:
    """Assignment of clips to the splits of a config.

    Args:
        assigned: Split of each clip (N,); None when there is none at all.
        refusal: Why the split was refused; "" when it was not. Then `assigned` is what it would be if it were allowed.
    """

    assigned: np.ndarray | None
    refusal: str = ""


def gather(
    source: Any, pack: Pack, front: FrontEnd, known: dict[str, ClipFile], split: SplitAssignment, seed: int
) -> dict[str, Any]:
    """Measure a collection.

    Args:
        source: The collection, or what packs like one.
        pack: Its pack.
        front: Front end of the pack.
        known: Files of its clips, as `clip_frames.files` returns them.
        split: Its split.
        seed: Of the clips whose loudness is measured.

    Returns:
        Numbers, names and lists by what they are about; JSON can hold them.
    """
    index, assigned, targets = pack.index, split.assigned, source.targets
    ids = [str(clip) for clip in index["id"]]
    labels = {name: spec for name, spec in targets.items() if spec["kind"] == "label"}
    scalars = {name: spec for name, spec in targets.items() if spec["kind"] == "scalar"}
    before = source.extra.get("before", {})
    return {
        "data": _data(source, index, front),
        "refusal": split.refusal,
        "parts": split_counts(index, assigned),
        "labels": {
            name: label_counts(index, name, spec, assigned)
            | {"note": spec["note"], "before": before.get(name, {})}
            | {"lonely": leakage.classes_of_one_group(index, name, spec["classes"])}
            for name, spec in labels.items()
        },
        "scalars": {
            name: histogram(index[name].to_numpy(float), spec["low"], spec["high"])
            | {"note": spec["note"], "range": [spec["low"], spec["high"]]}
            for name, spec in scalars.items()
        },
        "correlations": correlations(index, list(scalars)) if len(scalars) > 1 else [],
        "by_class": {
            name: by_class(index, name, spec["classes"], list(scalars)) for name, spec in labels.items() if scalars
        },
        "lengths": lengths(pack.lengths, front),
        "loudness": loudness(known, ids, front, seed),
        "copies": [_row(index, targets, rows, assigned) for rows in leakage.identical_clips(index)],
        "alike": _alike(pack, targets, front, assigned),
        "sides": leakage.groups_in_several_splits(index, assigned),
        "names": leakage.repeated_file_names(known, ids),
    }


def split_counts(index: pd.DataFrame, assigned: np.ndarray | None) -> dict[str, dict[str, int]]:
    """Return the clips and groups of each split; empty when there is none."""
    if assigned is None:
        return {}
    groups = group_codes(index)
    rows = {part: assigned == part for part in (*SPLITS, UNUSED)}
    return {
        part: {"clips": int(here.sum()), "groups": len(set(groups[here]))}
        for part, here in rows.items()
        if part != UNUSED or here.any()
    }


def label_counts(index: pd.DataFrame, name: str, spec: dict[str, Any], assigned: np.ndarray | None) -> dict[str, Any]:
    """Count the clips of each class: all, by split, and the groups that they come from.

    Returns:
        `missing`, clips without this label, and `classes`: per class `class`, `clips`, `groups`, and `parts`, clips by
        part, which is empty when there is no split.
    """
    groups, column = group_codes(index), index[name].to_numpy()
    seen = (
        [] if assigned is None else [part for part in (*SPLITS, UNUSED) if part != UNUSED or (assigned == part).any()]
    )
    rows = []
    for kind in spec["classes"]:
        here = column == kind
        counts = {part: int((here & (assigned == part)).sum()) for part in seen}
        rows.append({"class": kind, "clips": int(here.sum()), "groups": len(set(groups[here])), "parts": counts})
    return {"missing": int(index[name].isna().sum()), "classes": rows}


def histogram(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """Count values in twenty equal bins; for whole numbers in fewer when each bin can be as many of them.

    Args:
        values: (n,); missing ones are NaN.
        low: Lowest value that can be.
        high: Highest.

    Returns:
        `n`, `missing`, `edges` (B + 1), `counts` (B), and `mean`, `sd`, `min`, `median`, `max` where n allows them.
    """
    there = values[np.isfinite(values)]
    bins, whole = BINS, len(there) > 0 and (there == there.round()).all() and high - low >= 2
    if whole:  # else some bins would hold two of them and others one
        step = int(np.ceil((high - low + 1) / BINS))
        bins, low = int(np.ceil((high - low + 1) / step)), low - 0.5
        high = low + bins * step
    counts, edges = np.histogram(there, bins, (low, high))
    found: dict[str, Any] = {"n": len(there), "missing": len(values) - len(there)}
    found |= {"counts": counts.tolist(), "edges": edges.tolist()}
    for name, function in (("mean", np.mean), ("min", np.min), ("median", np.median), ("max", np.max)):
        found[name] = float(function(there)) if len(there) else None
    return found | {"sd": _sd(there)}


def correlations(index: pd.DataFrame, names: list[str]) -> list[list[dict[str, Any]]]:
    """Return Spearman's rank correlation of scalars over the clips that have both: `value` and `n` per pair."""
    return [[_spearman(index[one].to_numpy(float), index[other].to_numpy(float)) for other in names] for one in names]


def by_class(index: pd.DataFrame, name: str, classes: list[str], scalars: list[str]) -> list[dict[str, Any]]:
    """Return mean and standard deviation of each scalar over the clips of each class, with their number."""
    rows = []
    for kind in classes:
        here = index[index[name] == kind]
        cells = []
        for scalar in scalars:
            values = here[scalar].dropna().to_numpy(float)
            cells.append({"mean": float(values.mean()) if len(values) else None, "sd": _sd(values), "n": len(values)})
        rows.append({"class": kind, "scalars": cells})
    return rows


def lengths(frames: np.ndarray, front: FrontEnd) -> dict[str, Any]:
    """Return the distribution of lengths (N,), in seconds; in beats by the beat; in frames where there is no sound.

    Returns:
        As `histogram`, and `unit`.
    """
    unit = "beats" if front.sync == "beat" else "s" if front.reads_sound else "frames"
    values = frames / (front.frames_per_second if unit == "s" else 1.0)
    return histogram(values, float(values.min()), float(values.max())) | {"unit": unit}


def loudness(known: dict[str, ClipFile], ids: list[str], front: FrontEnd, seed: int) -> dict[str, Any]:
    """Return the distribution of the level of random clips, from their sound.

    Args:
        known: Files of the clips.
        ids: Clips of the pack.
        front: Gives the rate, in Hz.
        seed: Of the choice, when there are more than 200.

    Returns:
        As `histogram`, of the root mean square in dB of full scale, where a full square wave has 0 dB; `why` alone when
        no sound is at hand.
    """
    sounds = [clip for clip in ids if clip in known and known[clip].is_sound]
    if not sounds:
        return {"why": UNKNOWN}
    if len(sounds) > MEASURED:
        sounds = [sounds[i] for i in sorted(np.random.default_rng(seed).choice(len(sounds), MEASURED, replace=False))]
    values = [_level(known[clip], front) for clip in track(sounds, len(sounds), "Loudness", "clips")]
    levels = np.array([value for value in values if value is not None])
    if not len(levels):
        return {"why": UNKNOWN}
    low, high = 3 * np.floor(levels.min() / 3), max(0.0, 3 * np.ceil(levels.max() / 3))
    return histogram(levels, float(low), float(high)) | {"unit": "dB of full scale"}


def _sd(values: np.ndarray) -> float | None:
    """Return the sample standard deviation; None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _spearman(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from scipy.stats import spearmanr

    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    enough = len(x) >= ENOUGH and len(set(x)) > 1 and len(set(y)) > 1  # one value orders nothing
    return {"value": float(spearmanr(x, y).statistic) if enough else None, "n": len(x)}


def _level(file: ClipFile, front: FrontEnd) -> float | None:
    """Return the RMS level of a file, in dB of full scale; None when it cannot be read any more."""
    try:
        audio = decode(file.under(front), front.rate)
    except DecodeError:
        return None
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return max(FLOOR, 10 * np.log10(power)) if power > 0 else FLOOR


def _data(source: Any, index: pd.DataFrame, front: FrontEnd) -> dict[str, Any]:
    known = index["group"].notna()
    timed = front.reads_sound and front.sync != "beat"
    seconds = float(index["frames"].sum()) / front.frames_per_second if timed else None
    return {
        "name": source.name,
        "title": source.title,
        "note": source.note,
        "clips": len(index),
        "groups": int(index["group"][known].nunique()),
        "without_group": int((~known).sum()),
        "seconds": seconds,
        "frames": int(index["frames"].sum()),
        "front": front.to_dict(),
        "sound": front.reads_sound,
        "licences": source.extra.get("licences", {}),
    }


def _row(
    index: pd.DataFrame, targets: dict[str, dict[str, Any]], rows: list[int], assigned: np.ndarray | None
) -> dict[str, Any]:
    """Return clips side by side: ids, groups, splits; whether these differ, and which labels do."""
    here = index.iloc[rows]
    groups = here["group"].astype(object).where(here["group"].notna(), None)
    parts = [] if assigned is None else [str(assigned[row]) for row in rows]
    return {
        "ids": [str(clip) for clip in here["id"]],
        "groups": [None if group is None else str(group) for group in groups],
        "parts": parts,
        "crosses": len({part for part in parts if part in SPLITS}) > 1,
        "differ": [name for name in targets if here[name].dropna().nunique() > 1],
    }  # fmt: skip


def _alike(
    pack: Pack, targets: dict[str, dict[str, Any]], front: FrontEnd, assigned: np.ndarray | None
) -> dict[str, Any]:
    """Return pairs that sound like one recording, with names; offsets in seconds, or in beats by the beat."""
    found: dict[str, Any] = {"alike": [], "compared": 0, "closest": None}
    if front.reads_sound:
        found = leakage.similar_pairs(pack, front.n_mels)
    unit = 1.0 if front.sync == "beat" else front.frames_per_second

    def named(pair: dict[str, Any]) -> dict[str, Any]:
        said = {"correlation": pair["correlation"], "cosine": pair["cosine"], "offset": pair["offset"] / unit}
        return _row(pack.index, targets, [pair["a"], pair["b"]], assigned) | said

    return {
        "pairs": [named(pair) for pair in found["alike"]],
        "compared": found["compared"],
        "closest": named(found["closest"]) if found["closest"] else None,
        "threshold": leakage.ALIKE,
        "unit": "beats" if front.sync == "beat" else "s",
    }
