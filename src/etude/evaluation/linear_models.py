"""Linear models and support vector machines, chosen by inner cross-validation on the training clips.

A score is hard to interpret alone. A linear model or a support vector machine (SVM) on statistics of the frames shows
which score is possible with timbre averaged over time. A network that is not better does not benefit from its capacity.

The family of the model and its penalty have the best score on inner folds of the training clips, which keep groups
together. Validation and test clips are not used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.bootstrap import encode_groups
from etude.evaluation.linear_candidates import (
    FOLDS,
    Candidate,
    build_estimator,
    constant_score,
    fit_estimator,
    inner_folds,
    known_values,
    out_of_fold_predictions,
    score_predictions,
    standardise_and_rotate,
    without_rounding_errors,
)

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator


VERSION = 2
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
MOST_CLIPS_SVM = 1500  # the time of an SVM grows with the square of the number of clips
MOST_VALUES = 300_000_000  # clips x features x classes; one fit then takes about ten seconds
SLOPE = 0.01  # relative change of the inner score at an end of the grid, below which a wider grid has no effect
UNMEASURED = 2_000  # clips x classes; the whole grid takes about a second, so its time is not measured


@dataclass(frozen=True)
class LinearFit:
    """Fitted model.

    Args:
        name: Family, such as `RBF SVM`, or `majority class` if the training clips have one class.
        penalty: Chosen parameters by scikit-learn's name.
        score: Score of the chosen model on the inner folds, such as macro-F1 or negative MSE. None if there was no
            choice.
        out_of_fold: Predictions of the inner folds for the training clips (n,), None or nan for a missing true value.
            With the score `log_loss`, probabilities of the classes in sorted order (n, K). None if there were no folds.
        seconds: Duration of the choice and the fit.
        remark: What was left out to limit the time, or "".
        estimator: The fitted scikit-learn estimator.
        chosen: The chosen candidate. None for a constant.
        scores: Score of each candidate on the inner folds. Empty if there was no choice.
        n_clips: Number of clips with a true value, to which the model is fitted.
        n_folds: Number of inner folds.
        n_groups: Number of groups, each of which is in one inner fold, or 0 if the folds separate groups.
        n_separated: Number of known groups, if the folds separate them, else 0.
        constant_score: Score of the predictions on the inner folds that ignore the features. None if there was no
            choice among given candidates.
    """

    name: str
    penalty: dict[str, float]
    score: float | None
    out_of_fold: np.ndarray | None
    seconds: float
    remark: str
    estimator: BaseEstimator
    chosen: Candidate | None = None
    scores: tuple[float, ...] = ()
    n_clips: int = 0
    n_folds: int = 0
    n_groups: int = 0
    n_separated: int = 0
    constant_score: float | None = None

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class names or numbers (n,) of features (n, P)."""
        return np.asarray(self.estimator.predict(x))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread of BLAS and OpenMP.

    More threads are hardly faster for these matrices, and ten times slower if other processes use the cores.
    """
    from sklearn import linear_model, svm  # noqa: F401  # only libraries that are loaded are limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


@_one_thread()
def fit_linear_model(
    x: np.ndarray,
    y: Iterable[Any],
    kind: str,
    groups: Sequence[Any] | None = None,
    families: Sequence[str] | None = None,
    max_seconds: float = 30.0,
    seed: int = 0,
    candidates: Sequence[Candidate] = (),
    score: str = "",
    folds: int = FOLDS,
) -> LinearFit:
    """Choose family and penalty on inner folds of the training clips, and fit the model to all training clips.

    The result depends only on the clips, unless the fits would take longer than `max_seconds`.

    Args:
        x: Features of the training clips (n, P).
        y: Class names or numbers (n,). Clips with a missing value are ignored.
        kind: "label", chosen by macro-F1 with balanced class weights; or "scalar", chosen by MSE.
        groups: Group of each clip (n,), which the inner folds keep together. None, nan and "" are unknown groups.
        families: Names of FAMILIES. None means all, or only the linear model for more than 1,500 clips.
        max_seconds: Time limit. First the SVMs are left out, then the grid becomes coarser. An infinite limit also fits
            all clips, however many there are.
        seed: Seed of the inner folds.
        candidates: Models from which one is chosen, instead of those of the families.
        score: Score by which it is chosen, one of `score_predictions`. "" means macro-F1 or MSE.
        folds: Number of inner folds. There are fewer for few clips or groups.

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
    most = len(known) if math.isinf(max_seconds) else max(100, MOST_VALUES // (x.shape[1] * n_classes))
    if most < len(known):
        remarks.append(f"fitted to {most:,} of {len(known):,} training clips, drawn at random")
        drawn = np.sort(np.random.default_rng(seed).choice(len(known), most, replace=False))
        known, true = known[drawn], true[drawn]
    features = x[known].astype(np.float64)
    if len(set(true.tolist())) == 1:
        return _constant_fit(features, true, kind, start)
    if families is None:
        families = FAMILIES[kind]
        if len(true) > MOST_CLIPS_SVM and not candidates:
            families = families[:1]
            remarks.append(f"no SVM for more than {MOST_CLIPS_SVM:,} training clips")
    models = list(candidates) or list_candidates(kind, families, x.shape[1])
    known_groups = [None if groups is None else groups[i] for i in known]
    splits = inner_folds(true, known_groups, kind, folds, seed)
    if len(true) * n_classes > UNMEASURED and not math.isinf(max_seconds):
        models, splits, remark = _limit_time(models, splits, features, true, kind, max_seconds)
        remarks.append(remark)
    first = models[0]
    alike = [i for i, m in enumerate(models) if (m.family, m.class_weight) == (first.family, first.class_weight)]
    best, scores, predicted = alike[len(alike) // 2], [], None  # the middle penalty, if none can be chosen
    constant = None
    if len(splits) > 1 and (len(models) > 1 or candidates):
        name = score or ("mse" if kind == "scalar" else "macro_f1")
        predictions = out_of_fold_predictions(models, splits, features, true, kind, name == "log_loss")
        scores = [round(score_predictions(true, pred, name), 9) for pred in predictions]
        if not candidates or len(set(scores)) > 1:
            best = int(np.argmax(scores))
        if candidates:
            constant = constant_score(splits, true, name)
        shape = (len(x), *predictions[best].shape[1:])
        predicted = np.full(shape, None if predictions[best].dtype.kind in "OU" else np.nan)
        predicted[known] = predictions[best]
    estimator = fit_estimator(build_estimator(models[best], kind), without_rounding_errors(features), true)
    codes = encode_groups(known_groups)
    n_groups = int(codes.max()) + 1 if codes.max() + 1 < len(codes) else 0
    together = all(not set(codes[train]) & set(codes[test]) for train, test in splits)
    return LinearFit(
        models[best].family,
        models[best].penalty,
        scores[best] if scores else None,
        predicted,
        time.perf_counter() - start,
        "; ".join(filter(None, remarks)),
        estimator,
        models[best],
        tuple(scores),
        len(true),
        len(splits),
        n_groups if together else 0,
        n_groups if splits and not together else 0,
        constant,
    )


def end_of_grid(candidates: Sequence[Candidate], fit: LinearFit) -> str | None:
    """Return at which end of the grid the penalty was chosen, `strongest` or `weakest`, or None.

    At an end where the inner score hardly changes, a wider grid would have no effect, and the result is None.

    Args:
        candidates: Candidates of one family among which the model was chosen, from the strongest penalty.
        fit: The fit.
    """
    if fit.chosen is None or not fit.scores:
        return None
    weight = fit.chosen.class_weight
    alike = [(c.penalty, s) for c, s in zip(candidates, fit.scores, strict=True) if c.class_weight == weight]
    # nearly perfect scores are close to 0, where a large relative change is still a small one
    slope = SLOPE * max(abs(fit.score or 0.0), abs(fit.constant_score or 0.0) / 10)
    for end, grid in (("strongest", alike), ("weakest", alike[::-1])):
        if len(grid) > 1 and grid[0][0] == fit.penalty and grid[0][1] - grid[1][1] > slope:
            return end
    return None


def format_penalty(probe: Mapping[str, Any]) -> str:
    """Return the penalty of a linear probe from its description in the record of a run, such as `C=0.01`."""
    return ", ".join(f"{key}={value:g}" for key, value in probe["penalty"].items())


def describe_end(probe: Mapping[str, Any], grid: str = "optim.") -> str:
    """Return a sentence about a linear probe whose penalty is at an end of the grid.

    Args:
        probe: Description of the fit in the record of a run.
        grid: Config group with the grid; "" for a grid that is not an option.
    """
    ((key, value),) = probe["penalty"].items()
    factor = 0.1 if (key == "C") == (probe["at_end"] == "strongest") else 10
    remedy = f"; add values, as in '{grid}{key}=[{value:g},{value * factor:g},{value * factor**2:g}]'" if grid else ""
    return f"the penalty {key}={value:g} is the {probe['at_end']} of the grid, so a better one may be outside{remedy}"


def weakness(name: str, probe: Mapping[str, Any]) -> str | None:
    """Return one sentence about a linear probe that may predict nothing, such as one of few groups, or None.

    Args:
        name: Name of the target.
        probe: Description of the fit in the record of a run, from `training.optimiser.LinearProbe.describe`.
    """
    clips, separated = f"the {probe['clips']} clips", probe.get("separated_groups")
    more = "fit to clips of more groups" if probe["groups"] or separated else "fit to more clips"
    scores = [candidate["inner_score"] for candidate in probe["candidates"]]
    if not probe["penalty"]:
        return f"{clips} have the same {name}, so the probe predicts it for all clips; fit to clips with other values"
    middle = "so none was chosen, and the probe has the middle one"
    if not scores:
        return f"{clips} are too few for inner folds that compare penalties, {middle}; {more}"
    if len(scores) > 1 and len(set(scores)) == 1:
        return f"all penalties have the same inner score, {middle}; {more}"
    constant, best = probe.get("constant_score"), probe.get("inner_score")
    scale = 1.0 if probe["score"] == "log_loss" else abs(constant or 0.0)
    if constant is not None and best is not None and best - constant <= SLOPE * scale:
        return (
            f"no penalty predicts the clips of the inner folds better than a constant does, so the probe may predict "
            f"nearly the same for all clips; {more}"
        )
    if separated:
        return (
            f"no inner folds keep the {separated} groups of {clips} together, so the chosen penalty may be too weak "
            f"for other groups; {more}"
        )
    return None


def _constant_fit(x: np.ndarray, y: np.ndarray, kind: str, start: float) -> LinearFit:
    """Return the fit to equal true values (n,), which predicts this value."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    dummy = DummyRegressor() if kind == "scalar" else DummyClassifier(strategy="most_frequent")
    name = "training mean" if kind == "scalar" else "majority class"
    return LinearFit(name, {}, None, None, time.perf_counter() - start, "", dummy.fit(x, y), n_clips=len(y))


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
    x_train, x_test = standardise_and_rotate(x[train], x[test])
    seconds: dict[str, float] = {}
    for family in dict.fromkeys(candidate.family for candidate in candidates):
        members = [candidate for candidate in candidates if candidate.family == family]
        start = time.perf_counter()
        fit_estimator(build_estimator(members[len(members) // 2], kind, standardise=False), x_train, y[train]).predict(
            x_test
        )
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
