"""Bootstrap over groups, and scores with their resamples.

Clips of one artist resemble each other: forty clips by five artists are nearer to five observations than to forty. A
resample therefore draws whole groups with replacement (the cluster bootstrap: Field & Welsh 2007, J. R. Stat. Soc. B
69(3)), and it is kept as the weight of each clip, so that network and baseline are scored on the very same resamples
and their difference has an interval of its own.

For a label the groups are drawn class by class (strata: Davison & Hinkley 1997, Bootstrap Methods, 3.2), as the split
itself was: a resample that lacks a class has another macro mean, and would measure that instead of the network. A class
that one group alone holds has only its clips to draw from; how another group of that class would fare is then in no
interval, and a report says so.

With few groups (say fewer than ten) such intervals are rough and as a rule too narrow (Cameron, Gelbach & Miller 2008,
Rev. Econ. Stat. 90(3)): read them as a lower bound on the doubt. One group cannot be resampled and has no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
FEW_GROUPS = 10
"""Below this many groups a report says that its intervals are rough."""


def codes(groups: Sequence[object]) -> np.ndarray:
    """Group number of each clip (n,), int64; a clip whose group is None, nan or "" is a group of its own."""
    names: dict[object, int] = {}
    return np.array([names.setdefault(_key(group, i), len(names)) for i, group in enumerate(groups)], dtype=np.int64)


def weights(
    groups: Sequence[object], resamples: int = RESAMPLES, seed: int = 0, strata: np.ndarray | None = None
) -> np.ndarray:
    """How often each clip is in each resample of whole groups with replacement.

    Args:
        groups: Group of each clip, n of them.
        resamples: Number of resamples, R.
        seed: Seed of the draw: the same table has the same intervals.
        strata: Class of each clip (n,), int. Each class then keeps its number of groups in every resample (a group is
            of the class that most of its clips have), and a class of one group has its clips drawn instead. Without
            strata, groups are drawn from all.

    Returns:
        Weights (R, n), int32; (0, n) when there are fewer than two groups.
    """
    group = codes(groups)
    count = int(group.max(initial=-1)) + 1
    if count < 2:
        return np.zeros((0, len(group)), dtype=np.int32)
    rng = np.random.default_rng(seed)
    if strata is None:
        return _draw(count, resamples, rng)[:, group]
    owner = np.array([np.bincount(strata[group == g]).argmax() for g in range(count)])
    drawn = np.zeros((resamples, len(group)), dtype=np.int32)
    for stratum in np.unique(owner):
        clips = np.flatnonzero(owner[group] == stratum)
        names, place = np.unique(group[clips], return_inverse=True)
        drawn[:, clips] = (
            _draw(len(names), resamples, rng)[:, place] if len(names) > 1 else _draw(len(clips), resamples, rng)
        )
    return drawn


def _draw(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` is drawn in `count` draws with replacement, (R, count), int32."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.int32)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a score's resamples (R,); resamples where the score is nan are left out.

    Returns:
        Lower and upper end; (nan, nan) when no resample has a score.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def difference(network: np.ndarray, baseline: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Paired interval of network minus baseline, from scores (R,) each on the same resamples.

    Two intervals that overlap say little about a difference: what makes a resample hard is hard for both.
    """
    if network.shape != baseline.shape:
        raise ValueError(f"scores {network.shape} and {baseline.shape} are not of the same resamples")
    return interval(network - baseline, level)


def _key(group: object, i: int) -> object:
    missing = group is None or group == "" or group != group  # nan is not equal to itself
    return (i,) if missing else str(group)


BLOCK = 2**22
"""Clip weights that are scored at once: 32 MB of float64 for each array that a metric makes."""

ResampledScores = dict[str, np.ndarray]
ResampledScore = Callable[[np.ndarray, "np.ndarray | None"], ResampledScores]
"""Predictions (n,) and clip weights (R, n), or none, to scores (R,) by name."""


def resampled_scores(
    score: ResampledScore, pred: np.ndarray, resamples: np.ndarray
) -> tuple[ResampledScores, ResampledScores]:
    """The point estimate (1,) and the resamples' scores (R,), in blocks that fit in a small machine's memory."""
    rows = max(1, BLOCK // len(pred))
    blocks = [score(pred, resamples[i : i + rows]) for i in range(0, len(resamples), rows)]
    point = score(pred, None)
    return point, {m: np.concatenate([block[m] for block in blocks] or [np.empty(0)]) for m in point}


def resampled_numbers(point: ResampledScores, drawn: ResampledScores) -> dict[str, dict[str, float]]:
    """Each score with its interval."""
    return {metric: resampled_number(point[metric][0], interval(drawn[metric])) for metric in point}


def resampled_number(value: float, ends: tuple[float, float]) -> dict[str, float]:
    """A score with both ends of its interval, as metrics.json has it."""
    return {"value": float(value), "low": ends[0], "high": ends[1]}
