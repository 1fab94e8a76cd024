"""Whether two runs differ, from what each said of the same clips.

Two questions, and what each takes for granted:

- The leading metric: groups are resampled as for every interval here (`results.bootstrap`), both runs are scored on the
  same resamples, and the p value is the share of resamples on the other side of zero, doubled (Efron & Tibshirani 1993,
  An Introduction to the Bootstrap, 15.4), with one added to both counts, so that it is never 0 (Davison & Hinkley 1997,
  Bootstrap Methods, 4.2.5). Resamples of few groups are too sure of themselves, so that p is never below what G groups
  can show: by chance alone one run is ahead in all of them, or behind in all, once in 2 ** (G - 1) times (sign test).
- Accuracy: McNemar's exact test on the clips that one run has right and the other has not (McNemar 1947; Dietterich
  1998). It takes clips for independent ones: where groups are few it is too sure.

Of many pairs some differ by luck. Holm's correction (1979) keeps the chance of even one such find at its level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.05
"""Below this a corrected p value counts as a difference."""


def two_sided(differences: np.ndarray, groups: int) -> float | None:
    """Bootstrap p value of "no difference".

    Args:
        differences: Of two runs on each resample (R,); those that are nan are left out.
        groups: How many groups were resampled, G.

    Returns:
        A value in (0, 1], or None where no resample has a difference.
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    fewer = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, max(2 * (1 + fewer) / (1 + len(known)), floor(groups))))


def floor(groups: int) -> float:
    """The smallest p value that so many groups can show."""
    return 2.0 ** (1 - groups)


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
