"""Linear models and support vector machines, chosen by inner cross-validation on the training clips.

A score is hard to interpret alone. A linear model or a support vector machine (SVM) on statistics of the frames shows
which score is possible with timbre averaged over time. A network that is not better does not benefit from its capacity.

The family of the model and its penalty have the best score on inner folds of the training clips, which keep groups
together. Validation and test clips are not used.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.bootstrap import encode_groups
from etude.evaluation.metrics import classification

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator


VERSION = 1
"""Version of the models. A change of predictions increases it, so that stored predictions are computed again."""
FAMILIES = {
    "label": ("logistic regression", "linear SVM", "RBF SVM"),
    "scalar": ("ridge regression", "RBF SVM"),
}
"""Families by kind of target, from the simplest. Of equal scores, the first is chosen."""
GRIDS: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("label", "logistic regression"): {"C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)},
    ("label", "linear SVM"): {"C": (1e-5, 1e-4, 1e-3, 1e-2)},
    ("label", "RBF SVM"): {"gamma": (0.25, 1.0), "C": (0.3, 1.0, 3.0, 10.0, 30.0)},
    ("scalar", "ridge regression"): {"alpha": (1e5, 1e4, 1e3, 1e2, 1e1)},
    ("scalar", "RBF SVM"): {"gamma": (0.25, 1.0), "C": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)},
}
"""Penalties from the strongest, for standardised features (and scalars, for an SVM). gamma is multiplied by 1 / P."""
FOLDS = 5
MOST_CLIPS_SVM = 1500  # the time of an SVM grows with the square of the number of clips
MOST_VALUES = 300_000_000  # clips x features x classes; one fit then takes about ten seconds
UNMEASURED = 2_000  # clips x classes; the whole grid takes about a second, so its time is not measured


@dataclass(frozen=True)
class Candidate:
    """Family of a model and its penalty."""

    family: str
    penalty: dict[str, float]


@dataclass(frozen=True)
class LinearFit:
    """Fitted model.

    Args:
        name: Family, such as `RBF SVM`, or `majority class` if the training clips have one class.
        penalty: Chosen parameters by scikit-learn's name.
        score: Score of the chosen model on the inner folds, macro-F1 or negative MSE. None if there was no choice.
        out_of_fold: Predictions of the inner folds for the training clips (n,), None or nan for a missing true value.
            None if there was no choice.
        seconds: Duration of the choice and the fit.
        remark: What was left out to limit the time, or "".
        estimator: The fitted scikit-learn estimator.
    """

    name: str
    penalty: dict[str, float]
    score: float | None
    out_of_fold: np.ndarray | None
    seconds: float
    remark: str
    estimator: BaseEstimator

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class names or numbers (n,) of features (n, P)."""
        return np.asarray(self.estimator.predict(x))


