"""Whether two runs differ, from what each said of the same clips.

Two questions, and what each takes for granted:

- The leading metric: groups are resampled as for every interval here (`results.bootstrap`), both runs are scored on the
  same resamples, and the p value is the share of resamples on the other side of zero, doubled (Efron & Tibshirani 1993,
  An Introduction to the Bootstrap, 15.4), with one added to both counts, so that it is never 0 (Davison & Hinkley 1997,
  Bootstrap Methods, 4.2.5). With few groups that is too sure: of two equal networks it called one better in 16 of 100
  simulated comparisons on 6 groups. So p is at least that of a t test with G - 1 degrees of freedom, whose standard
  error is that of the resamples times sqrt(G / (G - 1)) (Cameron, Gelbach & Miller 2008): then 4 of 100.
- Accuracy: McNemar's exact test on the clips that one run has right and the other has not (McNemar 1947; Dietterich
  1998). It takes clips for independent ones: where groups are few it is too sure.

Of many pairs some differ by luck. Holm's correction (1979) keeps the chance of even one such find at its level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.05
"""Below this a corrected p value counts as a difference."""


def two_sided(gain: float, differences: np.ndarray, groups: int) -> float | None:
    """The p value of "no difference" between two runs.

    Args:
        gain: Their difference on all clips.
        differences: Their differences on each resample (R,); those that are nan are left out.
        groups: How many groups were resampled, G.

    Returns:
        A value in (0, 1], or None where fewer than two resamples have a difference.
    """
    from scipy.stats import t

    known = differences[~np.isnan(differences)]
    if len(known) < 2:
        return None
    fewer = min((known <= 0).sum(), (known >= 0).sum())
    error = known.std(ddof=1) * np.sqrt(groups / (groups - 1))
    by_size = 2 * t.sf(abs(gain) / error, groups - 1) if error else 0.0
    return float(min(1.0, max(2 * (1 + fewer) / (1 + len(known)), by_size)))


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test.

    Args:
        a: Whether the first run has each clip right (n,), bool.
        b: Whether the second has, likewise.

    Returns:
        Clips that only the first has right, clips that only the second has, and the two-sided binomial p value.
    """
    from scipy.stats import binomtest

    first, second = int((a & ~b).sum()), int((~a & b).sum())
    p = float(binomtest(first, first + second, 0.5).pvalue) if first + second else 1.0
    return first, second, p


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values: the smallest of m times m, the next times m - 1, and never less than one before.

    Args:
        p: Values of m tests; None for one that could not be made, which is not counted.
    """
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[i] = highest
    return adjusted
