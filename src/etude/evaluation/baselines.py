"""What a network has to beat: one value for every clip, and a linear model on the mel spectrum's mean and spread.

A score means little alone. The constant says what the labels' distribution gives away, the linear model what timbre
averaged over time gives away: a network that does not beat it has learnt nothing that needs a network. The linear model
has the same rights as the network: its one setting is chosen on the validation part that also stops the network.
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
"""Grid of LogisticRegression's C; a larger C is a weaker penalty."""
PENALTIES = (1e0, 1e1, 1e2, 1e3, 1e4)
"""Grid of Ridge's alpha."""


def mel_statistics(frames: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time of each mel band: (T, 128) dB -> (256,) float64, dB, means first."""
    if frames.ndim != 2 or not len(frames):
        raise ValueError(f"frames {frames.shape} must be (T, F) with T of at least 1")
    frames = frames.astype(np.float64)
    return np.concatenate([frames.mean(0), frames.std(0)])


def constant(y_train: Iterable[Any], kind: str) -> str | float:
    """The one value that knows the training labels and hears nothing.

    Args:
        y_train: Labels of the training part; missing ones (None, nan) are ignored.
        kind: "label" for the majority class (of equal ones the first by name), "scalar" for the mean.

    Raises:
        ValueError: No label is there.
    """
    y = _column(y_train, kind)
    y = y[_labelled(y)]
    if not len(y):
        raise ValueError("no clip of the training part has this label")
    if kind == "scalar":
        return float(y.mean())
    names, counts = np.unique(y.astype(str), return_counts=True)
    return str(names[counts.argmax()])


def linear(
    x_train: np.ndarray, y_train: Iterable[Any], x_val: np.ndarray, y_val: Iterable[Any], kind: str
) -> BaseEstimator:
    """Fit the linear model on the training part; its penalty is the one that validation likes best.

    Args:
        x_train: Mel statistics of the training part (n, P).
        y_train: Its labels (n,), class names or numbers; rows with a missing label are ignored.
        x_val: Mel statistics of the validation part (m, P).
        y_val: Its labels (m,); when none is there, the middle of the grid is taken.
        kind: "label": logistic regression, chosen by macro-F1. "scalar": ridge regression, chosen by MSE.

    Returns:
        A fitted scikit-learn estimator; predict((n, P)) gives class names or numbers (n,). A constant one when the
        training part has one class only.
    """
    from sklearn.dummy import DummyClassifier

    y, y_check = _column(y_train, kind), _column(y_val, kind)
    if x_train.ndim != 2 or len(x_train) != len(y) or len(x_val) != len(y_check):
        raise ValueError(f"x {x_train.shape} and {x_val.shape} do not go with {len(y)} and {len(y_check)} labels")
    constant(y, kind)  # refuses a part without labels
    keep, keep_check = _labelled(y), _labelled(y_check)
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
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=penalty, max_iter=2000) if kind == "label" else Ridge(alpha=penalty)
    return make_pipeline(StandardScaler(), model)


def _loss(true: np.ndarray, pred: np.ndarray, kind: str) -> float:
    """1 - macro-F1, or MSE."""
    if kind == "scalar":
        return float(np.mean((pred - true) ** 2))
    names, codes = np.unique(np.concatenate([true, pred]), return_inverse=True)
    return 1 - float(classification(codes[: len(true)], codes[len(true) :], len(names))["macro_f1"].item())


def _column(y: Iterable[Any], kind: str) -> np.ndarray:
    return np.array(list(y), dtype=np.float64 if kind == "scalar" else object)


def _labelled(y: np.ndarray) -> np.ndarray:
    """Where a label is there (n,), bool: nan is not equal to itself."""
    return np.array([value is not None and value == value for value in y], dtype=bool)
