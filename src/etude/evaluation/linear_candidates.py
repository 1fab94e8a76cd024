"""Candidates of a linear model or a support vector machine: their fits, and their predictions out of fold.

Every candidate is fitted to standardised features. The folds of one data set share the standardisation and the rotation
of the features. Ridge regressions also share one singular value decomposition, and logistic regressions that are
fitted to convergence start from the solution of the previous penalty.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.evaluation.bootstrap import encode_groups
from etude.evaluation.metrics import classification

FOLDS = 5
TOLERANCE = 1e-4  # scikit-learn's default; the gradient of the mean loss at which a fit ends
VARIATION = 0.01  # of a feature that can be used: smallest standard deviation relative to its mean
RESOLUTION = 1e-6  # of float32 features, relative to the largest one; smaller deviations are rounding errors
MIN_PROBABILITY = 1e-9  # of the true class in a log-loss, which would be infinite for a class that a fold lacks


@dataclass(frozen=True)
class Candidate:
    """Family of a model and its penalty.

    Args:
        family: Name, such as `logistic regression`.
        penalty: Parameters by scikit-learn's name.
        class_weight: Weights of the classes of a label, `balanced` or None for equal weights of all clips.
        tolerance: Gradient at which the fit of a logistic regression ends.
    """

    family: str
    penalty: dict[str, float]
    class_weight: str | None = "balanced"
    tolerance: float = TOLERANCE


def inner_folds(
    y: np.ndarray, groups: Sequence[Any], kind: str, folds: int = FOLDS, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the clips of each inner fold for training and for scoring.

    Folds keep groups together, and classes in proportion. Clips without a group form their own group. Groups are
    separated only if all are unknown, if there is only one, or if fewer than two folds would be trained on two classes.

    Args:
        y: Class names or numbers (n,), without missing values.
        groups: Group of each clip (n,).
        kind: "label" or "scalar".
        folds: Number of folds. There are fewer for few clips or groups.
        seed: Seed of the folds.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if kind == "label":  # a stratified fold needs two clips of a class
        folds = min(folds, max(Counter(y.tolist()).values()))
    codes = encode_groups(groups)
    n_groups, n_clips = int(codes.max()) + 1, len(y)
    options = {"shuffle": True, "random_state": seed}
    splitters = []
    if 2 <= n_groups < n_clips:
        splitters.append((GroupKFold if kind == "scalar" else StratifiedGroupKFold, min(folds, n_groups)))
    splitters.append((KFold if kind == "scalar" else StratifiedKFold, min(folds, n_clips)))
    for splitter, count in splitters:
        if count < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about classes with fewer clips than folds
            splits = [pair for pair in splitter(count, **options).split(y, y, codes) if len(pair[0]) and len(pair[1])]
        if sum(len(set(y[train].tolist())) > 1 for train, _ in splits) > 1:
            return splits
    return []


def out_of_fold_predictions(
    candidates: Sequence[Candidate],
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    y: np.ndarray,
    kind: str,
    probabilities: bool = False,
) -> list[np.ndarray]:
    """Return the predictions of each candidate for the clips of each fold, fitted to the other clips.

    If the other clips have one value, all candidates predict it.

    Args:
        candidates: Models.
        folds: Clips of each fold for training and for prediction.
        x: Features (n, P).
        y: Class names or numbers (n,).
        kind: "label" or "scalar".
        probabilities: Whether to predict the probabilities of the classes of y in sorted order (n, K), of logistic
            regressions. Otherwise class names or numbers (n,) are predicted.
    """
    classes = np.unique(y) if probabilities else np.empty(0)
    shape, dtype = ((len(y), len(classes)), np.float64) if probabilities else (len(y), y.dtype)
    predictions = [np.zeros(shape, dtype) for _ in candidates]
    for train, test in folds:
        if len(set(y[train].tolist())) == 1:
            for pred in predictions:
                pred[test] = classes == y[train[0]] if probabilities else y[train[0]]
            continue
        x_train, x_test = standardise_and_rotate(x[train], x[test])
        for model, pred in zip(fit_candidates(candidates, x_train, y[train], kind), predictions, strict=True):
            if probabilities:
                pred[np.ix_(test, np.searchsorted(classes, model.classes_))] = model.predict_proba(x_test)
            else:
                pred[test] = model.predict(x_test)
    return predictions


def constant_score(folds: Sequence[tuple[np.ndarray, np.ndarray]], y: np.ndarray, score: str) -> float:
    """Return the score of the predictions for the clips of each fold that ignore the features.

    They are the mean, the most frequent class or, as probabilities, the frequencies of the classes of the other clips.
    Equal probabilities of these classes are used if they are better.

    Args:
        folds: Clips of each fold for training and for prediction.
        y: Class names or numbers (n,).
        score: Name of the score, see `score_predictions`.
    """
    classes, codes = np.unique(y, return_inverse=True)
    probabilities = score == "log_loss"
    shape, dtype = ((len(y), len(classes)), np.float64) if probabilities else (len(y), y.dtype)
    pred, equal = np.zeros(shape, dtype), np.zeros(shape, dtype)
    for train, test in folds:
        counts = np.bincount(codes[train], minlength=len(classes))
        if probabilities:
            pred[test], equal[test] = counts / len(train), (counts > 0) / np.count_nonzero(counts)
        else:
            pred[test] = equal[test] = y[train].mean() if score == "mse" else classes[counts.argmax()]
    return max(score_predictions(y, pred, score), score_predictions(y, equal, score))


def fit_candidates(candidates: Sequence[Candidate], x: np.ndarray, y: np.ndarray, kind: str) -> Iterator[Any]:
    """Yield the fitted model of each candidate. Use it before the next one, which may change the same model.

    Args:
        candidates: Models.
        x: Standardised features (n, P).
        y: Class names or numbers (n,).
        kind: "label" or "scalar".
    """
    decomposition: Any = None
    previous: dict[str | None, Any] = {}
    for candidate in candidates:
        model = build_estimator(candidate, kind, standardise=False)
        if candidate.family == "ridge regression":
            decomposition = decomposition or np.linalg.svd(x - x.mean(0), full_matrices=False)
            u, s, v = decomposition
            model.coef_ = v.T @ (s / (s**2 + candidate.penalty["alpha"]) * (u.T @ (y - y.mean())))
            model.intercept_ = float(y.mean() - x.mean(0) @ model.coef_)
        elif candidate.family == "logistic regression" and candidate.tolerance < TOLERANCE:
            model = previous.setdefault(candidate.class_weight, model)
            fit_estimator(model.set_params(**candidate.penalty, warm_start=True), x, y)
        else:
            fit_estimator(model, x, y)
        yield model


def build_estimator(candidate: Candidate, kind: str, standardise: bool = True) -> Any:
    """Return the unfitted scikit-learn estimator of a candidate, with standardisation of the features if requested."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, SVR

    model: Any
    if candidate.family == "ridge regression":
        model = Ridge(**candidate.penalty)
    elif kind == "scalar":
        model = TransformedTargetRegressor(SVR(**candidate.penalty), transformer=StandardScaler())
    elif candidate.family == "logistic regression":
        model = LogisticRegression(
            **candidate.penalty,
            class_weight=candidate.class_weight,
            tol=candidate.tolerance,
            max_iter=1000 if candidate.tolerance >= TOLERANCE else 100_000,
        )
    else:
        kernel = "linear" if candidate.family == "linear SVM" else "rbf"
        model = SVC(**candidate.penalty, kernel=kernel, class_weight="balanced")
    return make_pipeline(StandardScaler(), model) if standardise else model


