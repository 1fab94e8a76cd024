"""Tests of metrics.json against scikit-learn and scipy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from etude.cli.app import run_command
from etude.errors import UserError
from etude.evaluation import bootstrap
from etude.evaluation.bootstrap import significant_sign
from etude.evaluation.formatting import LOWER_IS_BETTER, NAMES, describe_left_out, register_metrics
from etude.evaluation.means import check_functions, usable_functions
from etude.evaluation.measure import compute_metrics, repeated_scores
from etude.evaluation.metrics import FunctionMetric
from etude.files.ownership import LIST_NAME
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare_runs
from etude.reports.comparison.runs import read_compared_run
from etude.reports.comparison.text import to_markdown
from etude.runs.folder import RunFolder, write_metrics


@pytest.fixture(scope="module")
def measured(table: pd.DataFrame, targets: dict) -> dict:
    return compute_metrics(table, targets)["targets"]


def label_scores(true: pd.Series, pred: pd.Series) -> dict[str, float]:
    scores = {"accuracy": sk.accuracy_score(true, pred)}
    for average in ("macro", "micro", "weighted"):
        labels = None if average == "micro" else sorted(set(true))
        values = sk.precision_recall_fscore_support(true, pred, labels=labels, average=average, zero_division=0)
        scores |= {
            f"{average}_{name}": value for name, value in zip(("precision", "recall", "f1"), values, strict=False)
        }
    return scores


def scalar_scores(true: pd.Series, pred: pd.Series) -> dict[str, float | None]:
    defined = len(set(pred)) > 1
    covariance = np.cov(true, pred, bias=True)
    bias = (true.mean() - pred.mean()) ** 2
    return {
        "spearman": stats.spearmanr(true, pred)[0] if defined else None,
        "pearson": stats.pearsonr(true, pred)[0] if defined else None,
        "ccc": 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + bias),
        "mse": sk.mean_squared_error(true, pred),
        "mae": sk.mean_absolute_error(true, pred),
        "rmse": sk.root_mean_squared_error(true, pred),
        "r2": sk.r2_score(true, pred),
    }


def assert_scores(scores: dict[str, dict], expected: dict[str, float | None]) -> None:
    assert set(scores) == set(expected)
    for name, value in expected.items():
        assert scores[name]["value"] == (None if value is None else pytest.approx(value, abs=1e-12)), name


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("target", ["genre", "valence", "energy", "danceability"])
def test_point_estimates_and_differences(table: pd.DataFrame, measured: dict, target: str, split: str) -> None:
    rows = table[(table["split"] == split) & table[f"{target}.true"].notna()]
    score = label_scores if target == "genre" else scalar_scores
    result = measured[target]["splits"][split]
    expected = score(rows[f"{target}.true"], rows[f"{target}.pred"])
    assert_scores(result["scores"], expected)
    assert result["n"] == len(rows)
    assert result["groups"] == rows["group"].nunique()
    assert result["missing"] == (table["split"] == split).sum() - len(rows)
    for name, baseline in result["baselines"].items():
        other = score(rows[f"{target}.true"], rows[f"{target}.baseline.{name}"])
        assert_scores(baseline["scores"], other)
        assert_scores(baseline["difference"], {m: None if other[m] is None else expected[m] - other[m] for m in other})


def test_intervals_equal_those_of_repeated_clips(table: pd.DataFrame, measured: dict) -> None:
    rows = table[(table["split"] == "test") & table["valence.true"].notna()]
    true, pred, other = (rows[f"valence.{c}"].to_numpy() for c in ("true", "pred", "baseline.statistics"))
    resamples = bootstrap.draw_resamples(rows["group"].tolist())
    rho = np.array(
        [[stats.spearmanr(true.repeat(w), p.repeat(w))[0] for p in (pred, other)] for w in resamples.weights]
    )
    result = measured["valence"]["splits"]["test"]
    for scores, values in (
        (result["scores"]["spearman"], rho[:, 0]),
        (result["baselines"]["statistics"]["difference"]["spearman"], rho[:, 0] - rho[:, 1]),
    ):
        low, high = np.quantile(values, [0.025, 0.975])
        expected = [values.mean() + resamples.widening * (end - values.mean()) for end in (low, high)]
        assert (scores["low"], scores["high"]) == pytest.approx(tuple(np.clip(expected, -1, 1)))


def test_classes_and_confusion(table: pd.DataFrame, measured: dict, targets: dict) -> None:
    rows = table[table["split"] == "test"]
    result = measured["genre"]["splits"]["test"]
    expected = sk.confusion_matrix(rows["genre.true"], rows["genre.pred"], labels=targets["genre"]["classes"])
    assert result["confusion"] == expected.tolist()
    report = sk.classification_report(rows["genre.true"], rows["genre.pred"], output_dict=True, zero_division=0)
    for i, row in enumerate(result["per_class"]):
        assert [row[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx(
            [report[row["class"]][k] for k in ("precision", "recall", "f1-score", "support")]
        )
        assert row["predicted"] == expected[:, i].sum()
        assert row["groups"] == rows.loc[rows["genre.true"] == row["class"], "group"].nunique()
    jazz = result["per_class"][2]
    assert jazz["predicted"] == 0 and jazz["support"] > 0 and jazz["f1"] == 0


def test_class_without_support_has_no_recall(table: pd.DataFrame, targets: dict) -> None:
    without = table[table["genre.true"] != "jazz"]
    row = compute_metrics(without, {"genre": targets["genre"]})["targets"]["genre"]["splits"]["test"]["per_class"][2]
    assert row == {
        "class": "jazz",
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
        "groups": 0,
        "predicted": 0,
    }


def test_one_group_has_point_estimates_but_no_interval(table: pd.DataFrame, targets: dict) -> None:
    alone = compute_metrics(table.assign(group="one"), {"energy": targets["energy"]})["targets"]["energy"]["splits"][
        "test"
    ]
    score = alone["scores"]["spearman"]
    assert score["value"] is not None and score["low"] is None and score["high"] is None


def test_row_order_and_missing_groups(table: pd.DataFrame, measured: dict, targets: dict) -> None:
    shuffled = compute_metrics(table.sample(frac=1, random_state=1), targets)["targets"]
    for target in targets:
        for metric, score in measured[target]["splits"]["test"]["scores"].items():
            again = shuffled[target]["splits"]["test"]["scores"][metric]
            assert again["value"] == pytest.approx(score["value"])
    single = compute_metrics(table.assign(group=None), targets)["targets"]["genre"]["splits"]["test"]
    assert single["groups"] == single["n"] == single["ungrouped"]
    partly = table.assign(group=table["group"].where(table["group"] != "artist 0"))
    results = compute_metrics(partly, targets)["targets"]["genre"]["splits"]["test"]
    assert results["ungrouped"] == 5 and results["groups"] == 5 + 5 and results["n"] == 30


def test_empty_split_and_missing_baselines(table: pd.DataFrame, targets: dict) -> None:
    columns = [c for c in table.columns if "baseline" not in c]
    result = compute_metrics(table.loc[table["split"] == "val", columns], targets)["targets"]["genre"]["splits"]
    assert result["test"]["n"] == 0 and result["test"]["scores"] == {}
    assert result["val"]["scores"] and result["val"]["baselines"] == {}


def test_invalid_tables_are_refused(table: pd.DataFrame, targets: dict) -> None:
    broken = table.copy()
    broken.loc[broken["split"] == "test", "energy.pred"] = np.nan
    with pytest.raises(ValueError, match=r"energy\.pred.*diverge"):
        compute_metrics(broken, targets)
    with pytest.raises(ValueError, match=r"polka"):
        compute_metrics(table.assign(**{"genre.pred": "polka"}), targets)
    with pytest.raises(ValueError, match=r"no column named 'mood\.true'"):
        compute_metrics(table, {"mood": {"kind": "scalar"}})


def test_metrics_file_is_strict_json_and_the_only_new_file(make_run) -> None:
    folder = make_run()
    before = {path.name for path in folder.iterdir()}
    path = write_metrics(RunFolder(folder))
    metrics = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    constant = metrics["targets"]["valence"]["splits"]["test"]["baselines"]["constant"]
    assert metrics["version"] == 2
    assert constant["scores"]["spearman"]["value"] is None
    assert {p.name for p in folder.iterdir()} == before | {"metrics.json", LIST_NAME}


def test_macro_means_of_classes_with_training_clips(table: pd.DataFrame, targets: dict) -> None:
    """Compare with scikit-learn's means over a list of labels, in which other clips are false positives."""
    genre = targets["genre"] | {"train_classes": {"ambient": 9, "folk": 3, "jazz": 5, "rock": 0}}
    learnable = compute_metrics(table, {"genre": genre})["targets"]["genre"]["splits"]["test"]["learnable"]
    assert (learnable["classes"], learnable["untrained"]) == (["ambient", "folk", "jazz"], ["rock"])
    rows = table[table["split"] == "test"]
    expected = sk.precision_recall_fscore_support(
        rows["genre.true"], rows["genre.pred"], labels=learnable["classes"], average="macro", zero_division=0
    )
    for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
        score = learnable["scores"][f"macro_{name}"]
        assert score["value"] == pytest.approx(value)
        assert 0 <= score["low"] < score["high"] <= 1
    for counts in ({"ambient": 1, "folk": 1, "jazz": 1, "rock": 1}, None):
        spec = targets["genre"] | ({"train_classes": counts} if counts else {})
        assert "learnable" not in compute_metrics(table, {"genre": spec})["targets"]["genre"]["splits"]["test"]


