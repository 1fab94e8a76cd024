"""Weighted metrics of classification, calibration and regression for bootstrap resamples.

A bootstrap resample is a vector of clip weights, and every metric accepts weights (R, n). Weights of one give the point
estimate. R rows of integer weights are R resamples, because a clip that is drawn twice has weight two. The same formula
is used for the score of an epoch (R = 1), its interval and the paired difference to a baseline, without a loop over
resamples.

Conventions for 0 / 0:

- A class that occurs in the true values but is never predicted has precision, recall and F1 of 0.
- A class without support in a resample is excluded from the macro mean of that resample. This is scikit-learn's
  `labels=np.unique(true), zero_division=0`. The default of scikit-learn also averages over classes that occur only in
  the predictions, with F1 0, so that a single prediction can change the mean by 1 / C.
- A correlation with a constant is undefined, so it is nan and never 0. So is R2 if the true values are constant.
- Lin's concordance (ccc) of a constant prediction is 0 by its formula, whose denominator is not 0.

Calibration: negative log-likelihood and Brier score are proper scoring rules. Their expected values are smallest for
the true probabilities. The expected calibration error compares only the confidence with the accuracy. It does not
measure the accuracy itself, so it is not used to select runs.

Limits of agreement are from Bland & Altman (1986, Lancet 327). If the size of residuals does not depend on the true
value, 95 % of them are between the limits. Residuals are prediction minus true value, in units of the target. Even for
a good network, residuals decrease with the true value, because uncertain predictions are closer to the mean.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.errors import UserError, one_line_message

PRIMARY = {"label": "macro_f1", "scalar": "spearman"}
"""Primary score by kind of target. A constant prediction of the most common value increases neither of them."""

UNBOUNDED = (-math.inf, math.inf)
RANGES = {
    **dict.fromkeys(("accuracy", "ece", *(f"accuracy_{i}" for i in range(10))), (0.0, 1.0)),
    **{f"{average}_{score}": (0.0, 1.0) for average in ("macro", "micro", "weighted")
       for score in ("precision", "recall", "f1")},
    **dict.fromkeys(("spearman", "pearson", "ccc"), (-1.0, 1.0)),
    **dict.fromkeys(("mse", "mae", "rmse", "nll", "sd"), (0.0, math.inf)),
    **{"r2": (-math.inf, 1.0), "brier": (0.0, 2.0)},
}  # fmt: skip
"""Smallest and largest possible value of each score. A score that is not listed is unbounded."""


def classification(
    true: np.ndarray,
    pred: np.ndarray,
    classes: int,
    weights: np.ndarray | None = None,
    averaged: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute scores of single-label predictions.

    With one label per clip, micro precision, recall and F1 are equal to accuracy. They are included for completeness.

    Args:
        true: Class indices (n,), int, each in 0..classes-1.
        pred: Predicted class indices (n,), int, each in 0..classes-1.
        classes: Number of classes, C.
        weights: Clip weights (R, n), at least 0. None means one row of ones.
        averaged: Mask of the classes in the macro means (C,). None averages over all classes. The clips of the other
            classes still count as false positives of the class that is predicted for them.

    Returns:
        accuracy and {macro, micro, weighted}_{precision, recall, f1}: float64 (R,) each, in [0, 1].

    Raises:
        ValueError: Shapes do not match, there are fewer than two clips, or an index is outside the classes.
    """
    true, pred, weights = _check_inputs(true, pred, weights)
    for name, values in (("true", true), ("pred", pred)):
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= classes:
            raise ValueError(f"{name} must be class indices in 0..{classes - 1}, got {values.dtype} {values}")
    class_range = np.arange(classes)
    support = weights @ (true[:, None] == class_range)  # (R, C)
    predicted = weights @ (pred[:, None] == class_range)
    hits = weights @ ((true[:, None] == class_range) & (pred == true)[:, None])
    present = support > 0
    scores = {"accuracy": _divide(hits.sum(1), support.sum(1))}
    by_class = {
        "precision": np.where(predicted > 0, _divide(hits, predicted), 0.0),
        "recall": np.where(present, _divide(hits, support), 0.0),
        "f1": np.where(present, _divide(2 * hits, support + predicted), 0.0),
    }
    included = present if averaged is None else present & averaged
    for name, values in by_class.items():
        scores[f"macro_{name}"] = _divide((values * included).sum(1), included.sum(1))
        scores[f"micro_{name}"] = scores["accuracy"]
        scores[f"weighted_{name}"] = _divide((values * support).sum(1), support.sum(1))
    return scores


