"""Tests of the constant and the linear baseline."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from etude.evaluation.baselines import (
    INVERSE_PENALTIES,
    PENALTIES,
    constant_baseline,
    fit_linear_baseline,
    mel_statistics,
)


def make_data(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) * [1, 10, 100, 1, 1, 1] - 40
    return x, 0.3 * x[:, 0] + 0.05 * x[:, 1] + rng.normal(size=n) * 0.2


def test_mel_statistics_are_mean_and_deviation_of_each_band() -> None:
    frames = np.random.default_rng(0).normal(size=(50, 128)).astype(np.float16)
    stats = mel_statistics(frames)
    assert stats.shape == (256,)
    assert stats[3] == pytest.approx(frames[:, 3].astype(float).mean())
    assert stats[128 + 3] == pytest.approx(frames[:, 3].astype(float).std())
    with pytest.raises(ValueError, match="at least 1"):
        mel_statistics(frames[:0])


def test_constant_baseline_is_majority_class_or_mean() -> None:
    assert constant_baseline(["b", "a", None, "b", float("nan"), None, None], "label") == "b"
    assert constant_baseline(["b", "a"], "label") == "a"
    assert constant_baseline([1.0, float("nan"), 2.0], "scalar") == 1.5
    with pytest.raises(ValueError, match="no clip"):
        constant_baseline([None, None], "label")


def test_ridge_penalty_has_the_best_validation_score() -> None:
    (x, y), (x_val, y_val) = make_data(), make_data(30, seed=1)
    candidates = [make_pipeline(StandardScaler(), Ridge(alpha=a)).fit(x, y) for a in PENALTIES]
    best = min(candidates, key=lambda model: np.mean((model.predict(x_val) - y_val) ** 2))
    np.testing.assert_allclose(fit_linear_baseline(x, y, x_val, y_val, "scalar").predict(x_val), best.predict(x_val))
    flat = np.full(30, y.mean()) + np.arange(30) * 1e-9  # selects the strongest penalty
    shifted = fit_linear_baseline(x, y, x_val, flat, "scalar")
    assert shifted[-1].alpha == PENALTIES[-1]


def test_rows_without_true_value_are_ignored() -> None:
    (x, y), (x_val, y_val) = make_data(), make_data(30, seed=1)
    with_missing, with_outliers = np.concatenate([y, [np.nan] * 5]), np.concatenate([x, np.full((5, 6), 1e6)])
    expected = fit_linear_baseline(x, y, x_val, y_val, "scalar").predict(x_val)
    np.testing.assert_allclose(
        fit_linear_baseline(with_outliers, with_missing, x_val, y_val, "scalar").predict(x_val), expected
    )


def test_predictions_are_class_names() -> None:
    (x, y), (x_val, y_val) = make_data(), make_data(30, seed=1)
    names, names_val = (np.where(v > np.median(y), "loud", "soft").astype(object) for v in (y, y_val))
    names[3] = None
    model = fit_linear_baseline(x, names, x_val, names_val, "label")
    assert isinstance(model[-1], LogisticRegression) and model[-1].C in INVERSE_PENALTIES
    pred = model.predict(x_val)
    assert set(pred) == {"loud", "soft"}
    assert np.mean(pred == names_val) > 0.7


def test_one_class_gives_a_constant_and_empty_validation_split_the_middle_penalty() -> None:
    x, y = make_data()
    constant = fit_linear_baseline(x, ["rock"] * 79 + [None], x, ["jazz"] * 80, "label")
    assert constant.predict(x[:2]).tolist() == ["rock", "rock"]
    model = fit_linear_baseline(x, y, x[:0], [], "scalar")
    assert model[-1].alpha == PENALTIES[len(PENALTIES) // 2]


def test_mismatched_or_missing_values_are_refused() -> None:
    x, y = make_data()
    with pytest.raises(ValueError, match="do not match"):
        fit_linear_baseline(x, y[1:], x, y, "scalar")
    with pytest.raises(ValueError, match="no clip"):
        fit_linear_baseline(x, [None] * 80, x, ["a"] * 80, "label")
