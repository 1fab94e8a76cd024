"""Units of clips, such as artists, to parts of given shares, with every class in proportion in each part."""

from __future__ import annotations

import numpy as np

WORK = 20_000  # units placed over all restarts: many restarts for few units, one for very many


def partition(units: np.ndarray, strata: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """Part of each clip (n,), an index of `fractions`.

    Args:
        units: What stays together, an integer per clip (n,), 0 ... G - 1.
        strata: Class of each clip (n,), 0 ... C - 1, kept in proportion.
        fractions: Share of clips of each part; they add up to 1.
        seed: Another seed, another partition of the same quality.
    """
    return _place(_counts(units, strata), fractions, seed)[units]


def _counts(units: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Clips of each class in each unit, (G, C)."""
    counts = np.zeros((units.max() + 1, strata.max() + 1))
    np.add.at(counts, (units, strata), 1)
    return counts[:, counts.sum(0) > 0]


def _place(counts: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """Part (G,) of each unit: greedy, largest first, best of several seeded orders.

    The cost of a placement is the squared deviation of every class's share from its part's fraction; a class that is
    missing from a part altogether costs more than any deviation, so each part has each class wherever that can be.
    """
    rng = np.random.default_rng(seed)
    share = counts / counts.sum(0)
    target = np.array(fractions)[:, None]
    best, least = np.zeros(len(counts), int), np.inf
    for attempt in range(max(2, min(500, WORK // len(counts)))):
        order = rng.permutation(len(counts))
        order = order[np.argsort(-share[order].max(1) * rng.uniform(0.5, 1.0, len(order)), kind="stable")]
        have, parts = np.zeros((len(fractions), counts.shape[1])), np.zeros(len(counts), int)
        for unit in order:
            # what placing here takes off the distance to the target
            gain = ((target - have) ** 2 - (target - have - share[unit]) ** 2).sum(1) / target[:, 0]
            if attempt % 2:  # an empty part comes first, then one that lacks a class of this unit
                gain += 100.0 * (have == 0).all(1) + ((have == 0) & (share[unit] > 0)).sum(1)
            parts[unit] = int(np.argmax(gain + rng.uniform(0, 1e-9, len(gain))))
            have[parts[unit]] += share[unit]
        cost = float(((have - target) ** 2).sum() + 10 * (have == 0).sum() + 1000 * (have == 0).all(1).sum())
        if cost < least:
            best, least = parts, cost
    return best