def fit_estimator(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """Fit a model without warnings about the number of iterations, which a weak penalty may reach."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def without_rounding_errors(x: np.ndarray) -> np.ndarray:
    """Return training features (N, P) in which features that only differ by rounding errors are constant.

    Some outputs of a network are zero for all training clips, apart from rounding errors. Standardised, they would get
    weights of up to 1e11, and would then determine the predictions of any clip for which they are not zero.
    """
    is_constant = x.std(0) <= RESOLUTION * np.abs(x).max(initial=0.0)
    return np.where(is_constant, x.mean(0), x)


def without_nearly_constant(x: np.ndarray) -> np.ndarray:
    """Return training features (N, P) in which nearly constant features are constant, so that no model uses them.

    Standardised, such features would determine the predictions of any clip in which they are different. For example,
    the upper bands of a spectrum are nearly constant if all training clips are recordings without high frequencies.
    """
    return np.where(x.std(0) <= VARIATION * np.abs(x.mean(0)), x.mean(0), x)


def standardise_and_rotate(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised features of both, with hardly more columns than training clips.

    All models depend only on scalar products with training clips and on distances from them. If there are more
    features than clips, the features are projected onto the space that the training clips span, which preserves the
    products. A further column, the distance of a clip from this space, preserves the distances.
    """
    from sklearn.preprocessing import StandardScaler

    train = without_rounding_errors(train)
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    if train.shape[0] >= train.shape[1]:
        return train, test
    _, _, rows = np.linalg.svd(train, full_matrices=False)
    projected = test @ rows.T
    distance = np.sqrt(np.maximum((test**2).sum(1) - (projected**2).sum(1), 0))
    return np.column_stack([train @ rows.T, np.zeros(len(train))]), np.column_stack([projected, distance])


def linear_weights(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of raw features in a fitted pipeline of standardisation and linear model.

    Args:
        model: Estimator of `build_estimator`, a logistic or a ridge regression.

    Returns:
        Weights (K, P) and biases (K,), float64. The softmax of their K outputs are the probabilities of the classes in
        sorted order. The sum of the K outputs is 0 for any features. A ridge regression has one output.
    """
    scaler, linear = model[0], model[-1]
    weight, bias = np.atleast_2d(linear.coef_), np.atleast_1d(linear.intercept_)
    if hasattr(linear, "classes_"):
        if len(weight) == 1:  # one logit is the difference of the two classes
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight, bias = weight - weight.mean(0), bias - bias.mean()
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_


def score_predictions(true: np.ndarray, pred: np.ndarray, score: str) -> float:
    """Compute a score of which a higher value is better.

    Args:
        true: True values (n,).
        pred: Predictions (n,), or for `log_loss` the probabilities of the classes in sorted order (n, K).
        score: `macro_f1`, `log_loss` (negative, in nats) or `mse` (negative).
    """
    if score == "mse":
        return -float(np.mean((pred - true) ** 2))
    if score == "log_loss":
        probability = pred[np.arange(len(true)), np.unique(true, return_inverse=True)[1]]
        return float(np.log(np.maximum(probability, MIN_PROBABILITY)).mean())
    names, codes = np.unique(np.concatenate([true, pred]), return_inverse=True)
    return float(classification(codes[: len(true)], codes[len(true) :], len(names))["macro_f1"].item())


def known_values(y: Iterable[Any], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the clips (n,) whose value is neither None nor nan, and their values (n,), names or floats.

    Raises:
        ValueError: All values are missing.
    """
    values = np.array(list(y), dtype=np.float64 if kind == "scalar" else object)
    known = np.flatnonzero([value is not None and value == value for value in values])  # nan is not equal to itself
    if not len(known):
        raise ValueError("no clip of the training split has a true value")
    return known, values[known] if kind == "scalar" else values[known].astype(str)
