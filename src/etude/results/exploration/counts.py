"""What the table of clips says: how many of each class, in which part, by how many groups; how scalars lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.splits import PARTS, UNUSED, group_codes

if TYPE_CHECKING:
    import pandas as pd

BINS = 20
ENOUGH = 3  # pairs of values below which a correlation says nothing


def parts(index: pd.DataFrame, assigned: np.ndarray | None) -> dict[str, dict[str, int]]:
    """Clips and groups of each part; empty when there is no split."""
    if assigned is None:
        return {}
    groups = group_codes(index)
    rows = {part: assigned == part for part in (*PARTS, UNUSED)}
    return {
        part: {"clips": int(here.sum()), "groups": len(set(groups[here]))}
        for part, here in rows.items()
        if part != UNUSED or here.any()
    }


def label(index: pd.DataFrame, name: str, spec: dict[str, Any], assigned: np.ndarray | None) -> dict[str, Any]:
    """Clips of each class: all, by part, and the groups that they come from.

    Returns:
        `missing`, clips without this label, and `classes`: per class `class`, `clips`, `groups`, and `parts`, clips by
        part, which is empty when there is no split.
    """
    groups, column = group_codes(index), index[name].to_numpy()
    seen = [] if assigned is None else [part for part in (*PARTS, UNUSED) if part != UNUSED or (assigned == part).any()]
    rows = []
    for kind in spec["classes"]:
        here = column == kind
        counts = {part: int((here & (assigned == part)).sum()) for part in seen}
        rows.append({"class": kind, "clips": int(here.sum()), "groups": len(set(groups[here])), "parts": counts})
    return {"missing": int(index[name].isna().sum()), "classes": rows}


def histogram(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """Counts of values in twenty equal bins; for whole numbers in fewer when each bin can be as many of them.

    Args:
        values: (n,); missing ones are NaN.
        low: Lowest value that can be.
        high: Highest.

    Returns:
        `n`, `missing`, `edges` (B + 1), `counts` (B), and `mean`, `sd`, `min`, `median`, `max` where n allows them.
    """
    there = values[np.isfinite(values)]
    bins, whole = BINS, len(there) > 0 and (there == there.round()).all() and high - low >= 2
    if whole:  # else some bins would hold two of them and others one
        step = int(np.ceil((high - low + 1) / BINS))
        bins, low = int(np.ceil((high - low + 1) / step)), low - 0.5
        high = low + bins * step
    counts, edges = np.histogram(there, bins, (low, high))
    found: dict[str, Any] = {"n": len(there), "missing": len(values) - len(there)}
    found |= {"counts": counts.tolist(), "edges": edges.tolist()}
    for name, function in (("mean", np.mean), ("min", np.min), ("median", np.median), ("max", np.max)):
        found[name] = float(function(there)) if len(there) else None
    return found | {"sd": _sd(there)}


def correlations(index: pd.DataFrame, names: list[str]) -> list[list[dict[str, Any]]]:
    """Spearman's rank correlation between scalars over the clips that have both: `value` and `n` per pair."""
    return [[_spearman(index[one].to_numpy(float), index[other].to_numpy(float)) for other in names] for one in names]


def by_class(index: pd.DataFrame, name: str, classes: list[str], scalars: list[str]) -> list[dict[str, Any]]:
    """Mean and standard deviation of each scalar over the clips of each class, with their number."""
    rows = []
    for kind in classes:
        here = index[index[name] == kind]
        cells = []
        for scalar in scalars:
            values = here[scalar].dropna().to_numpy(float)
            cells.append({"mean": float(values.mean()) if len(values) else None, "sd": _sd(values), "n": len(values)})
        rows.append({"class": kind, "scalars": cells})
    return rows


def _sd(values: np.ndarray) -> float | None:
    """Standard deviation as of a sample, None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _spearman(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from scipy.stats import spearmanr

    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    enough = len(x) >= ENOUGH and len(set(x)) > 1 and len(set(y)) > 1  # one value orders nothing
    return {"value": float(spearmanr(x, y).statistic) if enough else None, "n": len(x)}
