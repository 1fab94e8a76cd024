"""Tests of linear models and SVMs that are chosen by inner cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, mean_squared_error
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from etude.evaluation import linear_candidates, linear_models
from etude.evaluation.linear_candidates import Candidate, inner_folds, linear_weights
from etude.evaluation.linear_models import FAMILIES, GRIDS, LinearFit, end_of_grid, fit_linear_model
from etude.evaluation.predictions import constant_baseline

N, P = 60, 90


def make_clips(kind: str, n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features with more columns than clips, true values, and the groups of four clips each."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, P)) + rng.normal(size=(n // 4, P)).repeat(4, 0)) * rng.uniform(0.1, 50, P) - 40
    z = (x[:, :6] + 40) / x[:, :6].std(0)
    value = z[:, 0] + 0.5 * z[:, 1] * z[:, 2] + rng.normal(size=n)
    y = np.array(["folk", "jazz", "rock"], object)[np.digitize(value, [-0.7, 0.8])] if kind == "label" else 3 * value
    return x, y, [f"artist {i // 4:02d}" for i in range(n)]


def reference_models(kind: str) -> list[tuple[str, object]]:
    """Return scikit-learn's pipelines in the order of the families and grids."""
    models = []
    for family in FAMILIES[kind]:
        grid = GRIDS[kind, family]
        for gamma in grid.get("gamma", (None,)):
            for penalty in grid.get("C", grid.get("alpha", ())):
                if family == "ridge regression":
                    model = Ridge(alpha=penalty)
                elif family == "logistic regression":
                    model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000)
                elif family == "linear SVM":
                    model = SVC(kernel="linear", C=penalty, class_weight="balanced")
                elif kind == "label":
                    model = SVC(C=penalty, gamma=gamma / P, class_weight="balanced")
                else:
                    model = TransformedTargetRegressor(SVR(C=penalty, gamma=gamma / P), transformer=StandardScaler())
                models.append((family, make_pipeline(StandardScaler(), model)))
    return models


@pytest.mark.parametrize("kind", ["label", "scalar"])
def test_choice_and_predictions_equal_an_exhaustive_search_with_scikit_learn(kind: str) -> None:
    (x, y, groups), (x_test, _, _) = make_clips(kind), make_clips(kind, seed=1)
    fitted = fit_linear_model(x.astype(np.float32), y, kind, groups)
    x = x.astype(np.float32).astype(np.float64)
    splitter = StratifiedGroupKFold if kind == "label" else GroupKFold
    folds = list(splitter(5, shuffle=True, random_state=0).split(x, y, groups))
    rows = []
    for family, model in reference_models(kind):
        pred = cross_val_predict(model, x, y, cv=folds)
        score = f1_score(y, pred, average="macro") if kind == "label" else -mean_squared_error(y, pred)
        rows.append((score, family, model, pred))
    score, family, model, pred = max(rows, key=lambda row: round(row[0], 9))
    assert fitted.name == family and fitted.score == pytest.approx(score, abs=1e-6)
    expected = model.fit(x, y).predict(x_test)
    assert fitted.remark == "" and fitted.out_of_fold is not None
    if kind == "label":
        assert (fitted.predict(x_test) == expected).all() and (fitted.out_of_fold == pred).all()
    else:
        np.testing.assert_allclose(fitted.predict(x_test), expected, rtol=1e-6)
        np.testing.assert_allclose(fitted.out_of_fold, pred, rtol=1e-5)
    assert all(fitted.estimator[-1].get_params()[key] == value for key, value in fitted.penalty.items() if key == "C")


def test_inner_folds_keep_groups_together_and_classes_in_proportion() -> None:
    _, y, groups = make_clips("label")
    for train, test in inner_folds(y.astype(str), groups, "label"):
        assert not {groups[i] for i in train} & {groups[i] for i in test}
    _, values, _ = make_clips("scalar")
    pairs = inner_folds(values, groups, "scalar")
    assert sorted(np.concatenate([test for _, test in pairs]).tolist()) == list(range(N))
    assert not any({groups[i] for i in train} & {groups[i] for i in test} for train, test in pairs)


@pytest.mark.parametrize("groups", [None, [None] * N, [float("nan")] * N, ["a"] * N])
def test_unknown_or_too_few_groups_give_plain_folds(groups: list | None) -> None:
    for kind, splitter in (("label", StratifiedKFold), ("scalar", KFold)):
        _, y, _ = make_clips(kind)
        y = y.astype(str) if kind == "label" else y
        expected = splitter(5, shuffle=True, random_state=0).split(y, y)
        for pair, other in zip(inner_folds(y, groups or [None] * N, kind), expected, strict=True):
            assert (pair[0] == other[0]).all() and (pair[1] == other[1]).all()


