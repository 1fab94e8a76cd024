"""Tests of paired tests against reference implementations, and of their false-positive rate."""

from itertools import product
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from sklearn.metrics import f1_score
from tests.reports.comparison.conftest import TARGETS, clips

from etude.evaluation import bootstrap
from etude.evaluation.means import build_scorer
from etude.evaluation.paired_tests import (
    Pair,
    ScoredTarget,
    compare_pairs,
    holm_correction,
    mcnemar_test,
    scored_run,
)


def compare_tables(tables: dict[str, pd.DataFrame], metric: str = "") -> list[Pair]:
    """Test the pairs of tables of predictions on the test split."""
    targets = [
        ScoredTarget(name, [scored_run(title, name, target, table, "test") for title, table in tables.items()])
        for name, target in TARGETS.items()
    ]
    return compare_pairs(targets, metric)[0]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (0, 6), (3, 9), (7, 7), (25, 4)])
def test_mcnemar_equals_the_exact_binomial_test(first: int, second: int) -> None:
    a = np.array([True] * first + [False] * second + [True] * 5 + [False] * 3)
    b = np.array([False] * first + [True] * second + [True] * 5 + [False] * 3)
    n, k = first + second, min(first, second)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar_test(a, b, np.arange(len(a)))[:2] == (first, second)
    assert mcnemar_test(a, b, np.arange(len(a)))[2] == pytest.approx(expected)


def test_accuracies_are_tested_over_groups_by_all_sign_flips() -> None:
    rng = np.random.default_rng(4)
    groups = rng.integers(0, 9, 60)
    a, b = rng.random(60) < 0.7, rng.random(60) < 0.4
    gains = np.array([a[groups == g].sum() - b[groups == g].sum() for g in range(9)])
    sums = [abs(np.dot(signs, gains)) for signs in product([-1, 1], repeat=9)]
    expected = np.mean([value >= abs(gains.sum()) for value in sums])
    assert mcnemar_test(a, b, groups)[2] == pytest.approx(expected)
    one_sided = np.repeat([True, False], [40, 0])
    assert mcnemar_test(one_sided, ~one_sided, np.repeat([0, 1], 20))[2] == 0.5  # 2 groups


def test_holm_correction_equals_manual_values() -> None:
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.2, None, 0.5]) == [0.4, None, 0.5]
    assert holm_correction([0.9, 0.8]) == [1.0, 1.0] and holm_correction([]) == []
    p = np.random.default_rng(0).random(40).tolist()
    assert all(new >= old for new, old in zip(holm_correction(p), p, strict=True))


def test_significant_difference_has_an_interval_without_zero() -> None:
    rng, many = np.random.default_rng(1), bootstrap.Resamples(np.ones((1, 1)), 1.0, 9_999)
    for shift in np.linspace(-3, 3, 25):
        drawn = rng.normal(shift, 1, 4000)
        low, high = bootstrap.percentile_interval(drawn)
        p = bootstrap.p_value(shift, drawn, many, groups=10_000)
        assert p is not None
        if abs(p - 0.05) > 0.004:
            assert (p < 0.05) == (low > 0 or high < 0)
    assert bootstrap.p_value(0.0, np.zeros(500), many, 100) == 1.0
    assert bootstrap.p_value(0.2, np.full(500, 0.2), many, 100) == pytest.approx(2 / 501)
    assert bootstrap.p_value(0.2, np.full(500, 0.2), many, 4) == 1 / 8  # equal differences in four groups
    assert bootstrap.p_value(0.2, np.empty(0), many, 1) is None
    undefined = np.concatenate([np.full(470, 0.2), np.full(30, np.nan)])
    assert bootstrap.p_value(0.2, undefined, many, 100) is None


def test_p_value_with_few_groups_equals_t_test() -> None:
    """The p value of a mean of few numbers is that of scipy's t test."""
    x = np.array([0.3, 0.8, -0.1, 0.5, 0.6])
    resamples = bootstrap.draw_resamples(list(range(5)), 20_000)
    drawn = x.mean() + resamples.widening * (resamples.weights @ x / 5 - x.mean())
    assert bootstrap.p_value(x.mean(), drawn, resamples, 9) == pytest.approx(ttest_1samp(x, 0).pvalue, rel=0.05)


def simulate(groups: int, resamples: int, trials: int, gap: float = 0.0) -> tuple[float, float]:
    """Simulate pairs of classifiers whose errors depend on the group.

    Returns:
        Fraction of p < .05, and fraction of intervals that contain zero.
    """
    rng = np.random.default_rng(7)
    size, significant, covered = 6, 0, 0
    group = np.repeat(np.arange(groups), size)
    for _ in range(trials):
        true = np.arange(groups * size) % 2
        difficulty = rng.normal(size=groups)[group]
        individual = rng.normal(size=(2, groups))[:, group]
        correct = difficulty + individual + rng.normal(size=(2, len(true))) > np.array([[-0.8 - gap], [-0.8]])
        preds = np.where(correct, true, 1 - true)
        drawn = bootstrap.draw_resamples(group.tolist(), resamples, seed=int(rng.integers(1 << 30)))
        scored = [
            bootstrap.resampled_scores(build_scorer(true, {"kind": "label", "classes": "ab"}), pred, drawn)
            for pred in preds
        ]
        (point, spread), (other, other_spread) = scored
        gain = point["accuracy"] - other["accuracy"]
        differing = bootstrap.count_differing_groups(*preds, group.tolist())
        p = bootstrap.p_value(gain[0], spread["accuracy"] - other_spread["accuracy"], drawn, differing)
        low, high = bootstrap.paired_interval(spread["accuracy"], other_spread["accuracy"])
        significant += p is not None and p < 0.05
        covered += low <= 0 <= high
    return significant / trials, covered / trials


