"""Quality of maps: preserved neighbours, and labels of the nearest clips.

Trustworthiness asks whether neighbours in the map are neighbours in the full space, continuity whether neighbours in
the full space are still neighbours in the map (Venna & Kaski 2001); 1 is all of them, and 0.5 about what chance gives.
Whether neighbours tell the target is asked in the map and in the full space, of all other clips and of clips of other
groups alone: two clips of one artist are near for many reasons, and prove nothing about the class.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from etude.evaluation.metrics import regression

NEIGHBOURS = 10
BLOCK = 512
"""Clips whose distances to all others are held at once."""

Targets = dict[str, tuple[str, np.ndarray]]
"""By target, its kind and the truth (n,): class numbers with -1, or numbers with nan, where it is not known."""


def neighbourhood_preservation(x: np.ndarray, at: np.ndarray) -> dict[str, float | None]:
    """Return trustworthiness and continuity of a map, both None for fewer than three clips.

    Args:
        x: Full space (n, D).
        at: Map (n, dims).
    """
    from sklearn.manifold import trustworthiness

    k = min(NEIGHBOURS, (len(x) - 1) // 2)
    if k < 1:
        return {"trustworthiness": None, "continuity": None}
    return {
        "trustworthiness": float(trustworthiness(x, at, n_neighbors=k)),
        "continuity": float(trustworthiness(at, x, n_neighbors=k)),
    }


def neighbour_scores(x: np.ndarray, groups: np.ndarray, targets: Targets) -> dict[str, dict[str, Any]]:
    """Measure how well the neighbours in a space predict each target.

    Args:
        x: A space (n, D): the full one, or a map.
        groups: Group number of each clip (n,).
        targets: Kind and true values.

    Returns:
        By target: n clips that have it; `all`, from all other clips, and `others`, from clips of other groups,
        accuracy of a label and Spearman correlation of a scalar; `asked`, the clips that `others` is of: those whose
        class another group has, since no neighbour could tell the rest; for labels `silhouette` and `chance`, the share
        of the most frequent class. None where it is undefined.
    """
    return {name: _score(x, groups, kind, true) for name, (kind, true) in targets.items()}


def nearest(x: np.ndarray, k: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the nearest other clips of each clip, by Euclidean distance; of equally near ones the first.

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
    """Return the share of clips whose class most of their nearest clips have; of equal votes the first class counts.

    Args:
        true: Class numbers (n,).
        near: Rows of the nearest clips (n, k).
        asked: Which clips count (n,), bool.
    """
    votes = (true[near][:, :, None] == np.arange(true.max() + 1)).sum(1)
    return float((votes.argmax(1) == true)[asked].mean())


def spearman(true: np.ndarray, near: np.ndarray, asked: np.ndarray | slice = slice(None)) -> float:
    """Return the rank correlation of a number with its mean over the nearest clips; nan where one does not vary.

    Args:
        true: Numbers (n,).
        near: Rows of the nearest clips (n, k).
        asked: Which clips count (n,), bool.
    """
    return float(regression(true[asked], true[near].mean(1)[asked])["spearman"].item())


def _score(x: np.ndarray, groups: np.ndarray, kind: str, true: np.ndarray) -> dict[str, Any]:
    label = kind == "label"
    known = true >= 0 if label else np.isfinite(true)
    x, groups, true = x[known], groups[known], true[known]
    n = len(true)
    asked = _elsewhere(true, groups) if label else np.ones(n, dtype=bool)
    result: dict[str, Any] = {"kind": kind, "n": n, "all": None, "others": None, "asked": int(asked.sum())}
    if label:
        result |= {"chance": float(np.bincount(true).max() / n) if n else None, "silhouette": _silhouette(x, true)}
    if n < 3:
        return result
    score = accuracy if label else spearman
    outside = n - int(np.unique(groups, return_counts=True)[1].max())
    result["all"] = _number(score(true, nearest(x, min(NEIGHBOURS, n - 1))))
    if outside and asked.any():
        near = nearest(x, min(NEIGHBOURS, outside), groups)
        result["others"] = _number(score(true, near, asked))
    return result


def _elsewhere(true: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return whether a class is in more than one group, for each clip (n,), bool."""
    pairs = np.unique(np.stack([true, groups], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=true.max(initial=-1) + 1)[true] > 1


def _silhouette(x: np.ndarray, true: np.ndarray) -> float | None:
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(x, true)) if 1 < len(np.unique(true)) < len(true) else None


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