def fit_linear_model(
    x: np.ndarray,
    y: Iterable[Any],
    kind: str,
    groups: Sequence[Any] | None = None,
    families: Sequence[str] | None = None,
    max_seconds: float = 30.0,
    seed: int = 0,
) -> LinearFit:
    """Choose family and penalty on inner folds of the training clips, and fit the model to all training clips.

    The result depends only on the clips, unless the fits would take longer than `max_seconds`.

    Args:
        x: Features of the training clips (n, P).
        y: Class names or numbers (n,). Clips with a missing value are ignored.
        kind: "label", chosen by macro-F1 with balanced class weights; or "scalar", chosen by MSE.
        groups: Group of each clip (n,), which the inner folds keep together. None, nan and "" are unknown groups.
        families: Names of FAMILIES. None means all, or only the linear model for more than 1,500 clips.
        max_seconds: Time limit. First the SVMs are left out, then the grid becomes coarser.
        seed: Seed of the inner folds.

    Raises:
        ValueError: The numbers of features, values and groups differ, a feature is not finite, or all true values are
            missing.
    """
    start, labels = time.perf_counter(), list(y)
    if x.ndim != 2 or len(x) != len(labels) or (groups is not None and len(groups) != len(x)):
        raise ValueError(f"features {x.shape} do not match {len(labels)} true values")
    if not np.isfinite(x).all():
        raise ValueError("a feature is not finite")
    known, true = known_values(labels, kind)
    n_classes, remarks = 1 if kind == "scalar" else len(set(true.tolist())), []
    if (most := max(100, MOST_VALUES // (x.shape[1] * n_classes))) < len(known):
        remarks.append(f"fitted to {most:,} of {len(known):,} training clips, drawn at random")
        drawn = np.sort(np.random.default_rng(seed).choice(len(known), most, replace=False))
        known, true = known[drawn], true[drawn]
    features = x[known].astype(np.float64)
    if len(set(true.tolist())) == 1:
        from sklearn.dummy import DummyClassifier, DummyRegressor

        dummy = (DummyRegressor() if kind == "scalar" else DummyClassifier(strategy="most_frequent")).fit(
            features, true
        )
        name = "training mean" if kind == "scalar" else "majority class"
        return LinearFit(name, {}, None, None, time.perf_counter() - start, "", dummy.fit(features, true))
    if families is None:
        families = FAMILIES[kind]
        if len(true) > MOST_CLIPS_SVM:
            families = families[:1]
            remarks.append(f"no SVM for more than {MOST_CLIPS_SVM:,} training clips")
    candidates = list_candidates(kind, families, x.shape[1])
    folds = inner_folds(true, [None if groups is None else groups[i] for i in known], kind, seed=seed)
    if len(true) * n_classes > UNMEASURED:
        candidates, folds, remark = _limit_time(candidates, folds, features, true, kind, max_seconds)
        remarks.append(remark)
    chosen, score, predicted = candidates[len(candidates) // 2], None, None
    if len(candidates) > 1 and len(folds) > 1:
        predictions = out_of_fold_predictions(candidates, folds, features, true, kind)
        scores = [round(_score(true, pred, kind), 9) for pred in predictions]
        best = int(np.argmax(scores))
        chosen, score = candidates[best], scores[best]
        predicted = np.full(len(x), np.nan) if kind == "scalar" else np.full(len(x), None, object)
        predicted[known] = predictions[best]
    estimator = _fit(build_estimator(chosen, kind), features, true)
    remark, seconds = "; ".join(filter(None, remarks)), time.perf_counter() - start
    return LinearFit(chosen.family, chosen.penalty, score, predicted, seconds, remark, estimator)


def list_candidates(kind: str, families: Sequence[str], n_features: int) -> list[Candidate]:
    """Return all models of some families, for P = `n_features` features."""
    candidates = []
    for family in families:
        grid = GRIDS[kind, family]
        for values in product(*grid.values()):
            penalty = dict(zip(grid, values, strict=True))
            if "gamma" in penalty:
                penalty["gamma"] /= n_features
            candidates.append(Candidate(family, penalty))
    return candidates


def inner_folds(
    y: np.ndarray, groups: Sequence[Any], kind: str, folds: int = FOLDS, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the clips of each inner fold for training and for scoring.

    Folds keep groups together, and classes in proportion. Clips without a group form their own group. Groups are
    separated if all are unknown, if there are fewer than three, or if a fold would be trained on one class.

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
    if 3 <= n_groups < n_clips:
        splitters.append((GroupKFold if kind == "scalar" else StratifiedGroupKFold, min(folds, n_groups)))
    splitters.append((KFold if kind == "scalar" else StratifiedKFold, min(folds, n_clips)))
    for splitter, count in splitters:
        if count < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about classes with fewer clips than folds
            splits = [pair for pair in splitter(count, **options).split(y, y, codes) if len(pair[0]) and len(pair[1])]
        if len(splits) > 1 and all(len(set(y[train].tolist())) > 1 for train, _ in splits):
            return splits
    return []


def out_of_fold_predictions(
    candidates: Sequence[Candidate],
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    y: np.ndarray,
    kind: str,
) -> list[np.ndarray]:
    """Return the predictions (n,) of each candidate for the clips of each fold, fitted to the other clips."""
    predictions = [np.empty(len(y), y.dtype) for _ in candidates]
    for train, test in folds:
        x_train, x_test = _standardise_and_rotate(x[train], x[test])
        for candidate, pred in zip(candidates, predictions, strict=True):
            model = _fit(build_estimator(candidate, kind, standardise=False), x_train, y[train])
            pred[test] = model.predict(x_test)
    return predictions


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
        model = LogisticRegression(**candidate.penalty, class_weight="balanced", max_iter=1000)
    else:
        kernel = "linear" if candidate.family == "linear SVM" else "rbf"
        model = SVC(**candidate.penalty, kernel=kernel, class_weight="balanced")
    return make_pipeline(StandardScaler(), model) if standardise else model


def _fit(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """Fit a model without warnings about the number of iterations, which a weak penalty may reach."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def _standardise_and_rotate(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised features of both, with hardly more columns than training clips.

    All models depend only on scalar products with training clips and on distances from them. If there are more
    features than clips, the features are projected onto the space that the training clips span, which preserves the
    products. A further column, the distance of a clip from this space, preserves the distances.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    if train.shape[0] >= train.shape[1]:
        return train, test
    _, _, rows = np.linalg.svd(train, full_matrices=False)
    projected = test @ rows.T
    distance = np.sqrt(np.maximum((test**2).sum(1) - (projected**2).sum(1), 0))
    return np.column_stack([train @ rows.T, np.zeros(len(train))]), np.column_stack([projected, distance])


def _limit_time(
    candidates: list[Candidate],
    folds: list[tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    y: np.ndarray,
    kind: str,
    max_seconds: float,
) -> tuple[list[Candidate], list[tuple[np.ndarray, np.ndarray]], str]:
    """Return the candidates and folds that can be fitted in time, and a remark on what was left out.

    The time of one fit of each family is measured on the first fold, and multiplied by the number of fits.
    """
    if not folds:
        return candidates, folds, ""
    train, test = folds[0]
    x_train, x_test = _standardise_and_rotate(x[train], x[test])
    seconds: dict[str, float] = {}
    for family in dict.fromkeys(candidate.family for candidate in candidates):
        members = [candidate for candidate in candidates if candidate.family == family]
        start = time.perf_counter()
        _fit(build_estimator(members[len(members) // 2], kind, standardise=False), x_train, y[train]).predict(x_test)
        seconds[family] = time.perf_counter() - start

    def estimate(kept: list[Candidate], n_folds: int) -> float:
        return n_folds * sum(seconds[candidate.family] for candidate in kept)

    total, first = estimate(candidates, len(folds)), candidates[0].family
    linear = [candidate for candidate in candidates if not candidate.family.startswith("RBF")] or candidates
    simplest = [candidate for candidate in linear if candidate.family == linear[0].family]
    options = (
        (candidates, folds, ""),
        (linear, folds, "no RBF SVM"),
        (simplest, folds, "no SVM"),
        (simplest[1::2], folds[:3], f"no SVM, {len(simplest[1::2])} penalties and 3 inner folds"),
    )
    for kept, kept_folds, remark in options:
        if len(kept_folds) > 1 and estimate(kept, len(kept_folds)) <= max_seconds:
            return kept, kept_folds, f"{remark}: all fits would take {total:.0f} s" if remark else ""
    middle = simplest[len(simplest) // 2]
    return [middle], folds, f"{first} without a choice of the penalty: all fits would take {total:.0f} s"


def _score(true: np.ndarray, pred: np.ndarray, kind: str) -> float:
    """Compute macro-F1, or the negative MSE."""
    if kind == "scalar":
        return -float(np.mean((pred - true) ** 2))
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
