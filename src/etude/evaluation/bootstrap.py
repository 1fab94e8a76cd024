"""Cluster bootstrap over groups and scores on its resamples.

Clips of one artist are correlated, so forty clips by five artists are closer to five observations than to forty.
Therefore a resample draws complete groups with replacement (cluster bootstrap, Field & Welsh 2007, J. R. Stat. Soc. B
69(3)). It is stored as the weight of each clip. Network and baseline are scored on the same resamples, so their
difference has its own interval.

For a label, groups are drawn separately in each class, as in the split (strata, Davison & Hinkley 1997, Bootstrap
Methods, 3.2). A resample without a class would have another macro mean, and this variation is not due to the network.
If a class has only one group, the clips of that group are drawn. The interval then does not include the variation
between groups of that class, and the report mentions this.

With few groups, such as fewer than ten, the intervals are rough and usually too narrow (Cameron, Gelbach & Miller 2008,
Rev. Econ. Stat. 90(3)). They are a lower bound on the uncertainty. One group cannot be resampled and has no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
FEW_GROUPS = 10
"""Minimum number of groups for intervals without a caution in the report."""


def encode_groups(groups: Sequence[object]) -> np.ndarray:
    """Return the group index of each clip (n,), int64. A clip whose group is None, nan or "" is its own group."""
    names: dict[object, int] = {}
    return np.array(
        [names.setdefault(_group_key(group, i), len(names)) for i, group in enumerate(groups)], dtype=np.int64
    )


def draw_weights(
    groups: Sequence[object], resamples: int = RESAMPLES, seed: int = 0, strata: np.ndarray | None = None
) -> np.ndarray:
    """Draw groups with replacement and return the multiplicity of each clip in each resample.

    Args:
        groups: Groups of the n clips.
        resamples: Number of resamples, R.
        seed: Seed of the draws. The same table has the same intervals.
        strata: Class of each clip (n,), int. Each class then has a constant number of groups in every resample. A group
            belongs to the class of most of its clips. If a class has one group, its clips are drawn instead. Without
            strata, groups are drawn from all groups.

    Returns:
        Weights (R, n), int32; (0, n) for fewer than two groups.
    """
    group = encode_groups(groups)
    count = int(group.max(initial=-1)) + 1
    if count < 2:
        return np.zeros((0, len(group)), dtype=np.int32)
    rng = np.random.default_rng(seed)
    if strata is None:
        return _draw_counts(count, resamples, rng)[:, group]
    owner = np.array([np.bincount(strata[group == g]).argmax() for g in range(count)])
    drawn = np.zeros((resamples, len(group)), dtype=np.int32)
    for stratum in np.unique(owner):
        clips = np.flatnonzero(owner[group] == stratum)
        names, index = np.unique(group[clips], return_inverse=True)
        drawn[:, clips] = (
            _draw_counts(len(names), resamples, rng)[:, index]
            if len(names) > 1
            else _draw_counts(len(clips), resamples, rng)
        )
    return drawn


def _draw_counts(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the multiplicity of each of `count` items in `count` draws with replacement, (R, count), int32."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.int32)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Compute the percentile confidence interval of a score's resamples (R,). Resamples with nan are ignored.

    Returns:
        Lower and upper end; (nan, nan) if all resamples are nan.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(network: np.ndarray, baseline: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Compute the confidence interval of network minus baseline from scores (R,) on the same resamples.

    The scores of both models are correlated over resamples, so the overlap of two separate intervals does not
    test a difference.
    """
    if network.shape != baseline.shape:
        raise ValueError(f"scores {network.shape} and {baseline.shape} are not of the same resamples")
    return percentile_interval(network - baseline, level)


def _group_key(group: object, i: int) -> object:
    """Return the key of a group, which is unique for a missing group."""
    missing = group is None or group == "" or group != group  # nan is not equal to itself
    return (i,) if missing else str(group)


BLOCK = 2**22
"""Number of clip weights that are scored at once. Each array of a metric then has 32 MB of float64."""

ResampledScores = dict[str, np.ndarray]
ResampledScore = Callable[[np.ndarray, "np.ndarray | None"], ResampledScores]
"""Function that takes predictions (n,) and clip weights (R, n) or None, and returns scores (R,) by name."""


def resampled_scores(
    score: ResampledScore, pred: np.ndarray, resamples: np.ndarray
) -> tuple[ResampledScores, ResampledScores]:
    """Compute the point estimate (1,) and the scores of the resamples (R,), in blocks that limit the memory usage."""
    rows = max(1, BLOCK // len(pred))
    blocks = [score(pred, resamples[i : i + rows]) for i in range(0, len(resamples), rows)]
    point = score(pred, None)
    return point, {m: np.concatenate([block[m] for block in blocks] or [np.empty(0)]) for m in point}


def scores_with_intervals(point: ResampledScores, drawn: ResampledScores) -> dict[str, dict[str, float]]:
    """Return each score with its interval in the format of metrics.json."""
    return {metric: score_with_interval(point[metric][0], percentile_interval(drawn[metric])) for metric in point}


def score_with_interval(value: float, interval: tuple[float, float]) -> dict[str, float]:
    """Return a score with its interval in the format of metrics.json."""
    return {"value": float(value), "low": interval[0], "high": interval[1]}
