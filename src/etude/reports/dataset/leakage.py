"""Leakage between splits by duplicate recordings and shared groups.

The mean and standard deviation of each mel band select candidate pairs, but many pieces have a similar timbre. The
decision therefore depends on the change of the spectrum over time. At the best offset, two copies of a recording are
correlated despite differences in noise, codec or gain, but two different pieces are not. This was measured on the
demo clips. A copy has a correlation of .91 to 1.00 with the original, even after MP3 or Vorbis compression, with
noise 40 dB below the music, or if it is cut in half. Two different pieces have at most .6.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.clip_statistics import PROPERTIES, mel_statistics
from etude.data import splits
from etude.data.partition import SPLITS
from etude.data.splits import group_codes
from etude.evaluation import bootstrap
from etude.evaluation.linear_candidates import Candidate, inner_folds, out_of_fold_predictions
from etude.evaluation.means import build_scorer
from etude.evaluation.measure import replace_non_finite
from etude.evaluation.predictions import encode_column
from etude.reports.clip_frames import ClipFile
from etude.system.streams import track

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack


MIN_CORRELATION = 0.9  # over time, of clips that are reported as the same recording
MIN_COSINE = 0.7  # of mel statistics, of clips that are compared over time
NEIGHBOURS = 5  # nearest neighbours of a clip that are compared with it
BLOCK = 1024  # clips per block: 1024 x N similarities are in memory, never N x N
BANDS = 16
MAX_FRAMES = 4096  # frames of a clip that are compared, 95 s at the default hop
MIN_OVERLAP = 8  # frames
EPSILON = 1e-3  # dB^4; a clip with a smaller value is constant


def identical_clips(index: pd.DataFrame) -> list[list[int]]:
    """Return the rows of clips with identical frames, one list for each recording with several ids."""
    groups = index.groupby("content", sort=False).indices if "content" in index else {}
    return sorted(sorted(map(int, rows)) for rows in groups.values() if len(rows) > 1)


def similar_pairs(pack: Pack, n_mels: int) -> dict[str, Any]:
    """Find pairs of clips that are probably the same recording although their frames differ.

    Args:
        pack: Pack of the clips.
        n_mels: Number of mel bands of a frame, M.

    Returns:
        - `similar`: pairs by decreasing correlation, with `a` and `b` (rows), `correlation`, `cosine`, and `offset`
          (position of the first frame of b in a)
        - `n_compared`: number of compared pairs
        - `closest`: the pair with the highest correlation below the threshold, or None
    """
    duplicates = [row for rows in identical_clips(pack.index) for row in rows[1:]]  # reported by identical_clips
    rows = np.setdiff1d(np.arange(len(pack.index)), duplicates)
    candidates = nearest_pairs(_mel_statistics(pack, n_mels)[rows])

    @lru_cache(maxsize=256)
    def contour(row: int) -> np.ndarray:
        return spectral_contour(pack.clip(row, 0, MAX_FRAMES)[:, :n_mels])

    pairs = []
    for (i, j), cosine in track(sorted(candidates.items()), len(candidates), "Similar clips", "pairs"):
        a, b = int(rows[i]), int(rows[j])
        correlation, offset = max_correlation(contour(a), contour(b))
        pairs.append({"a": a, "b": b, "correlation": correlation, "cosine": cosine, "offset": offset})
    pairs.sort(key=lambda pair: -pair["correlation"])
    similar = [pair for pair in pairs if pair["correlation"] >= MIN_CORRELATION]
    closest = pairs[len(similar)] if len(pairs) > len(similar) else None
    return {"similar": similar, "n_compared": len(pairs), "closest": closest}


def nearest_pairs(vectors: np.ndarray) -> dict[tuple[int, int], float]:
    """Return the cosine of each pair of rows in which one row is among the five nearest neighbours of the other.

    The smaller row index of a pair is first.

    Args:
        vectors: Vectors (N, P), whose columns are standardised first.
    """
    deviation = vectors.std(0)
    unit = ((vectors - vectors.mean(0)) / np.where(deviation > 1e-6, deviation, np.inf)).astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    pairs: dict[tuple[int, int], float] = {}
    count = min(NEIGHBOURS, len(unit) - 1)
    for start in range(0, len(unit) if count > 0 else 0, BLOCK):
        cosine = unit[start : start + BLOCK] @ unit.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -1
        for row, neighbours in zip(rows, np.argpartition(-cosine, count - 1, axis=1)[:, :count], strict=True):
            for other in neighbours[cosine[row, neighbours] >= MIN_COSINE]:
                pair = (min(start + row, other), max(start + row, other))
                pairs[int(pair[0]), int(pair[1])] = float(cosine[row, other])
    return pairs


def spectral_contour(mel: np.ndarray) -> np.ndarray:
    """Return mel bands (T, M) in dB as 16 bands (T, 16), without the mean of each frame and of each band."""
    edges = np.linspace(0, mel.shape[1], min(BANDS, mel.shape[1]) + 1).astype(int)
    bands = np.add.reduceat(mel.astype(np.float32), edges[:-1], axis=1) / np.diff(edges)
    bands -= bands.mean(1, keepdims=True)
    return bands - bands.mean(0)


def max_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """Return the highest correlation of two clips over all offsets.

    The overlap must be at least half of the shorter clip.

    Args:
        x: Contour (T, B).
        y: Contour (U, B).

    Returns:
        Correlation of the overlapping frames, after the mean of each band is subtracted, and the frame of x at which y
        begins. Both are 0 for constant clips.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(len(x) + len(y), real=True)
    offsets = np.arange(1 - len(y), len(x))
    first, last = np.maximum(offsets, 0), np.minimum(offsets + len(y), len(x))
    products = irfft((rfft(x, size, axis=0) * rfft(y, size, axis=0).conj()).sum(1), size)[offsets]
    (sum_x, power_x), (sum_y, power_y) = _range_sums(x, first, last), _range_sums(y, first - offsets, last - offsets)
    overlap = last - first
    power = (power_x - (sum_x**2).sum(1) / overlap) * (power_y - (sum_y**2).sum(1) / overlap)
    usable = (overlap >= max(MIN_OVERLAP, min(len(x), len(y)) / 2)) & (power > EPSILON)
    if not usable.any():
        return 0.0, 0
    value = (products - (sum_x * sum_y).sum(1) / overlap) / np.sqrt(np.maximum(power, EPSILON))
    best = int(np.where(usable, value, -1.0).argmax())
    return float(min(1.0, value[best])), int(offsets[best])


