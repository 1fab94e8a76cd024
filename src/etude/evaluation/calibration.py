"""Calibration of probabilities and limits of agreement of scalars.

Negative log-likelihood and Brier score are proper scoring rules. Their expected values are smallest for the true
probabilities.
The expected calibration error compares only the confidence with the accuracy. It does not measure the accuracy itself,
so it is not used to select runs.

Clip weights (R, n) are resamples, as in `metrics`.

Limits of agreement are from Bland & Altman (1986, Lancet 327). If the size of residuals does not depend on the true
value, 95 % of them are between the limits. Residuals are prediction minus true value, in units of the target. Even for
a good network, residuals decrease with the true value, because uncertain predictions are closer to the mean.
"""

from __future__ import annotations

import numpy as np

BINS = 10
DRAWS = 500
MIN_PROBABILITY = float(np.finfo(np.float32).eps)
"""Lower limit of probabilities. In float32 a probability can be 0, which would make the likelihood infinite."""


def calibration_scores(
    probability: np.ndarray, true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute calibration scores of class probabilities.

    Args:
        probability: Probability of each class (n, C), rows summing to 1.
        true: Class indices (n,).
        pred: Predicted class indices (n,). Their probability is the confidence.
        weights: Clip weights (R, n), at least 0. None means one row of ones.

    Returns:
        nll: Negative log-likelihood in nats.
        brier: Squared distance of the probabilities from the one-hot class, summed over classes, 0 to 2 (Brier 1950).
        ece: Expected calibration error over ten bins of equal width (Guo et al. 2017): the absolute difference between
            accuracy and mean confidence of a bin, averaged over bins with their numbers of clips as weights.
        accuracy_0 ...: Accuracy of each bin; nan for an empty bin.
        All float64 (R,).
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    row = np.arange(len(true))
    confidence, correct = probability[row, pred].astype(np.float64), (true == pred).astype(np.float64)
    total = weights.sum(1)
    likelihood = -np.log(np.clip(probability[row, true].astype(np.float64), MIN_PROBABILITY, 1))
    distance = (probability.astype(np.float64) ** 2).sum(1) - 2 * probability[row, true].astype(np.float64) + 1
    inside = bin_indices(confidence)[:, None] == np.arange(BINS)  # (n, BINS)
    count, hits = weights @ inside.astype(np.float64), weights @ (inside * correct[:, None])  # (R, BINS)
    gap = np.abs(hits - weights @ (inside * confidence[:, None]))
    with np.errstate(invalid="ignore"):
        accuracy = hits / count
    scores = {"nll": weights @ likelihood / total, "brier": weights @ distance / total, "ece": gap.sum(1) / total}
    return scores | {f"accuracy_{i}": accuracy[:, i] for i in range(BINS)}


def bin_indices(confidence: np.ndarray) -> np.ndarray:
    """Return the bin index of each confidence (n,). Bin i is (i / 10, (i + 1) / 10], and the first also includes 0."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)


def reliability_bins(probability: np.ndarray, pred: np.ndarray) -> list[dict[str, float | int | None]]:
    """Return limits, number of clips and mean confidence of each bin. The confidence of an empty bin is None."""
    confidence = probability[np.arange(len(pred)), pred].astype(np.float64)
    index = bin_indices(confidence)
    rows: list[dict[str, float | int | None]] = []
    for i in range(BINS):
        inside = confidence[index == i]
        mean = float(inside.mean()) if len(inside) else None
        rows.append({"from": i / BINS, "to": (i + 1) / BINS, "n": len(inside), "confidence": mean})
    return rows


def simulate_chance_error(probability: np.ndarray, pred: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Simulate the calibration error of a perfectly calibrated network (Bröcker & Smith 2007).

    The error cannot be negative, so its expectation on few clips is above zero for every network. In each simulation a
    clip is correct with its predicted probability, independently of other clips.

    Returns:
        `mean` of the error, and `high`, its 95 % quantile.
    """
    confidence = probability[np.arange(len(pred)), pred].astype(np.float64)
    inside = (bin_indices(confidence)[:, None] == np.arange(BINS)).astype(np.float64)
    expected, rng = confidence @ inside, np.random.default_rng(seed)
    drawn = [np.abs((rng.random(len(pred)) < confidence) @ inside - expected).sum() / len(pred) for _ in range(DRAWS)]
    return {"mean": float(np.mean(drawn)), "high": float(np.quantile(drawn, 0.95))}


WIDTH = 1.96
"""Standard deviations from the mean to a limit: 95 % of a normal distribution."""


def limits_of_agreement(true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compute the limits of agreement of residuals.

    Args:
        true: Targets (n,), float.
        pred: Predictions (n,), float.
        weights: Clip weights (R, n), integers of at least 0. None means one row of ones.

    Returns:
        bias (mean residual), sd (sample standard deviation), lower and upper (limits of agreement), each float64 (R,)
        in units of the target. The last three are nan for a resample of one clip.
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    error = (pred - true).astype(np.float64)
    total = weights.sum(1).astype(np.float64)
    bias = weights @ error / total
    squares = weights @ (error - error.mean()) ** 2 - total * (bias - error.mean()) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt(np.maximum(squares, 0) / (total - 1))
    return {"bias": bias, "sd": sd, "lower": bias - WIDTH * sd, "upper": bias + WIDTH * sd}