@pytest.mark.parametrize("groups", [6, 12, 40])
def test_false_positive_rate_is_near_the_level(groups: int) -> None:
    assert 0.01 < simulate(groups, resamples=400, trials=300)[0] < 0.07


def test_coverage_of_intervals_of_a_difference() -> None:
    assert 0.91 < simulate(groups=40, resamples=400, trials=300)[1] < 0.98


def test_large_difference_is_detected() -> None:
    assert simulate(groups=40, resamples=400, trials=60, gap=1.2)[0] > 0.9


def test_equal_runs_do_not_differ() -> None:
    for pair in compare_tables({"a": clips(3), "b": clips(3)}):
        assert pair.p == 1.0 and pair.difference == {"value": 0.0, "low": None, "high": None}
        assert pair.mcnemar in (1.0, None) and pair.better == ""
        assert "a and b: the predictions are identical." in pair.summary


def few_groups(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the table with its clips in a few groups."""
    return table.assign(group=[f"artist {int(name.split()[1]) % count}" for name in table["group"]])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_difference_is_significant_with_fewer_than_six_groups(count: int) -> None:
    """Even a perfect and a useless run do not differ significantly, because chance decides the signs of few groups."""
    perfect, useless = clips(1, right=1.0, noise=0.0), clips(2, right=0.0, noise=3.0)
    for pair in compare_tables({"a": few_groups(perfect, count), "b": few_groups(useless, count)}):
        assert pair.groups == count and pair.p >= 2 / 2**count and pair.better == ""
        assert pair.mcnemar is None or pair.mcnemar >= 2 / 2**count
        assert f"differ in only {count} groups, too few for a significant difference (6 are needed)" in pair.summary


def test_two_clips_are_not_tested() -> None:
    table = clips(1).query("split == 'test'").drop_duplicates("genre.true").head(2)
    good = table.assign(**{"genre.pred": table["genre.true"], "valence.pred": table["valence.true"]})
    bad = table.assign(**{"genre.pred": "rock" if "rock" not in set(table["genre.true"]) else "folk"})
    genre, valence = compare_tables({"a": good, "b": bad})
    assert genre.p is None and "each class has only one group" in genre.conclusion
    assert genre.better == valence.better == "" and "0.001" not in genre.summary + valence.summary


def test_few_differing_groups_are_not_significant() -> None:
    table = clips(1, right=1.0)
    wrong = table.assign(
        **{
            "genre.pred": table["genre.pred"].where(
                ~table["group"].isin([f"artist {i}" for i in range(5)]),
                table["genre.pred"].map({"folk": "jazz", "jazz": "rock", "rock": "folk"}),
            )
        }
    )
    genre = compare_tables({"a": table, "b": wrong})[0]
    assert genre.groups == 16 and genre.differing == 5 and genre.p >= 2 / 2**5 and genre.better == ""


def test_unknown_groups_are_clips_in_the_conclusion() -> None:
    a, b = clips(1).assign(group=None), clips(1).assign(group=None)
    b.loc[b.index[1:3], "valence.pred"] += 0.1
    valence = compare_tables({"a": a, "b": b})[1]
    assert valence.ungrouped == valence.n and "differ in only 2 clips" in valence.conclusion


def test_known_difference_is_detected_with_its_value() -> None:
    tables_by_run = {"bad": clips(1, right=0.1, noise=1.5), "good": clips(2, right=0.9, noise=0.1)}
    genre, valence = compare_tables(tables_by_run)
    tables = [table.query("split == 'test'") for table in tables_by_run.values()]
    f1 = [f1_score(table["genre.true"], table["genre.pred"], average="macro") for table in tables]
    assert genre.scores == pytest.approx(tuple(f1)) and genre.difference["value"] == pytest.approx(f1[0] - f1[1])
    hits = [(table["genre.true"] == table["genre.pred"]).to_numpy() for table in tables]
    assert genre.only == (int((hits[0] & ~hits[1]).sum()), int((~hits[0] & hits[1]).sum()))
    assert genre.better == valence.better == "good" and "good is better" in genre.summary
    assert genre.n == 64 and genre.groups == 16 and valence.only is None
    (error,) = [pair for pair in compare_tables(tables_by_run, metric="mse") if pair.target == "valence"]
    assert error.metric == "mse" and error.scores[0] > error.scores[1] and error.better == "good"


def test_interval_of_a_difference_equals_that_of_repeated_clips() -> None:
    tables_by_run = {"a": clips(1, right=0.4), "b": clips(2, right=0.7)}
    genre = compare_tables(tables_by_run)[0]
    tested = [table.query("split == 'test'") for table in tables_by_run.values()]
    true, *preds = (
        table[f"genre.{column}"].map({"folk": 0, "jazz": 1, "rock": 2}).to_numpy()
        for table, column in ((tested[0], "true"), (tested[0], "pred"), (tested[1], "pred"))
    )
    differences = []
    resamples = bootstrap.draw_resamples(tested[0]["group"].tolist(), strata=true)
    for weights in resamples.weights[:400]:
        rows = np.repeat(np.arange(len(true)), weights)
        scores = [f1_score(true[rows], pred[rows], average="macro") for pred in preds]
        differences.append(scores[0] - scores[1])
    mean = np.mean(differences)
    low, high = mean + resamples.widening * (np.quantile(differences, [0.025, 0.975]) - mean)
    assert genre.difference["low"] == pytest.approx(low, abs=0.03)
    assert genre.difference["high"] == pytest.approx(high, abs=0.03)