def regression(true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compute scores of predicted numbers.

    Args:
        true: Targets (n,), float, in the unit of the target.
        pred: Predictions (n,), float, in the same unit.
        weights: Clip weights (R, n), integers of at least 0. None means one row of ones.

    Returns:
        spearman, pearson, ccc (Lin 1989), mse, mae, rmse and r2, each float64 (R,). mse is in squared units, mae and
        rmse in units of the target.

    Raises:
        ValueError: Shapes do not match, there are fewer than two clips, or a value is not finite.
    """
    true, pred, weights = _check_inputs(true, pred, weights)
    for name, values in (("true", true), ("pred", pred)):
        if not np.isfinite(values).all():
            count = (~np.isfinite(values)).sum()
            raise ValueError(f"{name} contains {count} of {len(values)} values that are not finite")
    total = weights.sum(1)
    ranks_true, varies_true = _ranks(true, weights)
    ranks_pred, varies_pred = _ranks(pred, weights)
    both = varies_true & varies_pred

    # Moments are computed about the means of all clips, which avoids the cancellation of large numbers.
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


def _check_inputs(
    true: np.ndarray, pred: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check shapes and return true (n,), pred (n,) and weights (R, n), float64."""
    true, pred = np.asarray(true), np.asarray(pred)
    if true.ndim != 1 or true.shape != pred.shape:
        raise ValueError(
            f"true {true.shape} and pred {pred.shape} must both be (n,): "
            "an (n, 1) against an (n,) would broadcast to (n, n)"
        )
    if len(true) < 2:
        raise ValueError(f"a score requires at least two clips, got {len(true)}")
    weights = np.ones((1, len(true))) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(true):
        raise ValueError(f"weights {weights.shape} must be (R, n) with n = {len(true)}")
    return true, pred, weights


def _ranks(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute average ranks (R, n) in each resample, and whether each resample has different values (R,).

    If all smaller values have weight c, a value of weight w has the ranks c + 1 .. c + w. Their mean is
    c + (w + 1) / 2.
    """
    distinct, index = np.unique(values, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(distinct)))
    mass = np.add.reduceat(weights[:, order], starts, axis=1)  # (R, K), K distinct values
    ranks = np.cumsum(mass, axis=1) - mass + (mass + 1) / 2
    return ranks[:, index], (mass > 0).sum(1) > 1


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the weighted product-moment correlation (R,) of x (R, n) and y (R, n)."""
    total = weights.sum(1, keepdims=True)
    x = x - _divide((weights * x).sum(1, keepdims=True), total)
    y = y - _divide((weights * y).sum(1, keepdims=True), total)
    wx = weights * x
    return np.clip(_divide((wx * y).sum(1), np.sqrt((wx * x).sum(1) * (weights * y**2).sum(1))), -1, 1)


def _divide(a: Any, b: Any) -> np.ndarray:
    """Divide a by b, with nan and no warning where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


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


@dataclass(frozen=True)
class FunctionMetric:
    """Metric of one target that is computed by a function of its config.

    Args:
        key: Key of the metric, such as `genre.metrics.kappa`, for messages.
        name: Name of the metric.
        target: Dotted name of the function.
        function: The function with its keyword parameters, called with true values and predictions.
        on: `predictions` or `scores`, the argument for its predictions.
    """

    key: str
    name: str
    target: str
    function: Callable[..., Any]
    on: str = "predictions"

    def __call__(self, true: np.ndarray, pred: np.ndarray | None, weights: np.ndarray | None) -> np.ndarray:
        """Compute the metric of each resample (R,), with nan where it is undefined or the function fails.

        Args:
            true: Class names or numbers (n,).
            pred: Class names, numbers or probabilities, a row per clip. None if there are no probabilities.
            weights: Number of repetitions of each clip (R, n). None means one row of ones.
        """
        rows = np.ones((1, len(true)), dtype=np.int64) if weights is None else weights
        distinct, index = np.unique(rows, axis=0, return_inverse=True)  # few groups have many equal resamples
        values = np.full(len(distinct), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of a resample without one of the classes
            for row, weight in enumerate(distinct):
                with suppress(UserError):
                    repeated = None if pred is None else pred.repeat(weight, axis=0)
                    values[row] = self.compute(true.repeat(weight), repeated)
        return values[index]

    def compute(self, true: np.ndarray, pred: np.ndarray | None) -> float:
        """Call the function, and return its value, or nan if it is not finite or there are no probabilities.

        Raises:
            UserError: The function fails, or does not return a number.
        """
        if pred is None:
            return math.nan
        try:
            value = self.function(true, pred)
            shape, kind = np.shape(value), np.asarray(value).dtype.kind
        except Exception as error:  # of any kind, because the function is not a part of this package
            message = f"{self.key}: {self.target} raised {type(error).__name__}: {one_line_message(error, 200)}"
            raise UserError(message) from error
        if shape or kind not in "fiub":
            returned = f"an array of shape {shape}" if shape else f"{value!r:.60}"
            raise UserError(f"{self.key}: {self.target} returned {returned}; it must return one number")
        return float(value) if math.isfinite(value) else math.nan
