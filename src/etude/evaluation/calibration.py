"""Calibration of probabilities and limits of agreement of scalars.

Negative log-likelihood and Brier score are proper: no other probabilities than the true ones make them smaller in the
long run. The expected calibration error is what remains when one asks only whether the confidence is met; it says
nothing about who is right more often, and no run is chosen by it.

Clip weights (R, n) are resamples, as in `metrics`.

Bland & Altman (1986, Lancet 327): residuals whose size does not depend on the truth lie between the limits 95 times in
a hundred. Residuals are prediction minus truth, in units of the target; against the truth even a good network's fall,
because what is uncertain is drawn to the mean.
"""

from __future__ import annotations

import numpy as np

BINS = 10
DRAWS = 500
LEAST = float(np.finfo(np.float32).eps)
"""Probabilities below this count as this: the table keeps float32, and one clip must not make a likelihood infinite."""


def calibration_scores(
    probability: np.ndarray, true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Judge probabilities of classes.

    Args:
        probability: Of each class (n, C), rows summing to 1.
        true: Class indices (n,).
        pred: Predicted class indices (n,); their probability is the confidence.
        weights: Clip weights (R, n), at least 0; without them one row of ones.

    Returns:
        nll: Negative log-likelihood in nats.
        brier: Squared distance of the probabilities from the truth, summed over classes, 0 to 2 (Brier 1950).
        ece: Expected calibration error over ten bins of equal width (Guo et al. 2017): the gap between accuracy and
            mean confidence of a bin, averaged over clips.
        accuracy_0 ...: Accuracy of each bin; nan where it is empty.
        All float64 (R,).
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    row = np.arange(len(true))
    confidence, right = probability[row, pred].astype(np.float64), (true == pred).astype(np.float64)
    total = weights.sum(1)
    likelihood = -np.log(np.clip(probability[row, true].astype(np.float64), LEAST, 1))
    distance = (probability.astype(np.float64) ** 2).sum(1) - 2 * probability[row, true].astype(np.float64) + 1
    inside = bins(confidence)[:, None] == np.arange(BINS)  # (n, BINS)
    count, hits = weights @ inside.astype(np.float64), weights @ (inside * right[:, None])  # (R, BINS)
    gap = np.abs(hits - weights @ (inside * confidence[:, None]))
    with np.errstate(invalid="ignore"):
        accuracy = hits / count
    found = {"nll": weights @ likelihood / total, "brier": weights @ distance / total, "ece": gap.sum(1) / total}
    return found | {f"accuracy_{i}": accuracy[:, i] for i in range(BINS)}


def bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence (n,): bin i holds (i / 10, (i + 1) / 10], and the first holds 0 too."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)


def table(probability: np.ndarray, pred: np.ndarray) -> list[dict[str, float | int | None]]:
    """Ends, clips and mean confidence of each bin; none where it is empty."""
    confidence = probability[np.arange(len(pred)), pred].astype(np.float64)
    place = bins(confidence)
    rows: list[dict[str, float | int | None]] = []
    for i in range(BINS):
        here = confidence[place == i]
        mean = float(here.mean()) if len(here) else None
        rows.append({"from": i / BINS, "to": (i + 1) / BINS, "n": len(here), "confidence": mean})
    return rows


def unavoidable(probability: np.ndarray, pred: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The calibration error that a perfectly calibrated network would show by chance (Bröcker & Smith 2007).

    The error cannot be negative, so on few clips it is above zero whatever the network. Here each clip is right with
    the probability that the network gave it, clips apart, many times over.

    Returns:
        `mean` of the error, and `high`, which it exceeds once in twenty times.
    """
    confidence = probability[np.arange(len(pred)), pred].astype(np.float64)
    inside = (bins(confidence)[:, None] == np.arange(BINS)).astype(np.float64)
    expected, rng = confidence @ inside, np.random.default_rng(seed)
    drawn = [np.abs((rng.random(len(pred)) < confidence) @ inside - expected).sum() / len(pred) for _ in range(DRAWS)]
    return {"mean": float(np.mean(drawn)), "high": float(np.quantile(drawn, 0.95))}


WIDTH = 1.96
"""Standard deviations from the mean to a limit: 95 % of a normal distribution."""


def limits_of_agreement(true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
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