def test_repeats_are_averaged_on_common_resamples(table: pd.DataFrame, targets: dict) -> None:
    """A repeat with the same predictions adds no information, so that the interval stays the same."""
    other = table.assign(**{"genre.pred": "rock"}).sample(frac=1, random_state=0)
    once = compute_metrics(table, {"genre": targets["genre"]})["targets"]["genre"]["splits"]["test"]
    same = repeated_scores([table, table, table], "genre", targets["genre"])
    assert (same["n"], same["groups"]) == (once["n"], once["groups"])
    for metric, score in once["scores"].items():
        assert {k: same["scores"][metric][k] for k in score} == pytest.approx(score)
    mixed = repeated_scores([table, other], "genre", targets["genre"])["scores"]["accuracy"]
    rows = table[table["split"] == "test"]
    expected = [(rows["genre.true"] == rows["genre.pred"]).mean(), (rows["genre.true"] == "rock").mean()]
    assert mixed["values"] == pytest.approx(expected)
    assert mixed["value"] == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="different test clips"):
        repeated_scores([table, table[table["id"] != rows["id"].iloc[3]]], "genre", targets["genre"])


def test_training_mean_of_pooled_folds_has_no_correlation(table: pd.DataFrame, targets: dict) -> None:
    """Its correlation would be negative, because the training mean is low for a fold with high values."""
    fold = np.arange(len(table)) % 5
    others = [table.loc[fold != i, "energy.true"].mean() for i in range(5)]
    pooled = table.assign(fold=fold, **{"energy.baseline.constant": np.array(others)[fold]})
    results = compute_metrics(pooled, {"energy": targets["energy"]})["targets"]["energy"]["splits"]["test"]
    constant = results["baselines"]["constant"]
    for metric in ("spearman", "pearson"):
        assert constant["scores"][metric]["value"] is None and constant["difference"][metric]["value"] is None
    assert constant["scores"]["mse"]["value"] > 0 and results["baselines"]["statistics"]["scores"]["spearman"]["value"]