@pytest.mark.parametrize("kind", ["label", "scalar"])
def test_two_groups_are_kept_together(kind: str) -> None:
    _, y, _ = make_clips(kind)
    groups = ["a"] * 30 + ["b"] * 30
    folds = inner_folds(y.astype(str) if kind == "label" else y, groups, kind)
    assert sorted((set(train), set(test)) == (set(range(30)), set(range(30, 60))) for train, test in folds) == [0, 1]


def test_fold_without_a_second_class_has_constant_predictions() -> None:
    rng = np.random.default_rng(0)
    y = np.array(["a"] * 50 + ["b"] * 10)  # class b has one group
    x = rng.normal(size=(60, 3)) + (y == "b")[:, None]
    groups = [f"a{i // 10}" for i in range(50)] + ["b"] * 10
    candidates = [Candidate("logistic regression", {"C": c}, None) for c in (0.01, 1.0)]
    fitted = fit_linear_model(x, y, "label", groups, candidates=candidates, score="log_loss")
    assert fitted.n_groups == 6 and fitted.out_of_fold is not None
    np.testing.assert_array_equal(fitted.out_of_fold[50:], [[1.0, 0.0]] * 10)
    assert (fitted.out_of_fold[:50, 1] > 0).sum() >= 40  # the other folds train on class b
    assert set(fit_linear_model(x, y, "label", groups).out_of_fold[50:]) == {"a"}  # type: ignore[index]


def test_groups_of_one_class_each_are_separated_for_the_choice_of_a_penalty() -> None:
    y, groups = np.array(["a"] * 20 + ["b"] * 20), ["x"] * 20 + ["y"] * 20
    fitted = fit_linear_model(np.random.default_rng(0).normal(size=(40, 2)), y, "label", groups)
    assert (fitted.n_folds, fitted.n_groups) == (5, 0)


def test_partly_known_groups_are_kept_together() -> None:
    _, y, _ = make_clips("scalar")
    groups = ["a", None, "a", "b", "b", *[None] * 5] * 6
    assert not any(
        {groups[i] for i in train} & {groups[i] for i in test} - {None}
        for train, test in inner_folds(y, groups, "scalar")
    )


def fits_equal(first: LinearFit, second: LinearFit, x: np.ndarray) -> bool:
    return (first.name, first.penalty) == (second.name, second.penalty) and (
        first.predict(x) == second.predict(x)
    ).all()


def test_clips_without_true_value_are_ignored() -> None:
    x, y, groups = make_clips("label")
    more = np.concatenate([x, np.full((4, P), 1e6)])
    fitted = fit_linear_model(more, [*y, None, float("nan"), None, None], "label", [*groups, *"abcd"])
    assert fits_equal(fitted, fit_linear_model(x, y, "label", groups), x)
    assert fitted.out_of_fold is not None and fitted.out_of_fold[-4:].tolist() == [None] * 4


def test_result_is_deterministic_and_depends_on_training_clips_only() -> None:
    x, y, groups = make_clips("scalar")
    assert fits_equal(fit_linear_model(x, y, "scalar", groups), fit_linear_model(x, y, "scalar", groups), x)


@pytest.mark.parametrize(
    ("y", "kind", "name"),
    [(["rock", "rock", None], "label", "majority class"), ([0.5, 0.5, float("nan")], "scalar", "training mean")],
)
def test_equal_true_values_give_a_constant(y: list, kind: str, name: str) -> None:
    fitted = fit_linear_model(np.arange(6.0).reshape(3, 2), y, kind)
    assert (fitted.name, fitted.score, fitted.out_of_fold) == (name, None, None)
    assert set(fitted.predict(np.zeros((2, 2))).tolist()) == {y[0]}


def test_too_few_clips_for_inner_folds_give_the_middle_penalty() -> None:
    fitted = fit_linear_model(np.eye(2), ["a", "b"], "label")
    assert fitted.score is None and fitted.predict(np.eye(2)).tolist() == ["a", "b"]
    weights: tuple[str | None, ...] = (None, "balanced")
    grid = [Candidate("logistic regression", {"C": c}, weight) for weight in weights for c in (1e-5, 1e-2, 1.0)]
    fitted = fit_linear_model(np.eye(2), ["a", "b"], "label", candidates=grid, score="log_loss")
    assert (fitted.penalty, fitted.chosen) == ({"C": 1e-2}, grid[1]) and end_of_grid(grid, fitted) is None


