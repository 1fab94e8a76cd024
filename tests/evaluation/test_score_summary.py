"""Tests of the verbal summary of scores and intervals."""

import pytest

from etude.evaluation.score_summary import (
    are_splits_disjoint,
    count_known_groups,
    describe_clips,
    known_groups,
    list_limitations,
    recommend_probes,
    summarise_scores,
)

CLOSE = {"value": 0.02, "low": -0.1, "high": 0.15}
ABOVE = {"value": 0.43, "low": 0.2, "high": 0.6}
BELOW = {"value": -0.3, "low": -0.5, "high": -0.1}
NOTHING = {"value": None, "low": None, "high": None}


def describe_limitations(results: dict) -> str:
    return " ".join(list_limitations(results))


def score(value: float) -> dict:
    return {"value": value, "low": value - 0.15, "high": value + 0.15}


def genre(constant: dict, linear: dict, n: int = 42, groups: int = 8) -> dict:
    results = {"n": n, "groups": groups, "missing": 0, "scores": {"macro_f1": score(0.62)}}
    results["baselines"] = {
        "constant": {
            "name": "majority class",
            "scores": {"macro_f1": score(0.19)},
            "difference": {"macro_f1": constant},
        },
        "linear": {"name": "linear model", "scores": {"macro_f1": score(0.6)}, "difference": {"macro_f1": linear}},
    }
    return {"kind": "label", "primary": "macro_f1", "splits": {"test": results}}


def valence(rho: dict, mse: dict) -> dict:
    results = {"n": 40, "groups": 40, "missing": 0, "scores": {"spearman": rho, "mse": score(0.05)}}
    difference = {"spearman": NOTHING, "mse": mse}
    scores = {"spearman": NOTHING, "mse": score(0.07)}
    results["baselines"] = {"constant": {"name": "training mean", "scores": scores, "difference": difference}}
    return {"kind": "scalar", "primary": "spearman", "splits": {"test": results}}


def test_summary_of_a_label_with_baselines() -> None:
    summary, numbers = summarise_scores(genre(ABOVE, CLOSE), disjoint=True)
    assert summary == "Better than the majority class; no significant difference from the linear model."
    assert numbers == (
        "Macro-F1 0.62 [0.47, 0.77] on 42 clips in 8 groups, none of them in training. "
        "Majority class 0.19, difference 0.43 [0.20, 0.60] (the interval does not include zero). "
        "Linear model 0.60, difference 0.02 [−0.10, 0.15]."
    )
    assert summarise_scores(genre(CLOSE, BELOW))[0].startswith(
        "Worse than the linear model; no significant difference from the majority"
    )


@pytest.mark.parametrize(
    ("rho", "mse", "summary"),
    [
        (ABOVE, BELOW, "Rank correlation above chance; smaller MSE than the training mean."),
        (BELOW, ABOVE, "Rank correlation below chance; larger MSE than the training mean."),
        (
            CLOSE,
            CLOSE,
            "No significant rank correlation; no significant difference from the training",
        ),
    ],
)
def test_summary_of_a_scalar_with_the_mean(rho: dict, mse: dict, summary: str) -> None:
    assert summarise_scores(valence(rho, mse))[0].startswith(summary)


def test_summary_of_undefined_scores() -> None:
    no_scores = genre(ABOVE, CLOSE)
    no_scores["splits"]["test"] |= {"n": 1, "scores": {}}
    assert summarise_scores(no_scores) == (
        "No score can be computed.",
        "1 test clip with a true value; a score requires two.",
    )
    assert summarise_scores(valence(NOTHING, CLOSE))[0] == "The score is undefined."
    single_group = genre({"value": 0.4, "low": None, "high": None}, {"value": 0.0, "low": None, "high": None})
    single_group["splits"]["test"]["scores"]["macro_f1"] = {"value": 0.6, "low": None, "high": None}
    summary, numbers = summarise_scores(single_group)
    assert (
        summary.startswith("No confidence interval")
        and "0.40 without an interval" in numbers
        and "better" not in summary.lower()
    )


def test_population_and_caution() -> None:
    results = {"n": 42, "groups": 42, "scores": {"x": 1}}
    assert describe_clips(results) == "42 clips" and describe_limitations(results) == ""
    assert "only 9 groups" in describe_limitations(results | {"groups": 9})
    assert "one group" in describe_limitations(results | {"groups": 1})
    classes = [
        {"class": name, "support": 5, "groups": groups} for name, groups in (("jazz", 1), ("rock", 3), ("folk", 1))
    ]
    assert describe_limitations(results | {"per_class": classes}).startswith(
        "All scored jazz clips come from one group (and so do all folk clips). The variation between groups of these"
    )


def test_few_groups_have_no_significant_difference() -> None:
    target = genre(ABOVE, CLOSE, groups=5)
    summary, numbers = summarise_scores(target)
    assert summary == "No significant difference from the majority class or from the linear model."
    assert "(the predictions differ in only 5 groups, too few for a significant difference)" in numbers
    assert "no difference is significant" in describe_limitations(target["splits"]["test"])
    target = genre(ABOVE, CLOSE, groups=20)
    target["splits"]["test"]["baselines"]["constant"]["differing_groups"] = 3
    assert "Better" not in summarise_scores(target)[0] and "differ in only 3 groups" in summarise_scores(target)[1]
    rho = valence(ABOVE, BELOW)
    rho["splits"]["test"]["groups"] = 4
    assert summarise_scores(rho)[0].startswith("No significant rank correlation; no significant difference")


def test_equal_predictions_are_named() -> None:
    target = genre(ABOVE, NOTHING | {"value": 0.0})
    target["splits"]["test"]["baselines"]["linear"]["differing_groups"] = 0
    assert summarise_scores(target)[0] == "Better than the majority class; the same predictions as the linear model."


