"""Tests of resampled groups and of the coverage of their intervals."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from etude.evaluation.bootstrap import (
    count_differing_groups,
    draw_resamples,
    encode_groups,
    paired_interval,
    percentile_interval,
    resampled_scores,
    scores_with_intervals,
)
from etude.evaluation.metrics import classification, regression


def draw_weights(*args: Any, **kwargs: Any) -> np.ndarray:
    """Return the weights of the resamples."""
    return draw_resamples(*args, **kwargs).weights


def test_complete_groups_are_drawn_with_replacement() -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    drawn = draw_weights(groups, resamples=500, seed=3)
    assert drawn.shape == (500, 6)
    assert (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 3] == drawn[:, 5]).all()
    assert (drawn[:, [0, 2, 3]].sum(1) == 3).all()  # the number of groups is constant
    assert drawn[:, 2].min() == 0 and drawn[:, 2].max() == 3
    assert drawn[:, 2].mean() == pytest.approx(1, abs=0.15)


def test_draws_depend_on_the_seed() -> None:
    groups = list(range(20))
    assert (draw_weights(groups, 50, seed=1) == draw_weights(groups, 50, seed=1)).all()
    assert (draw_weights(groups, 50, seed=1) != draw_weights(groups, 50, seed=2)).any()


def test_clip_without_group_is_its_own_group() -> None:
    assert encode_groups(["a", None, "a", "", float("nan"), "b"]).tolist() == [0, 1, 0, 2, 3, 4]
    assert encode_groups([None, None]).tolist() == [0, 1]


def test_one_group_has_no_interval() -> None:
    assert draw_weights(["a"] * 5).shape == (0, 5)
    assert np.isnan(percentile_interval(np.empty(0))).all()


def test_strata_have_every_class_in_every_resample() -> None:
    groups = ["a", "a", "b", "c", "c", "c", "d", "e"]
    classes = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    drawn = draw_weights(groups, resamples=500, seed=3, strata=classes)
    assert (drawn[:, [0, 2, 6]].sum(1) == 3).all()  # three complete groups of class 0
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 3] == drawn[:, 5]).all() and (drawn[:, [3, 7]].sum(1) == 2).all()  # two groups of class 1


def test_class_with_one_group_is_drawn_with_all_classes() -> None:
    groups, classes = ["a", "a", "b", "c", "c"], np.array([0, 0, 0, 1, 1])
    drawn = draw_resamples(groups, 500, seed=3, strata=classes)
    assert (drawn.weights == draw_weights(groups, 500, seed=3)).all() and drawn.degrees == 2


def test_interval_ignores_few_undefined_resamples_and_is_missing_for_many() -> None:
    values = np.concatenate([np.linspace(0, 1, 1001), np.full(50, np.nan)])
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))
    assert np.isnan(percentile_interval(np.concatenate([values, np.full(10, np.nan)]))).all()  # more than 5 %


def test_equal_resamples_have_no_interval() -> None:
    assert np.isnan(percentile_interval(np.full(500, 1 / 3))).all()
    true = np.array([0, 0, 1, 1])
    point, drawn = resampled_scores(lambda p, w: classification(true, p, 2, w), true, draw_resamples(list("abcd")))
    score = scores_with_intervals(point, drawn)["accuracy"]
    assert score["value"] == 1 and np.isnan(score["low"]) and np.isnan(score["high"])


def test_widened_standard_error_equals_that_of_a_mean() -> None:
    """The half width for a mean of few numbers is that of the t interval."""
    x = np.array([0.3, 0.8, -0.1, 0.5, 0.6])
    resamples = draw_resamples(list(range(5)), 40_000)
    drawn = resampled_scores(_mean, x, resamples)[1]["mean"]
    expected = t.interval(0.95, 4, x.mean(), x.std(ddof=1) / np.sqrt(5))
    assert drawn.std() * 1.959964 == pytest.approx((expected[1] - expected[0]) / 2, rel=0.01)
    assert draw_resamples(list(range(5000)), 2).widening == pytest.approx(1, abs=0.001)


def test_degrees_of_freedom_are_groups_minus_classes() -> None:
    groups, classes = list("aabbccdde"), np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert draw_resamples(groups).degrees == 4
    assert draw_resamples(groups, strata=classes).degrees == 3
    assert draw_resamples(groups, strata=classes).widening > draw_resamples(groups).widening > 1


def test_classes_with_one_group_each_have_no_resamples() -> None:
    groups, classes = list("aaabbb"), np.array([0, 0, 0, 1, 1, 1])
    assert draw_weights(groups, strata=classes).shape == (0, 6) and draw_weights(groups).shape == (2000, 6)
    mixed = draw_resamples(groups, strata=np.array([0, 0, 1, 1, 1, 0]))  # both groups have both classes
    assert mixed.degrees == 1 and (mixed.weights == draw_weights(groups)).all()


def test_intervals_stay_inside_the_range_of_a_score() -> None:
    true = np.array([0.1, 0.4, 0.2, 0.8, 0.5, 0.9])
    resamples = draw_resamples(list("aabbcc"))
    point, drawn = resampled_scores(
        lambda p, w: regression(true, p, w), np.array([0.3, 0.1, 0.2, 0.9, 0.7, 0.6]), resamples
    )
    scores = scores_with_intervals(point, drawn)
    assert -1 <= scores["spearman"]["low"] < scores["spearman"]["high"] <= 1
    assert scores["mse"]["low"] == 0 < scores["mse"]["high"]


def test_groups_with_different_predictions_are_counted() -> None:
    first, second = np.array([0, 1, 2, 0, 1]), np.array([0, 1, 0, 1, 1])
    assert count_differing_groups(first, second, ["a", "a", "b", "b", "c"]) == 1
    assert count_differing_groups(first, second, [None] * 5) == 2
    assert count_differing_groups(first, first, ["a", "a", "b", "b", "c"]) == 0


def test_interval_of_a_difference_is_paired() -> None:
    shared = np.random.default_rng(0).normal(size=1000)  # difficulty of each resample, equal for both
    noise = np.linspace(-0.01, 0.01, 1000)
    assert paired_interval(shared + 0.1 + noise, shared) == pytest.approx((0.0905, 0.1095), abs=1e-4)
    with pytest.raises(ValueError, match="same resamples"):
        paired_interval(shared, shared[1:])


def test_coverage_with_clustered_clips() -> None:
    """Group resamples cover about 95 % for 40 groups of 6 correlated clips, and clip resamples less."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 6)
    draws = draw_resamples(group.tolist(), 400), draw_resamples(list(range(240)), 400)
    hits = np.zeros(2)
    for _ in range(300):
        x = rng.normal(size=40)[group] + rng.normal(size=240)
        for i, resamples in enumerate(draws):
            low, high = percentile_interval(resampled_scores(_mean, x, resamples)[1]["mean"])
            hits[i] += low <= 0 <= high
    assert 0.9 < hits[0] / 300 < 0.985
    assert hits[1] / 300 < 0.8


def _mean(values: np.ndarray, weights: np.ndarray | None) -> dict[str, np.ndarray]:
    return {"mean": values.mean(keepdims=True) if weights is None else weights @ values / weights.sum(1)}