@pytest.mark.parametrize(("penalties", "end"), [((1e-4, 1e-3, 1e-2), "weakest"), ((1e2, 1e3, 1e4), None)])
def test_end_of_grid_is_not_reported_for_nearly_perfect_scores(penalties: tuple[float, ...], end: str | None) -> None:
    y = np.repeat(["a", "b"], 30).tolist()
    x = np.random.default_rng(0).normal(size=(60, 2)) + 300 * np.repeat([[0], [1]], 30, axis=0)
    grid = [Candidate("logistic regression", {"C": c}) for c in penalties]
    fitted = fit_linear_model(x, y, "label", candidates=grid, score="log_loss")
    assert fitted.penalty == {"C": penalties[-1]} and fitted.scores[2] > 0.9 * fitted.scores[1]
    assert end_of_grid(grid, fitted) == end


def test_many_clips_have_a_linear_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_models, "MOST_CLIPS_SVM", N - 1)
    x, y, groups = make_clips("label")
    fitted = fit_linear_model(x, y, "label", groups)
    assert fitted.name == "logistic regression" and fitted.remark == "no SVM for more than 59 training clips"


@pytest.mark.parametrize(
    ("seconds", "families", "remark"),
    [
        (16 * 5 + 60, {"logistic regression", "linear SVM", "RBF SVM"}, ""),
        (10 * 5, {"logistic regression", "linear SVM"}, "no RBF SVM: all fits would take 100 s"),
        (6 * 5, {"logistic regression"}, "no SVM: all fits would take 100 s"),
        (9, {"logistic regression"}, "no SVM, 3 penalties and 3 inner folds: all fits would take 100 s"),
        (1, {"logistic regression"}, "logistic regression without a choice of the penalty: all fits would take 100 s"),
    ],
)
def test_too_slow_grids_are_cut_from_the_svm_first(
    monkeypatch: pytest.MonkeyPatch, seconds: float, families: set[str], remark: str
) -> None:
    """Each fit takes one second of a simulated clock."""
    x, y, groups = make_clips("label")
    clock, fit, used = [0.0], linear_candidates.fit_estimator, []

    def slow_fit(model: object, *arguments: np.ndarray) -> object:
        clock[0] += 1.0
        used.append(type(model).__name__ + getattr(model, "kernel", ""))
        return fit(model, *arguments)

    monkeypatch.setattr(linear_models, "UNMEASURED", 0)
    for module in (linear_models, linear_candidates):
        monkeypatch.setattr(module, "fit_estimator", slow_fit)
    monkeypatch.setattr(linear_models.time, "perf_counter", lambda: clock[0])
    fitted = fit_linear_model(x, y, "label", groups, max_seconds=seconds)
    assert fitted.remark == remark
    titles = {"LogisticRegression": "logistic regression", "SVClinear": "linear SVM", "SVCrbf": "RBF SVM"}
    assert {titles[name] for name in used[3:] if name in titles} | {fitted.name} == families


def test_huge_collections_are_subsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_models, "MOST_VALUES", 100 * 2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 2))
    fitted = fit_linear_model(x, x[:, 0], "scalar")
    assert fitted.remark == "fitted to 100 of 150 training clips, drawn at random"
    assert fitted.out_of_fold is not None and np.isfinite(fitted.out_of_fold).sum() == 100


def test_constant_baseline_is_majority_class_or_mean() -> None:
    assert constant_baseline(["b", "a", None, "b", float("nan"), None, None], "label") == "b"
    assert constant_baseline(["b", "a"], "label") == "a"
    assert constant_baseline([1.0, float("nan"), 2.0], "scalar") == 1.5
    with pytest.raises(ValueError, match="no clip"):
        constant_baseline([None, None], "label")


def test_mismatched_or_missing_values_are_refused() -> None:
    x, y, groups = make_clips("scalar")
    for arguments in ((x, y[1:], "scalar"), (x, y, "scalar", groups[1:])):
        with pytest.raises(ValueError, match="do not match"):
            fit_linear_model(*arguments)
    with pytest.raises(ValueError, match="no clip"):
        fit_linear_model(x, [None] * N, "label")
    with pytest.raises(ValueError, match="not finite"):
        fit_linear_model(np.full_like(x, np.nan), y, "scalar")


@pytest.mark.parametrize("kind", ["label", "scalar"])
def test_features_of_rounding_errors_have_no_weight(kind: str) -> None:
    x, y, groups = make_clips(kind)
    noise = np.random.default_rng(1).normal(size=(N, 3)) * 1e-9 + [0, 1e-9, 3]
    label = Candidate("logistic regression", {"C": 0.01})
    models = [label if kind == "label" else Candidate("ridge regression", {"alpha": 10.0}, None)]
    fit = fit_linear_model(np.hstack([x, noise]), y, kind, groups, candidates=models)
    weight, _ = linear_weights(fit.estimator)
    assert np.abs(weight[:, P:]).max() < 1e-9 < np.abs(weight[:, :P]).max() < 1e3
