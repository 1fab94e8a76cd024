"""Tests of calibration scores and limits of agreement against scikit-learn and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from etude.evaluation import metrics
from etude.evaluation.measure import compute_metrics
from etude.evaluation.metrics import PRIMARY


def error_by_sklearn(probability: np.ndarray, true: np.ndarray, pred: np.ndarray) -> float:
    """Return the expected calibration error from scikit-learn's calibration curve."""
    confidence, correct = probability[np.arange(len(pred)), pred], true == pred
    accuracy, mean = calibration_curve(correct, confidence, n_bins=metrics.BINS)
    inner = np.linspace(0, 1, metrics.BINS + 1)[1:-1]
    counts = np.bincount(np.searchsorted(inner, confidence), minlength=metrics.BINS)
    return float(np.abs(accuracy - mean) @ counts[counts > 0] / len(true))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_calibration_scores_equal_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    probability, true = rng.dirichlet([0.5] * classes, 80), rng.integers(0, classes, 80)
    pred = probability.argmax(1)
    weights = np.vstack([np.ones(80, int), rng.multinomial(80, np.full(80, 1 / 80), 20)])
    scores = metrics.calibration_scores(probability, true, pred, weights)
    for row, counts in enumerate(weights):
        p, y, predicted = (np.repeat(value, counts, axis=0) for value in (probability, true, pred))
        class_indices = np.arange(classes)
        assert scores["nll"][row] == pytest.approx(log_loss(y, p, labels=class_indices))
        brier = brier_score_loss(y, p if classes > 2 else p[:, 1], labels=class_indices, scale_by_half=False)
        assert scores["brier"][row] == pytest.approx(brier)
        assert scores["ece"][row] == pytest.approx(error_by_sklearn(p, y, predicted))
    assert {k: v[0] for k, v in metrics.calibration_scores(probability, true, pred).items()} == pytest.approx(
        {k: v[0] for k, v in scores.items()}, nan_ok=True
    )


def test_zero_probability_gives_a_finite_likelihood() -> None:
    probability = np.array([[1, 0], [0, 1]], dtype=np.float32)
    scores = metrics.calibration_scores(probability, np.array([1, 1]), np.array([0, 1]))
    assert scores["nll"][0] == pytest.approx(log_loss([1, 1], probability, labels=[0, 1]), rel=1e-6)
    assert scores["brier"][0] == 1 and scores["ece"][0] == 0.5


def test_simulated_chance_error_equals_that_of_a_calibrated_network() -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet([1] * 3, 60)
    pred = probability.argmax(1)
    chance = metrics.simulate_chance_error(probability, pred)
    errors = []
    for _ in range(400):
        true = (probability.cumsum(1) > rng.random((60, 1))).argmax(1)  # with the predicted probabilities
        errors.append(metrics.calibration_scores(probability, true, pred)["ece"][0])
    assert chance["mean"] == pytest.approx(np.mean(errors), abs=0.01)
    assert np.mean(np.array(errors) > chance["high"]) == pytest.approx(0.05, abs=0.035)


def test_limits_of_agreement_equal_numpy_and_scipy() -> None:
    rng = np.random.default_rng(1)
    true, pred = rng.random(50) + 100, rng.random(50) + 100
    weights = np.vstack([np.ones(50, int), rng.multinomial(50, np.full(50, 1 / 50), 20)])
    scores = metrics.limits_of_agreement(true, pred, weights)
    for row, counts in enumerate(weights):
        error = np.repeat(pred - true, counts)
        assert scores["bias"][row] == pytest.approx(error.mean(), abs=1e-12)
        assert scores["sd"][row] == pytest.approx(np.std(error, ddof=1))
        low, high = stats.norm.interval(0.95, error.mean(), error.std(ddof=1))
        assert [scores["lower"][row], scores["upper"][row]] == pytest.approx([low, high], abs=1e-4)


def test_metrics_contain_calibration_with_intervals_but_not_as_primary(table: pd.DataFrame, targets: dict) -> None:
    measured = compute_metrics(table, targets)["targets"]
    for split in ("test", "val"):
        rows = table[table["split"] == split]
        classes = targets["genre"]["classes"]
        probability = rows[[f"genre.score.{name}" for name in classes]].to_numpy()
        true, pred = (rows[f"genre.{column}"].map(classes.index).to_numpy() for column in ("true", "pred"))
        scores = measured["genre"]["splits"][split]["calibration"]
        assert scores["nll"]["value"] == pytest.approx(log_loss(true, probability, labels=range(len(classes))))
        assert scores["ece"]["value"] == pytest.approx(error_by_sklearn(probability, true, pred))
        assert scores["ece"]["low"] <= scores["ece"]["high"]
        assert sum(row["n"] for row in scores["bins"]) == len(rows)
        accuracy, mean = calibration_curve(true == pred, probability.max(1), n_bins=metrics.BINS)
        filled = [row for row in scores["bins"] if row["n"]]
        assert [row["accuracy"]["value"] for row in filled] == pytest.approx(accuracy)
        assert [row["confidence"] for row in filled] == pytest.approx(mean)
        error = (rows["energy.pred"] - rows["energy.true"]).dropna()
        scores = measured["energy"]["splits"][split]["agreement"]
        assert scores["bias"]["value"] == pytest.approx(error.mean())
        assert scores["upper"]["value"] == pytest.approx(error.mean() + 1.96 * error.std())
    assert not {"ece", "nll", "brier", "bias"} & set(PRIMARY.values())


def test_table_without_probabilities_has_no_calibration(table: pd.DataFrame, targets: dict) -> None:
    bare = table[[c for c in table.columns if ".score." not in c]]
    assert compute_metrics(bare, targets)["targets"]["genre"]["splits"]["test"]["calibration"] == {}
    broken = table.assign(**{"genre.score.rock": np.nan})
    with pytest.raises(ValueError, match="30 of 30 clips have no predicted probabilities for genre"):
        compute_metrics(broken, targets)
