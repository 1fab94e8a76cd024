"""Tests of resampled groups and of the coverage of their intervals."""

import numpy as np
import pytest

from etude.evaluation.bootstrap import draw_weights, encode_groups, paired_interval, percentile_interval


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
    groups = ["a", "a", "b", "c", "c", "c", "d"]
    classes = np.array([0, 0, 0, 1, 1, 1, 0])
    drawn = draw_weights(groups, resamples=500, seed=3, strata=classes)
    assert (drawn[:, [0, 2, 6]].sum(1) == 3).all()  # three complete groups of class 0
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 3:6].sum(1) == 3).all()  # class 1 has one group, so its clips are drawn
    assert (drawn[:, 3] != drawn[:, 4]).any()


def test_interval_ignores_undefined_resamples() -> None:
    values = np.concatenate([np.linspace(0, 1, 1001), np.full(300, np.nan)])
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))


def test_interval_of_a_difference_is_paired() -> None:
    shared = np.random.default_rng(0).normal(size=1000)  # difficulty of each resample, equal for both
    low, high = paired_interval(shared + 0.1, shared)
    assert (low, high) == pytest.approx((0.1, 0.1))
    with pytest.raises(ValueError, match="same resamples"):
        paired_interval(shared, shared[1:])


def test_coverage_with_clustered_clips() -> None:
    """Group resamples cover about 95 % for 40 groups of 6 correlated clips, and clip resamples less."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 6)
    by_group, by_clip = draw_weights(group.tolist(), 400), draw_weights(list(range(240)), 400)
    hits = np.zeros(2)
    for _ in range(300):
        x = rng.normal(size=40)[group] + rng.normal(size=240)
        for i, w in enumerate((by_group, by_clip)):
            low, high = percentile_interval(w @ x / w.sum(1))
            hits[i] += low <= 0 <= high
    assert 0.88 < hits[0] / 300 < 0.985
    assert hits[1] / 300 < 0.8
