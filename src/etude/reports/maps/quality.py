"""Quality of embedding maps, as preserved neighbourhoods and nearest-neighbour predictions of the targets.

Trustworthiness is high if neighbours in the map are neighbours in the full space. Continuity is high if neighbours in
the full space are neighbours in the map (Venna & Kaski 2001). 1 means that all neighbours are preserved, and a random
map has about 0.5. Targets are predicted from the nearest neighbours in the map and in the full space, once among all
other clips and once among clips of other groups. Clips of one artist are similar for many reasons, so neighbours of the
same group are weak evidence about the target.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from etude.evaluation.metrics import regression

NEIGHBOURS = 10
BLOCK = 512
"""Number of clips whose distances to all others are in memory at once."""

Targets = dict[str, tuple[str, np.ndarray]]
"""Kind and true values (n,) by target: class indices with -1, or numbers with nan, for an unknown value."""


def neighbourhood_preservation(x: np.ndarray, coordinates: np.ndarray) -> dict[str, float | None]:
    """Compute trustworthiness and continuity of a map. Both are None for fewer than three clips.

    Args:
        x: Embeddings in the full space (n, D).
        coordinates: Coordinates in the map (n, dims).
    """
    from sklearn.manifold import trustworthiness

    k = min(NEIGHBOURS, (len(x) - 1) // 2)
    if k < 1:
        return {"trustworthiness": None, "continuity": None}
    return {
        "trustworthiness": float(trustworthiness(x, coordinates, n_neighbors=k)),
        "continuity": float(trustworthiness(coordinates, x, n_neighbors=k)),
    }


def neighbour_scores(x: np.ndarray, groups: np.ndarray, targets: Targets) -> dict[str, dict[str, Any]]:
    """Score the nearest-neighbour predictions of each target.

    Args:
        x: Points (n, D) in the full space or in a map.
        groups: Group index of each clip (n,).
        targets: Kind and true values by target.

    Returns:
        For each target:

        - `kind`
        - `n`: number of clips with a true value
        - `all_clips`: score with neighbours among all other clips (accuracy of a label, Spearman's correlation of a
          scalar)
        - `other_groups`: the same score with neighbours among clips of other groups
        - `n_other_groups`: number of clips in `other_groups`. Clips whose class occurs in no other group are excluded,
          because they cannot be predicted.
        - `silhouette` and `majority` (fraction of the most frequent class), only for a label

        An undefined value is None.
    """
    return {name: _target_scores(x, groups, kind, true) for name, (kind, true) in targets.items()}


def nearest_neighbours(x: np.ndarray, k: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the nearest other clips of each clip by Euclidean distance. Ties are resolved by row.

    Args:
        x: Points (n, D).
        k: Number of neighbours, at most n - 1, or with groups at most n minus the size of the largest group.
        groups: Group index of each clip (n,). Clips of the same group are excluded (leave one group out).

    Returns:
        Rows (n, k), int, nearest first.
    """
    from scipy.spatial.distance import cdist

    neighbours = np.empty((len(x), k), dtype=np.int64)
    for start in range(0, len(x), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(x)))
        distances = cdist(x[rows], x)
        excluded = rows[:, None] == np.arange(len(x)) if groups is None else groups[rows][:, None] == groups
        distances[excluded] = np.inf
        neighbours[rows] = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return neighbours


def accuracy(true: np.ndarray, neighbours: np.ndarray, scored: np.ndarray | slice = slice(None)) -> float:
    """Compute the accuracy of the majority class of the nearest neighbours. Ties are resolved by class index.

    Args:
        true: Class indices (n,).
        neighbours: Rows of the nearest neighbours (n, k).
        scored: Mask of the scored clips (n,), bool.
    """
    votes = (true[neighbours][:, :, None] == np.arange(true.max() + 1)).sum(1)
    return float((votes.argmax(1) == true)[scored].mean())


def spearman(true: np.ndarray, neighbours: np.ndarray, scored: np.ndarray | slice = slice(None)) -> float:
    """Compute the rank correlation of the true number and its mean over the nearest neighbours, nan for constants.

    Args:
        true: Numbers (n,).
        neighbours: Rows of the nearest neighbours (n, k).
        scored: Mask of the scored clips (n,), bool.
    """
    return float(regression(true[scored], true[neighbours].mean(1)[scored])["spearman"].item())


def _target_scores(x: np.ndarray, groups: np.ndarray, kind: str, true: np.ndarray) -> dict[str, Any]:
    """Return the nearest-neighbour scores of one target. Clips without a true value are excluded."""
    label = kind == "label"
    known = true >= 0 if label else np.isfinite(true)
    x, groups, true = x[known], groups[known], true[known]
    n = len(true)
    scored = _occurs_in_other_group(true, groups) if label else np.ones(n, dtype=bool)
    result: dict[str, Any] = {"kind": kind, "n": n, "all_clips": None, "other_groups": None}
    result["n_other_groups"] = int(scored.sum())
    if label:
        result |= {"majority": float(np.bincount(true).max() / n) if n else None, "silhouette": _silhouette(x, true)}
    if n < 3:
        return result
    score = accuracy if label else spearman
    outside = n - int(np.unique(groups, return_counts=True)[1].max())
    result["all_clips"] = _finite_or_none(score(true, nearest_neighbours(x, min(NEIGHBOURS, n - 1))))
    if outside and scored.any():
        neighbours = nearest_neighbours(x, min(NEIGHBOURS, outside), groups)
        result["other_groups"] = _finite_or_none(score(true, neighbours, scored))
    return result


def _occurs_in_other_group(true: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return for each clip whether its class occurs in more than one group (n,), bool."""
    pairs = np.unique(np.stack([true, groups], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=true.max(initial=-1) + 1)[true] > 1


def _silhouette(x: np.ndarray, true: np.ndarray) -> float | None:
    """Return the mean silhouette of the classes, or None if it is undefined."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(x, true)) if 1 < len(np.unique(true)) < len(true) else None


def _finite_or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
