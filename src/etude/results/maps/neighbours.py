"""What the nearest clips know: a class by vote, a number by mean, with or without clips of the same group."""

from __future__ import annotations

import numpy as np

from etude.results.metrics import regression

BLOCK = 512
"""Clips whose distances to all others are held at once."""


def nearest(x: np.ndarray, k: int, groups: np.ndarray | None = None) -> np.ndarray:
    """The nearest other clips of each clip, by Euclidean distance; of equally near ones the first.

    Args:
        x: Points (n, D).
        k: How many, at most n - 1; with groups, at most what the largest group leaves.
        groups: Group number of each clip (n,): clips of the same group are passed over (leave one group out).

    Returns:
        Rows (n, k), int, nearest first.
    """
    from scipy.spatial.distance import cdist

    found = np.empty((len(x), k), dtype=np.int64)
    for start in range(0, len(x), BLOCK):
        here = np.arange(start, min(start + BLOCK, len(x)))
        distances = cdist(x[here], x)
        same = here[:, None] == np.arange(len(x)) if groups is None else groups[here][:, None] == groups
        distances[same] = np.inf
        found[here] = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return found


def accuracy(true: np.ndarray, near: np.ndarray, asked: np.ndarray | slice = slice(None)) -> float:
    """Share of clips whose class most of their nearest clips have; of equal votes the first class counts.

    Args:
        true: Class numbers (n,).
        near: Rows of the nearest clips (n, k).
        asked: Which clips count (n,), bool.
    """
    votes = (true[near][:, :, None] == np.arange(true.max() + 1)).sum(1)
    return float((votes.argmax(1) == true)[asked].mean())


def spearman(true: np.ndarray, near: np.ndarray, asked: np.ndarray | slice = slice(None)) -> float:
    """Rank correlation of a number with its mean over the nearest clips; nan where one of them does not vary.

    Args:
        true: Numbers (n,).
        near: Rows of the nearest clips (n, k).
        asked: Which clips count (n,), bool.
    """
    return float(regression(true[asked], true[near].mean(1)[asked])["spearman"].item())
