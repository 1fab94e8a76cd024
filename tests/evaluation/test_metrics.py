"""Tests of metrics against scikit-learn and scipy, with resamples repeated by np.repeat."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from etude.evaluation.metrics import PRIMARY, classification, regression

AVERAGES = ("macro", "micro", "weighted")


def classes_by_sklearn(true: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    scores = {"accuracy": sk.accuracy_score(true, pred)}
    for average in AVERAGES:
        labels = None if average == "micro" else np.unique(true)
        values = sk.precision_recall_fscore_support(true, pred, labels=labels, average=average, zero_division=0)
        scores |= {
            f"{average}_{name}": value for name, value in zip(("precision", "recall", "f1"), values, strict=False)
        }
    return scores


def numbers_by_scipy(true: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    covariance = np.cov(true, pred, bias=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        correlations = {"spearman": stats.spearmanr(true, pred)[0], "pearson": stats.pearsonr(true, pred)[0]}
    return correlations | {
        "ccc": 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + (true.mean() - pred.mean()) ** 2),
        "mse": sk.mean_squared_error(true, pred),
        "mae": sk.mean_absolute_error(true, pred),
        "rmse": sk.root_mean_squared_error(true, pred),
        "r2": sk.r2_score(true, pred),
    }


def resamples(rng: np.random.Generator, n: int, rows: int = 40) -> np.ndarray:
    return rng.multinomial(n, np.full(n, 1 / n), size=rows)


@pytest.mark.parametrize("seed", range(4))
def test_classification_equals_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.choice([0, 0, 0, 1, 2, 4], size=31)  # class 3 is not in the truth, class 5 nowhere
    pred = np.where(rng.random(31) < 0.5, true, rng.choice([0, 1, 3, 4], size=31))  # class 2 is rarely predicted
    weights = resamples(rng, 31)
    point, drawn = classification(true, pred, 6), classification(true, pred, 6, weights)
    assert {name: value.item() for name, value in point.items()} == pytest.approx(classes_by_sklearn(true, pred))
    for i, w in enumerate(weights):
        expected = classes_by_sklearn(true.repeat(w), pred.repeat(w))
        assert {name: value[i] for name, value in drawn.items()} == pytest.approx(expected)


@pytest.mark.parametrize("digits", [1, 12])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_regression_equals_scipy(digits: int, offset: float) -> None:
    rng = np.random.default_rng(digits)
    true = np.round(rng.random(37), digits) + offset  # one digit: many ties
    pred = np.round(0.5 * true + 0.3 * rng.random(37), digits)
    weights = resamples(rng, 37)
    point, drawn = regression(true, pred), regression(true, pred, weights)
    assert {name: value.item() for name, value in point.items()} == pytest.approx(
        numbers_by_scipy(true, pred), rel=1e-7
    )
    for i, w in enumerate(weights):
        expected = numbers_by_scipy(true.repeat(w), pred.repeat(w))
        assert {name: value[i] for name, value in drawn.items()} == pytest.approx(expected, rel=1e-7)


def test_class_never_predicted_counts_as_zero() -> None:
    true, pred = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0])
    scores = classification(true, pred, 2)
    assert scores["macro_f1"].item() == pytest.approx((2 / 3 + 0) / 2)
    assert scores["macro_precision"].item() == pytest.approx(0.25)


def test_class_without_support_is_excluded_from_the_macro_mean() -> None:
    true, pred = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert classification(true, pred, 3)["macro_f1"].item() == pytest.approx((2 / 3 + 1) / 2)
    assert sk.f1_score(true, pred, average="macro") == pytest.approx((2 / 3 + 1 + 0) / 3)  # sklearn's default differs


def test_correlation_with_a_constant_is_nan_not_zero() -> None:
    true = np.array([0.1, 0.2, 0.7, 0.1])
    constant = np.full(4, 0.1 + 0.2)  # a constant whose mean rounds
    scores = regression(true, constant)
    assert np.isnan(scores["spearman"]).all() and np.isnan(scores["pearson"]).all()
    assert scores["ccc"].item() == 0
    assert np.isnan(regression(constant, true)["r2"]).all()
    only_ties = np.array([[k, 0, 0, 1] for k in range(1, 40)])  # each resample holds 0.1 alone; its mean often rounds
    for drawn in (regression(true, true[::-1], only_ties), regression(true, true, only_ties)):
        for name in ("spearman", "pearson", "r2"):
            assert np.isnan(drawn[name]).all(), name
    assert regression(true, true, np.ones((1, 4)))["spearman"].item() == pytest.approx(1)


@pytest.mark.parametrize("score", [regression, lambda t, p, w=None: classification(t, p, 2, w)])
def test_invalid_shapes_are_refused(score) -> None:
    ones = np.ones(4, dtype=int)
    with pytest.raises(ValueError, match=r"\(4, 1\).*broadcast"):
        score(ones[:, None], ones)
    with pytest.raises(ValueError, match=r"must both be \(n,\)"):
        score(ones[:, None], ones[:, None])
    with pytest.raises(ValueError, match="at least two"):
        score(ones[:1], ones[:1])
    with pytest.raises(ValueError, match=r"weights \(4,\)"):
        score(ones, ones, ones)


def test_invalid_values_are_refused() -> None:
    with pytest.raises(ValueError, match="class indices"):
        classification(np.array([0, 1]), np.array([0, 2]), 2)
    with pytest.raises(ValueError, match="class indices"):
        classification(np.array([0.0, 1.0]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="1 of 2 values that are not finite"):
        regression(np.array([0.0, 1.0]), np.array([0.0, np.nan]))


def test_primary_metric_is_low_for_the_most_common_value() -> None:
    true = np.array([0] * 90 + [1] * 10)
    lazy = classification(true, np.zeros(100, dtype=int), 2)
    assert lazy["accuracy"].item() == 0.9 and lazy[PRIMARY["label"]].item() < 0.5
    assert np.isnan(regression(true.astype(float), np.zeros(100))[PRIMARY["scalar"]]).all()
