"""A score on the clips and on every resample of them, and how both are written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from etude.results import bootstrap

BLOCK = 2**22
"""Clip weights that are scored at once: 32 MB of float64 for each array that a metric makes."""

Scores = dict[str, np.ndarray]
Score = Callable[[np.ndarray, "np.ndarray | None"], Scores]
"""Predictions (n,) and clip weights (R, n), or none, to scores (R,) by name."""


def scores(score: Score, pred: np.ndarray, resamples: np.ndarray) -> tuple[Scores, Scores]:
    """The point estimate (1,) and the resamples' scores (R,), in blocks that fit in a small machine's memory."""
    rows = max(1, BLOCK // len(pred))
    blocks = [score(pred, resamples[i : i + rows]) for i in range(0, len(resamples), rows)]
    point = score(pred, None)
    return point, {m: np.concatenate([block[m] for block in blocks] or [np.empty(0)]) for m in point}


def numbers(point: Scores, drawn: Scores) -> dict[str, dict[str, float]]:
    """Each score with its interval."""
    return {metric: number(point[metric][0], bootstrap.interval(drawn[metric])) for metric in point}


def number(value: float, ends: tuple[float, float]) -> dict[str, float]:
    """A score with both ends of its interval, as metrics.json has it."""
    return {"value": float(value), "low": ends[0], "high": ends[1]}
