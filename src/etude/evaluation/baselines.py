"""Baselines that predict a constant, or use a linear model on the mean and deviation of mel bands.

A score is hard to interpret alone. The constant shows which score is possible without audio, from the distribution of
the target. The linear model shows which score is possible with timbre averaged over time. A network that is not better
than the linear model does not benefit from its capacity. For a fair comparison, the penalty of the linear model is
chosen on the validation split, which is also used for early stopping of the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.metrics import classification

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline


INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Grid of LogisticRegression's C. A larger C is a weaker penalty."""
PENALTIES = (1e0, 1e1, 1e2, 1e3, 1e4)
"""Grid of Ridge's alpha."""


def mel_statistics(frames: np.ndarray) -> np.ndarray:
    """Compute mean and standard deviation of each mel band over time.

    Args:
        frames: Mel spectrum (T, F), in dB.

    Returns:
        Means and then standard deviations (2 F,), float64, in dB.

    Raises:
        ValueError: The frames are not of shape (T, F) with T of at least 1.
    """
    if frames.ndim != 2 or not len(frames):
        raise ValueError(f"frames {frames.shape} must be (T, F) with T of at least 1")
    frames = frames.astype(np.float64)
    return np.concatenate([frames.mean(0), frames.std(0)])


def constant_baseline(y_train: Iterable[Any], kind: str) -> str | float:
    """Return the majority class or the mean of the training split.

    Args:
        y_train: True values of the training split. Missing values (None, nan) are ignored.
        kind: "label" for the majority class, with ties resolved by name, or "scalar" for the mean.

    Raises:
        ValueError: All values are missing.
    """
    y = _to_array(y_train, kind)
    y = y[_is_known(y)]
    if not len(y):
        raise ValueError("no clip of the training split has a true value")
    if kind == "scalar":
        return float(y.mean())
    names, counts = np.unique(y.astype(str), return_counts=True)
    return str(names[counts.argmax()])


def fit_linear_baseline(
    x_train: np.ndarray, y_train: Iterable[Any], x_val: np.ndarray, y_val: Iterable[Any], kind: str
) -> BaseEstimator:
    """Fit the linear model on the training split, and choose the penalty with the best validation score.

    Args:
        x_train: Mel statistics of the training split (n, P).
        y_train: True values of the training split (n,), class names or numbers. Rows with a missing value are ignored.
        x_val: Mel statistics of the validation split (m, P).
        y_val: True values of the validation split (m,). With fewer than two, the middle of the grid is used.
        kind: "label" for logistic regression, selected by macro-F1, or "scalar" for ridge regression, selected by MSE.

    Returns:
        A fitted scikit-learn estimator whose predict((n, P)) returns class names or numbers (n,). It is constant if the
        training split has only one class.
    """
    from sklearn.dummy import DummyClassifier

    y, y_check = _to_array(y_train, kind), _to_array(y_val, kind)
    if x_train.ndim != 2 or len(x_train) != len(y) or len(x_val) != len(y_check):
        raise ValueError(f"x {x_train.shape} and {x_val.shape} do not match {len(y)} and {len(y_check)} true values")
    constant_baseline(y, kind)  # raises ValueError for a split without true values
    keep, keep_check = _is_known(y), _is_known(y_check)
    x, y, x_check, y_check = x_train[keep], y[keep], x_val[keep_check], y_check[keep_check]
    if kind == "label":
        y, y_check = y.astype(str), y_check.astype(str)
        if len(np.unique(y)) == 1:
            return DummyClassifier(strategy="most_frequent").fit(x, y)
    grid = INVERSE_PENALTIES if kind == "label" else PENALTIES
    models = [_pipeline(kind, penalty).fit(x, y) for penalty in grid]
    if len(y_check) < 2:
        return models[len(models) // 2]
    losses = [_loss(y_check, model.predict(x_check), kind) for model in models]
    return models[int(np.argmin(losses))]


def _pipeline(kind: str, penalty: float) -> Pipeline:
    """Return the unfitted linear model with standardisation."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=penalty, max_iter=2000) if kind == "label" else Ridge(alpha=penalty)
    return make_pipeline(StandardScaler(), model)


def _loss(true: np.ndarray, pred: np.ndarray, kind: str) -> float:
    """Compute 1 - macro-F1, or the MSE."""
    if kind == "scalar":
        return float(np.mean((pred - true) ** 2))
    names, codes = np.unique(np.concatenate([true, pred]), return_inverse=True)
    return 1 - float(classification(codes[: len(true)], codes[len(true) :], len(names))["macro_f1"].item())


def _to_array(y: Iterable[Any], kind: str) -> np.ndarray:
    """Return true values as an array (n,) of floats or objects."""
    return np.array(list(y), dtype=np.float64 if kind == "scalar" else object)


def _is_known(y: np.ndarray) -> np.ndarray:
    """Return a mask (n,), bool, of the values that are not missing."""
    return np.array([value is not None and value == value for value in y], dtype=bool)  # nan is not equal to itself