def test_perfect_network_differs_from_a_useless_baseline(table: pd.DataFrame, targets: dict) -> None:
    wrong = table["genre.true"].map({"ambient": "folk", "folk": "jazz", "jazz": "rock", "rock": "ambient"})
    perfect = table.assign(**{"genre.pred": table["genre.true"], "genre.baseline.linear": wrong})
    test = compute_metrics(perfect, {"genre": targets["genre"]})["targets"]["genre"]["splits"]["test"]
    linear = test["baselines"]["linear"]
    assert linear["difference"]["macro_f1"] == {"value": 1.0, "low": None, "high": None}
    assert "macro_f1" in linear["constant_differences"] and linear["differing_groups"] == 6
    assert significant_sign(test, linear, "macro_f1") == 1
    assert significant_sign(test, linear | {"differing_groups": 5}, "macro_f1") == 0


def error_rate(true: np.ndarray, pred: np.ndarray) -> float:
    return float(np.mean(true != pred))


def folk_recall(true: np.ndarray, pred: np.ndarray) -> float:
    if not (true == "folk").any():
        raise ValueError("no folk")
    return float(np.mean(pred[true == "folk"] == "folk"))


def spread(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    return np.array([true.std(), pred.std()])


def test_metrics_of_functions(table: pd.DataFrame, targets: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values equal those of the functions, and intervals those of the built-in metric with the same formula."""
    monkeypatch.setenv("ETUDE_TRUST", "tests")
    nodes = {
        "kappa": {"_target_": "sklearn.metrics.cohen_kappa_score", "weights": "linear"},
        "errors": {"_target_": f"{__name__}.error_rate", "lower_is_better": True, "title": "Errors", "range": [0, 1]},
        "auc": {"_target_": "sklearn.metrics.roc_auc_score", "multi_class": "ovr", "on": "scores"},
    }
    monkeypatch.setattr(bootstrap.draw_resamples, "__defaults__", (200, 0, None))
    result = compute_metrics(table, {"genre": targets["genre"] | {"metrics": nodes}})["targets"]["genre"]
    assert result["metrics"] == nodes and "left_out" not in result
    rows, test = table[table["split"] == "test"], result["splits"]["test"]
    scores, classes = test["scores"], targets["genre"]["classes"]
    probability = rows[[f"genre.score.{name}" for name in classes]]
    assert scores["kappa"]["value"] == pytest.approx(
        sk.cohen_kappa_score(rows["genre.true"], rows["genre.pred"], weights="linear")
    )
    assert scores["auc"]["value"] == pytest.approx(
        sk.roc_auc_score(rows["genre.true"], probability, multi_class="ovr", labels=classes)
    )
    accuracy = scores["accuracy"]
    expected = {"value": 1 - accuracy["value"], "low": 1 - accuracy["high"], "high": 1 - accuracy["low"]}
    assert scores["errors"] == pytest.approx(expected)
    statistics = test["baselines"]["statistics"]
    difference = statistics["difference"]["accuracy"]
    assert statistics["difference"]["errors"]["low"] == pytest.approx(-difference["high"])
    assert statistics["scores"]["auc"] == {"value": None, "low": None, "high": None}  # it predicts no probabilities
    register_metrics({"genre": result})
    assert (NAMES["kappa"], NAMES["errors"]) == ("kappa", "Errors")
    assert "errors" in LOWER_IS_BETTER and "kappa" not in LOWER_IS_BETTER


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"_target_": "os.getpid"}, "the stored config calls os.getpid, which is not trusted; if you trust it, add"),
        ({"_target_": "sklearn.metrics.kappa"}, "sklearn.metrics.kappa: cannot be imported"),
        ({"_target_": f"{__name__}.spread"}, f"{{key}}: {__name__}.spread returned an array of shape (2,); it must"),
        ({"_target_": f"{__name__}.folk_recall"}, f"{{key}}: {__name__}.folk_recall raised ValueError: no folk"),
        ({"_target_": f"{__name__}.spread", "on": "scores"}, "{key}.on: must be predictions, or scores for the prob"),
        ({"_target_": f"{__name__}.spread", "range": [1]}, "{key}.range: must be the smallest and the largest value"),
    ],
)
def test_metric_that_cannot_be_computed_is_left_out(
    table: pd.DataFrame, targets: dict, monkeypatch: pytest.MonkeyPatch, node: dict, reason: str
) -> None:
    monkeypatch.setenv("ETUDE_TRUST", "tests")
    spec = targets["energy"] | {"metrics": {"further": node}}
    functions, left_out = usable_functions("energy", spec, table)
    assert functions == [] and left_out["further"].startswith(reason.format(key="energy.metrics.further"))
    assert describe_left_out({"energy": {"left_out": left_out}}).startswith("without the metrics further: ")


def test_metric_is_undefined_on_a_resample_on_which_the_function_fails() -> None:
    true, pred = np.array(["folk", "jazz", "folk"]), np.array(["folk", "folk", "jazz"])
    metric = FunctionMetric("genre.metrics.recall", "recall", "folk_recall", folk_recall)
    weights = np.array([[1, 1, 1], [0, 3, 0], [3, 0, 1], [0, 3, 0]])
    assert metric(true, pred, weights).tolist() == pytest.approx([0.5, np.nan, 0.75, np.nan], nan_ok=True)
    assert metric(true, pred, None).tolist() == [0.5]


def test_functions_are_checked_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    scalar = {"valence": {"kind": "scalar", "low": 1.0, "high": 9.0}}
    for target, message in (
        (f"{__name__}.spread", r"task\.targets\.valence\.metrics\.m: .*spread returned an array of shape \(2,\)"),
        ("math.nan", r"metrics\.m: math\.nan is not a function"),
        ("builtins.no_such", r"metrics\.m: builtins\.no_such: cannot be imported"),
    ):
        with pytest.raises(UserError, match=message):
            check_functions({"valence": {"metrics": {"m": {"_target_": target}}}}, scalar)
    with pytest.raises(UserError, match="ccc is the name of a built-in metric; choose another name"):
        check_functions({"valence": {"metrics": {"ccc": {"_target_": "math.dist"}}}}, scalar)
    monkeypatch.setattr(f"{__name__}.spread", lambda true, pred: float("nan"))
    with pytest.raises(UserError, match=r"spread returned nan for simulated predictions"):
        check_functions({"valence": {"metrics": {"m": {"_target_": f"{__name__}.spread"}}}}, scalar)


def test_stored_run_states_which_metrics_are_left_out(
    make_run: Callable[..., Path],
    targets: dict,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without trust, the command has one warning, the built-in metrics, and status 0. With trust, it has the metric."""
    node = {"_target_": f"{__name__}.error_rate", "title": "Rate of errors", "lower_is_better": True}
    folder = make_run(targets={"genre": targets["genre"] | {"metrics": {"errors": node}}})
    assert run_command("report", [str(folder)]) == 0
    (warning,) = [text for text in caplog.messages if "errors" in text]
    reason = f"the stored config calls {node['_target_']}, which is not trusted; if you trust it, add its package to "
    assert warning.endswith(f"without the metrics errors: {reason}the environment variable ETUDE_TRUST")
    metrics = RunFolder(folder).metrics["targets"]["genre"]
    assert "errors" not in metrics["splits"]["test"]["scores"] and metrics["splits"]["test"]["scores"]["macro_f1"]
    assert "without the metrics errors" in (folder / "report.html").read_text("utf-8")
    assert "without the metrics errors" in read_compared_run(folder).remark.lower()
    monkeypatch.setenv("ETUDE_TRUST", "tests")
    assert run_command("report", [str(folder)]) == 0
    assert RunFolder(folder).metrics["targets"]["genre"]["metrics"] == {"errors": node}
    assert "Rate of errors" in (folder / "report.html").read_text("utf-8")
    comparison = compare_runs([read_compared_run(folder)], CompareOptions(metrics=("errors",)), tests=False)
    assert comparison.frame["metric"].tolist() == ["errors"] and "genre: Rate of errors" in to_markdown(comparison)
