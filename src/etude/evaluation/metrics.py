"""A bootstrap resample is a vector of clip weights, and every metric takes weights (R, n).

Weights of one are the point estimate; R rows of integer weights are R resamples at once, because a clip drawn twice is
a clip of weight two. One formula therefore serves the score of an epoch (R = 1), its interval and the paired difference
to a baseline, in numpy and with no loop over resamples.

Conventions where a quotient is 0 / 0:

- A class that is in the truth but never predicted has precision, recall and F1 of 0.
- A class with no support in a resample is left out of that resample's macro mean: nothing can be found of what is not
  there. This is scikit-learn's `labels=np.unique(true), zero_division=0`. Its default also averages over classes that
  only the predictions name, at F1 0, so that one stray prediction can move the mean by 1 / C.
- A correlation with a constant is undefined: nan, never 0. So is R2 when the truth is constant.
- Lin's concordance (ccc) of a constant prediction is 0 by its own formula: its denominator does not vanish.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PRIMARY = {"label": "macro_f1", "scalar": "spearman"}
"""The score that leads, by kind of target: neither can be raised by predicting the most common value for every clip."""

LOWER_IS_BETTER = frozenset({"mse", "mae", "rmse"})


def classification(
    true: np.ndarray, pred: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Scores of single-label predictions.

    With one label per clip, micro precision, recall and F1 all equal accuracy; they stand here because readers look
    for them.

    Args:
        true: Class indices (n,), int, each in 0..classes-1.
        pred: Class indices (n,), int, likewise.
        classes: Number of classes, C.
        weights: Clip weights (R, n), at least 0; without them one row of ones.

    Returns:
        accuracy and {macro, micro, weighted}_{precision, recall, f1}: float64 (R,) each, in [0, 1].

    Raises:
        ValueError: Shapes that do not agree, fewer than two clips, or an index outside the classes.
    """
    true, pred, weights = _door(true, pred, weights)
    for what, values in (("true", true), ("pred", pred)):
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= classes:
            raise ValueError(f"{what} must be class indices in 0..{classes - 1}, got {values.dtype} {values}")
    every = np.arange(classes)
    support = weights @ (true[:, None] == every)  # (R, C)
    predicted = weights @ (pred[:, None] == every)
    hits = weights @ ((true[:, None] == every) & (pred == true)[:, None])
    present = support > 0
    scores = {"accuracy": _divide(hits.sum(1), support.sum(1))}
    by_class = {
        "precision": np.where(predicted > 0, _divide(hits, predicted), 0.0),
        "recall": np.where(present, _divide(hits, support), 0.0),
        "f1": np.where(present, _divide(2 * hits, support + predicted), 0.0),
    }
    for name, values in by_class.items():
        scores[f"macro_{name}"] = _divide((values * present).sum(1), present.sum(1))
        scores[f"micro_{name}"] = scores["accuracy"]
        scores[f"weighted_{name}"] = _divide((values * support).sum(1), support.sum(1))
    return scores


def regression(true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Scores of predicted numbers.

    Args:
        true: Targets (n,), float, in the target's own unit.
        pred: Predictions (n,), float, in the same unit.
        weights: Clip weights (R, n), integers of at least 0; without them one row of ones.

    Returns:
        spearman, pearson, ccc (Lin 1989), mse, mae, rmse and r2: float64 (R,) each. mse is in squared units, mae and
        rmse in units of the target.

    Raises:
        ValueError: Shapes that do not agree, fewer than two clips, or a value that is not finite.
    """
    true, pred, weights = _door(true, pred, weights)
    for what, values in (("true", true), ("pred", pred)):
        if not np.isfinite(values).all():
            raise ValueError(f"{what} holds {(~np.isfinite(values)).sum()} of {len(values)} values that are not finite")
    total = weights.sum(1)
    ranks_true, varies_true = _ranks(true, weights)
    ranks_pred, varies_pred = _ranks(pred, weights)
    both = varies_true & varies_pred

    # Moments are taken about the means of all clips: the same values, without the cancellation of large numbers.
    error = pred - true
    x, y = true - true.mean(), pred - pred.mean()
    mean_x, mean_y = _divide(weights @ x, total), _divide(weights @ y, total)
    var_x = np.maximum(_divide(weights @ x**2, total) - mean_x**2, 0) * varies_true
    var_y = np.maximum(_divide(weights @ y**2, total) - mean_y**2, 0) * varies_pred
    covariance = np.where(both, _divide(weights @ (x * y), total) - mean_x * mean_y, 0.0)
    mse = _divide(weights @ error**2, total)
    return {
        "spearman": np.where(both, _correlation(ranks_true, ranks_pred, weights), np.nan),
        "pearson": np.where(both, np.clip(_divide(covariance, np.sqrt(var_x * var_y)), -1, 1), np.nan),
        "ccc": _divide(2 * covariance, var_x + var_y + _divide(weights @ error, total) ** 2),
        "mse": mse,
        "mae": _divide(weights @ np.abs(error), total),
        "rmse": np.sqrt(mse),
        "r2": 1 - _divide(mse, var_x),
    }


def _door(true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check shapes; arrays true (n,), pred (n,) and float64 weights (R, n)."""
    true, pred = np.asarray(true), np.asarray(pred)
    if true.ndim != 1 or true.shape != pred.shape:
        raise ValueError(
            f"true {true.shape} and pred {pred.shape} must both be (n,): "
            "an (n, 1) against an (n,) would broadcast to (n, n)"
        )
    if len(true) < 2:
        raise ValueError(f"a score of {len(true)} clip(s) says nothing: at least two are needed")
    weights = np.ones((1, len(true))) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(true):
        raise ValueError(f"weights {weights.shape} must be (R, n) with n = {len(true)}")
    return true, pred, weights


def _ranks(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average ranks (R, n) in each resample, and whether its values differ at all (R,).

    A value of weight w after smaller ones of weight c holds places c + 1 .. c + w: c + (w + 1) / 2 on average.
    """
    distinct, which = np.unique(values, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(len(distinct)))
    mass = np.add.reduceat(weights[:, order], starts, axis=1)  # (R, K), K distinct values
    places = np.cumsum(mass, axis=1) - mass + (mass + 1) / 2
    return places[:, which], (mass > 0).sum(1) > 1


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted product-moment correlation (R,) of x (R, n) and y (R, n)."""
    total = weights.sum(1, keepdims=True)
    x = x - _divide((weights * x).sum(1, keepdims=True), total)
    y = y - _divide((weights * y).sum(1, keepdims=True), total)
    wx = weights * x
    return np.clip(_divide((wx * y).sum(1), np.sqrt((wx * x).sum(1) * (weights * y**2).sum(1))), -1, 1)


def _divide(a: Any, b: Any) -> np.ndarray:
    """Quotient a / b, with nan and no warning where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)