def groups_in_several_splits(index: pd.DataFrame, assigned: np.ndarray | None) -> list[dict[str, Any]]:
    """Return each `group` with clips in more than one split, and its number of clips in each of the `splits`."""
    if assigned is None:
        return []
    usable = index["group"].notna().to_numpy() & np.isin(assigned, SPLITS)
    shared = []
    for name, rows in index[usable].groupby("group", sort=True).indices.items():
        counts = {split: int((assigned[usable][rows] == split).sum()) for split in SPLITS}
        if sum(count > 0 for count in counts.values()) > 1:
            shared.append({"group": str(name), "splits": counts})
    return shared


def single_group_classes(index: pd.DataFrame, name: str, classes: list[str]) -> list[dict[str, str]]:
    """Return each `class` of a label with two or more clips that all belong to one `group`."""
    groups, column = group_codes(index), index[name].to_numpy()
    result = []
    for class_name in classes:
        mask = column == class_name
        if mask.sum() > 1 and len(set(groups[mask])) == 1:
            result.append({"class": class_name, "group": str(index["group"].to_numpy()[mask][0])})
    return result


def missing_classes(label: dict[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of class and split for which the split has no clip of the class.

    Classes without training clips, and classes in training alone, are returned by `unlearnable_classes`.

    Args:
        label: Counts of a label, as returned by `statistics.label_counts`.
    """
    untrained, only_trained = unlearnable_classes(label)
    return [
        (row["class"], split)
        for row in label["classes"]
        if row["class"] not in (*untrained, *only_trained)
        for split in SPLITS
        if row["splits"].get(split) == 0
    ]


def unlearnable_classes(label: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the classes in validation or test without training clips, and the classes in training alone.

    Args:
        label: Counts of a label, as returned by `statistics.label_counts`.
    """
    return splits.unlearnable_classes({row["class"]: row["splits"] for row in label["classes"] if row["splits"]})


def repeated_file_names(files: dict[str, ClipFile], ids: list[str]) -> list[dict[str, Any]] | None:
    """Return each file `name` that occurs more than once, with the `ids` of its clips, most frequent names first.

    Without files, the result is None.
    """
    if not files:
        return None
    ids_by_name: dict[str, list[str]] = {}
    for clip in ids:
        if clip in files:
            ids_by_name.setdefault(PurePath(files[clip].path).name, []).append(clip)
    repeated = [{"name": name, "ids": clips} for name, clips in ids_by_name.items() if len(clips) > 1]
    return sorted(repeated, key=lambda row: -len(row["ids"]))


def _mel_statistics(pack: Pack, n_mels: int) -> np.ndarray:
    """Return mean and standard deviation over time of each mel band of each clip, (N, 2 M), in dB."""
    count = len(pack.index)
    rows = track(range(count), count, "Mel statistics", "clips")
    return np.array([mel_statistics(pack.clip(row)[:, :n_mels]) for row in rows])


def _range_sums(z: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums over ranges of frames.

    Args:
        z: Frames (T, B).
        first: First frame of each range (L,).
        last: End of each range (L,), exclusive.

    Returns:
        Sums of each band (L, B), and sums of the squares of all bands (L,).
    """
    sums = np.concatenate([np.zeros((1, z.shape[1])), np.cumsum(z, axis=0, dtype=np.float64)])
    squares = np.append(0.0, np.cumsum(np.square(z, dtype=np.float64).sum(1)))
    return sums[last] - sums[first], squares[last] - squares[first]


MIN_CLIPS = 20  # fewer clips give no useful score
MOST_CLIPS = 1500  # clips of a cross-validation; more are drawn at random


def shortcut_scores(
    pack: Pack, index: pd.DataFrame, targets: dict[str, dict[str, Any]], seed: int
) -> dict[str, dict[str, Any]]:
    """Score how well level, bandwidth, length and silence of the files alone predict each target.

    An SVM with a fixed penalty predicts each clip in a cross-validation that keeps groups together. Chance is the score
    of a constant: 1 / C for the macro recall of C classes, and 0 for a rank correlation.

    Args:
        pack: Pack of the properties of the files.
        index: Table of the clips.
        targets: Specifications of the targets.
        seed: Seed of the folds and of the selection of clips.

    Returns:
        For each target `metric`, `chance`, the numbers of clips `n` and groups `groups`, and `scores`, a list of
        `features` ("all" for all together) and `score` with its interval. Targets with too few clips are left out.
    """
    row_of_id = {clip: row for row, clip in enumerate(pack.index["id"])}
    result: dict[str, dict[str, Any]] = {}
    for name, spec in targets.items():
        is_label = spec["kind"] == "label"
        rows = np.flatnonzero([clip in row_of_id for clip in index["id"]] & index[name].notna().to_numpy())
        if len(rows) > MOST_CLIPS:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_CLIPS, replace=False))
        clips = index.iloc[rows]
        y = clips[name].to_numpy()
        y = y.astype(str) if is_label else y.astype(np.float64)
        groups = clips["group"].astype(object).where(clips["group"].notna(), None).tolist()
        folds = inner_folds(y, groups, spec["kind"], seed=seed) if len(y) >= MIN_CLIPS else []
        if not folds:
            continue
        x = np.concatenate([pack.clip(row_of_id[clip]) for clip in clips["id"]]).astype(np.float64)
        classes = [c for c in spec.get("classes", []) if c in set(y.tolist())]
        described = {"kind": spec["kind"], "classes": classes}
        table = clips.assign(**{"true": y})
        true = encode_column(table, "true", described)
        resamples = bootstrap.draw_resamples(groups, seed=seed, strata=true if is_label else None)
        metric, scores = "macro_recall" if is_label else "spearman", []
        for features, columns in _property_columns().items():
            candidate = Candidate("RBF SVM", {"C": 10.0, "gamma": 1 / len(columns)})
            (pred,) = out_of_fold_predictions([candidate], folds, x[:, columns], y, spec["kind"])
            coded = encode_column(table.assign(pred=pred), "pred", described)
            point, drawn = bootstrap.resampled_scores(build_scorer(true, described), coded, resamples)
            score = bootstrap.scores_with_intervals(point, drawn)[metric]
            scores.append({"features": features, "score": replace_non_finite(score)})
        result[name] = {
            "metric": metric,
            "chance": 1 / len(classes) if is_label else 0.0,
            "n": len(y),
            "groups": bootstrap.count_groups(groups),
            "scores": scores,
        }
    return result


def _property_columns() -> dict[str, list[int]]:
    """Return the columns of each group of properties, and of all."""
    columns: dict[str, list[int]] = {}
    for name, members in PROPERTIES.items():
        first = sum(map(len, columns.values()))
        columns[name] = list(range(first, first + len(members)))
    return columns | {"all": [column for group in columns.values() for column in group]}
