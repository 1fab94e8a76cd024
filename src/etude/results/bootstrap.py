"""What is resampled is the group, not the clip.

Clips of one artist resemble each other: forty clips by five artists are nearer to five observations than to forty. A
resample therefore draws whole groups with replacement (the cluster bootstrap: Field & Welsh 2007, J. R. Stat. Soc. B
69(3)), and it is kept as the weight of each clip, so that network and baseline are scored on the very same resamples
and their difference has an interval of its own.

With few groups (say fewer than ten) such intervals are rough and as a rule too narrow (Cameron, Gelbach & Miller 2008,
Rev. Econ. Stat. 90(3)): read them as a lower bound on the doubt. One group cannot be resampled and has no interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
FEW_GROUPS = 10
"""Below this many groups a report says that its intervals are rough."""


def codes(groups: Sequence[object]) -> np.ndarray:
    """Group number of each clip (n,), int64; a clip whose group is None, nan or "" is a group of its own."""
    names: dict[object, int] = {}
    return np.array([names.setdefault(_key(group, i), len(names)) for i, group in enumerate(groups)], dtype=np.int64)


def weights(groups: Sequence[object], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each clip is in each resample of whole groups with replacement.

    Args:
        groups: Group of each clip, n of them.
        resamples: Number of resamples, R.
        seed: Seed of the draw: the same table has the same intervals.

    Returns:
        Weights (R, n), int32; (0, n) when there are fewer than two groups.
    """
    group = codes(groups)
    count = int(group.max(initial=-1)) + 1
    if count < 2:
        return np.zeros((0, len(group)), dtype=np.int32)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return draws.astype(np.int32)[:, group]


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