@pytest.mark.parametrize(
    ("linear", "end"),
    [(ABOVE, "no significant difference from the majority class or from the linear model."), (BELOW, "")],
)
def test_one_predicted_class_is_not_better_than_a_baseline(linear: dict, end: str) -> None:
    target = genre(ABOVE, linear)
    rows = [{"class": name, "support": 21, "groups": 4, "predicted": n} for name, n in (("jazz", 0), ("rock", 42))]
    target["splits"]["test"]["per_class"] = rows
    summary, numbers = summarise_scores(target)
    assert "Majority class 0.19, difference 0.43 [0.20, 0.60] (due to the choice of one class)." in numbers
    assert summary.startswith("Predicts rock for all 42 clips; ") and summary.endswith(end) and "better" not in summary
    assert end or "; worse than the linear model; " in summary


def test_score_without_interval_is_still_compared() -> None:
    target = genre(ABOVE, CLOSE)  # such as a score of 1 on all resamples
    target["splits"]["test"]["scores"]["macro_f1"] = {"value": 1.0, "low": None, "high": None}
    assert summarise_scores(target)[0].startswith("Better than the majority class")


def test_unknown_groups_are_described() -> None:
    results = genre(ABOVE, CLOSE, groups=42)["splits"]["test"]
    unknown, partly = results | {"ungrouped": 42}, results | {"groups": 17, "ungrouped": 12}
    assert describe_clips(unknown, disjoint=True) == "42 clips with unknown groups"
    assert "training and test clips may share artists" in describe_limitations(unknown)
    assert describe_clips(partly, disjoint=True) == "42 clips, 30 of them in 5 groups and 12 with unknown groups"
    assert describe_limitations(partly).startswith("12 of 42 clips have no known group.")
    assert "only 4 clips" in describe_limitations(unknown | {"n": 4, "groups": 4, "ungrouped": 4})
    assert describe_limitations(results | {"ungrouped": 0}) == ""
    assert count_known_groups(unknown) is None and count_known_groups(partly) == 5
    targets = {"genre": {"splits": {"test": partly, "val": results}}}
    for data, known in (({}, "some"), ({"groups_known": "none"}, "none"), ({"groups_known": "all"}, "all")):
        assert known_groups(data, targets) == known
        assert are_splits_disjoint(data | {"disjoint": True}, targets) == (known == "all")
    assert known_groups({}, {"genre": {"splits": {"test": unknown}}}) == "none"


def test_classes_with_one_group_each_have_no_interval() -> None:
    rows = [{"class": name, "support": 5, "groups": 1} for name in ("jazz", "rock")]
    results = {"n": 10, "groups": 2, "ungrouped": 0, "scores": {"x": 1}, "per_class": rows}
    assert describe_limitations(results) == (
        "Each class has only one group, so recognising it cannot be distinguished from recognising the group. "
        "Scores have no confidence interval."
    )


def test_perfect_scores_are_not_called_insignificant() -> None:
    """A perfect network has the same score, and possibly the same difference, on all resamples."""
    missing = {"low": None, "high": None}
    target = genre({"value": 0.8} | missing, {"value": 0.4} | missing, groups=20)
    results = target["splits"]["test"]
    results["scores"]["macro_f1"] = {"value": 1.0} | missing
    for baseline in results["baselines"].values():
        baseline |= {"constant_differences": ["macro_f1"], "differing_groups": 20}
    summary, numbers = summarise_scores(target)
    assert summary == "Better than the majority class; better than the linear model."
    assert "difference 0.80 without an interval, equal on all resamples." in numbers
    assert summarise_scores(valence({"value": 1.0} | missing, BELOW))[0].startswith("Rank correlation above chance")
    assert summarise_scores(valence({"value": 0.9} | missing, BELOW))[0].startswith("Rank correlation not tested")


def test_single_class_is_named() -> None:
    rows = [{"class": "jazz", "support": 42, "groups": 12}, {"class": "rock", "support": 0, "groups": 0}]
    results = {"n": 42, "groups": 12, "ungrouped": 0, "scores": {"x": 1}, "per_class": rows}
    assert describe_limitations(results).startswith("All clips are of the class jazz")


def test_probes_are_recommended_if_few_clips_and_random_weights_do_not_beat_the_baseline() -> None:
    record = {"model": {"feature": "mel"}, "data": {"splits": {"train": {"clips": 120}}}}
    test = genre(ABOVE, CLOSE)
    baselines = test["splits"]["test"]["baselines"]
    baselines["statistics"] = baselines.pop("linear")
    targets = {"genre": test}
    text = recommend_probes(record, targets)
    assert text.startswith("From random weights and 120 training clips, the network is not significantly better than")
    assert text.endswith("linear model or SVM on genre. For few clips of audio, linear probes on a pretrained network "
                         "are better on most collections: python train.py experiment=small")  # fmt: skip
    command = "etude train data=folder 'data.source.path=my music' trainer.max_epochs=2 backbone=lstm task=mood"
    expected = "etude train experiment=small data=folder 'data.source.path=my music' task=mood"
    assert recommend_probes(record | {"command": command}, targets).endswith(f"collections: {expected}")
    assert recommend_probes(record | {"model": {"feature": "mel", "weights": "mn04_as"}}, targets) == ""
    assert recommend_probes(record | {"model": {"feature": "image"}}, targets) == ""
    assert recommend_probes(record | {"earlier_training": {"runs": []}}, targets) == ""
    assert recommend_probes(record | {"data": {"splits": {"train": {"clips": 5000}}}}, targets) == ""
    baselines["statistics"] |= {"difference": {"macro_f1": ABOVE}}
    assert recommend_probes(record, targets) == ""
