"""Tests of the mean scores over scalar targets against scipy, scikit-learn and repeated clips."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from etude.evaluation import bootstrap
from etude.evaluation.means import mean_over_scalars, targets_and_mean
from etude.evaluation.measure import compute_metrics
from etude.evaluation.score_summary import describe_mean, summarise_scores
from etude.runs.schemas import metrics_fault

NAMES = ("valence", "energy", "danceability")
MODELS = {"network": "pred", "constant": "baseline.constant", "statistics": "baseline.statistics"}
SCORES = {
    "spearman": lambda t, p: stats.spearmanr(t, p).statistic,
    "pearson": lambda t, p: stats.pearsonr(t, p).statistic,
    "mse": sk.mean_squared_error,
    "mae": sk.mean_absolute_error,
    "rmse": sk.root_mean_squared_error,
    "r2": sk.r2_score,
}


@pytest.fixture(scope="module")
def metrics(table: pd.DataFrame, targets: dict) -> dict:
    return compute_metrics(table, targets)


@pytest.mark.parametrize("split", ["test", "val"])
def test_mean_is_that_of_the_scores_of_each_target(table: pd.DataFrame, metrics: dict, split: str) -> None:
    """Clips without a valence count for energy and danceability."""
    mean, rows = metrics["mean"], table[table["split"] == split]
    known = {name: rows[rows[f"{name}.true"].notna()] for name in NAMES}
    results = mean["splits"][split]
    assert (mean["targets"], mean["low"], mean["high"]) == (list(NAMES), 0, 1)
    assert results["n_by_target"] == {name: len(of_name) for name, of_name in known.items()}
    assert results["n_by_target"]["valence"] < results["n"] == len(rows)
    assert results["groups"] == rows["group"].nunique() and results["missing"] == 0
    entries = {"network": results, **results["baselines"]}
    for metric, score in SCORES.items():
        for model, column in MODELS.items():
            expected = None
            if model != "constant" or metric not in ("spearman", "pearson"):
                values = [score(known[name][f"{name}.true"], known[name][f"{name}.{column}"]) for name in NAMES]
                expected = pytest.approx(np.mean(values))
            assert entries[model]["scores"][metric]["value"] == expected, (model, metric)
    difference = entries["statistics"]["difference"]["spearman"]["value"]
    values = [entries[model]["scores"]["spearman"]["value"] for model in ("network", "statistics")]
    assert difference == pytest.approx(values[0] - values[1])


def test_intervals_resample_groups_once_for_all_targets(
    table: pd.DataFrame, targets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recompute the scores of all resamples from repeated clips."""
    draw = bootstrap.draw_resamples
    monkeypatch.setattr(bootstrap, "draw_resamples", lambda groups, seed=0: draw(groups, 200, seed))
    rows = table[table["split"] == "test"]
    resamples = bootstrap.draw_resamples(rows["group"].tolist())
    columns = {
        (name, column): rows[f"{name}.{column}"].to_numpy()
        for name in NAMES
        for column in ("true", "pred", "baseline.statistics")
    }
    rho, mse = np.zeros((200, 2)), np.zeros(200)
    for r, weights in enumerate(resamples.weights):
        for name in NAMES:
            times = weights * ~np.isnan(columns[name, "true"])
            true, *preds = (columns[name, c].repeat(times) for c in ("true", "pred", "baseline.statistics"))
            rho[r] += [np.corrcoef(stats.rankdata(true), stats.rankdata(pred))[0, 1] / 3 for pred in preds]
            mse[r] += ((true - preds[0]) ** 2).mean() / 3
    results = mean_over_scalars(table, targets, ("test",))["splits"]["test"]
    for score, values, largest in (
        (results["scores"]["spearman"], rho[:, 0], 1),
        (results["baselines"]["statistics"]["difference"]["spearman"], rho[:, 0] - rho[:, 1], 2),
        (results["scores"]["mse"], mse, np.inf),
    ):
        ends = np.quantile(values, [0.025, 0.975])
        expected = np.clip(values.mean() + resamples.widening * (ends - values.mean()), -largest, largest)
        assert (score["low"], score["high"]) == pytest.approx(tuple(expected))


def test_errors_have_a_mean_only_for_equal_ranges(table: pd.DataFrame, targets: dict) -> None:
    tempo = targets["energy"] | {"low": 40.0, "high": 200.0}
    metrics = compute_metrics(table, {name: targets[name] for name in ("genre", "valence")} | {"energy": tempo})
    mean = metrics["mean"]
    assert mean["targets"] == ["valence", "energy"] and "low" not in mean and not metrics_fault(metrics)
    assert set(mean["splits"]["test"]["scores"]) == {"spearman", "pearson", "ccc", "r2"}
    assert "Errors have no mean" in describe_mean(mean)
    assert "training mean" not in " ".join(summarise_scores(mean))  # its correlation is undefined


def test_mean_is_undefined_without_the_score_of_each_target(table: pd.DataFrame, targets: dict) -> None:
    constant = mean_over_scalars(table.assign(**{"energy.pred": 0.5}), targets, ("test",))["splits"]["test"]
    assert np.isnan(constant["scores"]["spearman"]["value"]) and constant["scores"]["mse"]["value"] > 0
    sparse = table.assign(**{"energy.true": table["energy.true"].where(table["id"] == "clip-001")})
    metrics = compute_metrics(sparse, targets)
    results = metrics["mean"]["splits"]["test"]
    assert results["scores"] == results["baselines"] == {} and results["n_by_target"]["energy"] == 1
    assert "too few for energy (1)" in describe_mean(metrics["mean"]) and not metrics_fault(metrics)
    without = table.drop(columns="energy.baseline.statistics")
    assert list(mean_over_scalars(without, targets, ("test",))["splits"]["test"]["baselines"]) == ["constant"]


def test_runs_with_fewer_than_two_scalars_have_no_mean(table: pd.DataFrame, targets: dict, metrics: dict) -> None:
    assert mean_over_scalars(table, {name: targets[name] for name in ("genre", "valence")}, ("test",)) == {}
    assert list(targets_and_mean(metrics)) == [*targets, "mean"]
    named = {"targets": {"mean": {}, "energy": {}}, "mean": {"targets": ["mean", "energy"]}}
    assert list(targets_and_mean(named)) == ["mean", "energy", "mean of scalars"]  # a target can have this name


def test_training_means_of_pooled_folds_have_no_mean_correlation(table: pd.DataFrame, targets: dict) -> None:
    fold = np.arange(len(table)) % 5
    varying = {f"{name}.baseline.constant": 0.4 + 0.05 * fold for name in NAMES}
    results = mean_over_scalars(table.assign(fold=fold, **varying), targets, ("test",))["splits"]["test"]
    scores = results["baselines"]["constant"]["scores"]
    assert np.isnan(scores["spearman"]["value"]) and scores["mse"]["value"] > 0
