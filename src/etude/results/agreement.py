"""How far predicted numbers lie from the truth, and to which side: mean residual and limits of agreement.

Bland & Altman (1986, Lancet 327): residuals whose size does not depend on the truth lie between the limits 95 times in
a hundred. Residuals are prediction minus truth, in units of the target; against the truth even a good network's fall,
because what is uncertain is drawn to the mean.
"""

from __future__ import annotations

import numpy as np

WIDTH = 1.96
"""Standard deviations from the mean to a limit: 95 % of a normal distribution."""


def scores(true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Judge residuals.

    Args:
        true: Targets (n,), float.
        pred: Predictions (n,), float.
        weights: Clip weights (R, n), integers of at least 0; without them one row of ones.

    Returns:
        bias (mean residual), sd (its standard deviation, of a sample), lower and upper (the limits of agreement):
        float64 (R,) each, in units of the target; nan where a resample is of one clip.
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    error = (pred - true).astype(np.float64)
    total = weights.sum(1).astype(np.float64)
    bias = weights @ error / total
    squares = weights @ (error - error.mean()) ** 2 - total * (bias - error.mean()) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt(np.maximum(squares, 0) / (total - 1))
    return {"bias": bias, "sd": sd, "lower": bias - WIDTH * sd, "upper": bias + WIDTH * sd}
