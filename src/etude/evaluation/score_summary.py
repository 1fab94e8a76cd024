"""Summary in words of the scores of a target and their intervals.

A difference is significant if its paired confidence interval does not include zero, and the predictions differ in at
least six groups (`bootstrap.MIN_TEST_GROUPS`). Every other difference is called not significant in the summary,
although the models may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etude.evaluation.bootstrap import FEW_GROUPS, MIN_TEST_GROUPS, only_predicted_class, significant_sign
from etude.evaluation.formatting import (
    NAMES,
    capitalise_first,
    excludes_zero,
    format_count,
    format_interval,
    format_number,
    format_score,
    printable,
    probe_command,
)

MANY_CLIPS = 2000  # training clips from which networks with random initial weights are not advised against
SPLIT_NAMES = {"test": "test", "val": "validation"}


def summarise_scores(target: dict[str, Any], split: str = "test", disjoint: bool = False) -> tuple[str, str]:
    """Summarise the primary score of a target, or of the mean over several, and its comparison with the baselines.

    Args:
        target: Entry of the targets in metrics.json.
        split: `test` or `val`.
        disjoint: True if the scored clips and the training clips have no group in common.

    Returns:
        Summary ("Better than the majority class; ...") and evidence ("Macro-F1 0.62 [0.48, 0.80] on 42 clips ...").
    """
    results = target["splits"][split]
    metric = target["primary"]
    if not results["scores"]:
        return (
            "No score can be computed.",
            f"{format_count(results['n'], SPLIT_NAMES[split] + ' clip')} with a true value; a score requires two.",
        )
    score = results["scores"][metric]
    metric_name = capitalise_first(NAMES[metric])
    clips = describe_clips(results, disjoint)
    if score["value"] is None:
        return (
            "The score is undefined.",
            f"{metric_name} is undefined on {clips}: all true values or all predictions "
            f"{'of a target ' if 'targets' in target else ''}are equal.",
        )
    claims = [_describe_correlation(score, results["groups"])] if metric == "spearman" else []
    if (only := only_predicted_class(results)) is not None:
        claims.append(f"predicts {printable(only)} for all {format_count(results['n'], 'clip')}")
    inconclusive, evidence, errors = [], [f"{metric_name} {format_score(score)} on {clips}."], []
    for baseline in results["baselines"].values():
        # The primary score of a constant can be undefined. The errors are compared instead.
        by_error = baseline["scores"][metric]["value"] is None
        if by_error and "mse" not in results["scores"]:  # the mean over scalars with different ranges
            continue
        name = f"the {baseline['name']}"
        sign = -significant_sign(results, baseline, "mse") if by_error else significant_sign(results, baseline, metric)
        if baseline.get("differing_groups") == 0:
            claims.append(f"the same predictions as {name}")
        elif not sign:
            inconclusive.append(f"{name} (MSE)" if by_error else name)
        elif by_error:
            claims.append(f"{'smaller' if sign > 0 else 'larger'} MSE than {name}")
        else:
            claims.append(f"{'better' if sign > 0 else 'worse'} than {name}")
        if by_error:
            mse = format_number(results["scores"]["mse"]["value"], 3)
            errors.append(f"MSE {mse}. {_describe_difference(results, baseline, 'mse', 3)}")
        else:
            evidence.append(_describe_difference(results, baseline, metric))
    numbers = " ".join(evidence + errors)
    differences = [value for baseline in results["baselines"].values() for value in baseline["difference"].values()]
    constant = any(baseline.get("constant_differences") for baseline in results["baselines"].values())
    if not constant and all(value["low"] is None for value in (score, *differences)):
        return "No confidence interval can be computed, so differences cannot be tested.", numbers
    if inconclusive:
        claims.append(f"no significant difference from {' or from '.join(inconclusive)}")
    return capitalise_first("; ".join(claims) or "no baseline for comparison") + ".", numbers


def describe_mean(mean: Mapping[str, Any], split: str = "test") -> str:
    """Describe how the mean over the scalars is computed on a split, and on how many clips of each target.

    Args:
        mean: Entry `mean` of metrics.json.
        split: test or val.
    """
    results, names = mean["splits"][split], mean["targets"]
    counts = results["n_by_target"]
    text = f"Each score is the mean of the scores of {', '.join(names[:-1])} and {names[-1]}"
    if not results["scores"]:
        few = ", ".join(f"{name} ({count})" for name, count in counts.items() if count < 2)
        return f"{text}. A score requires two clips with a true value of each target: too few for {few}."
    if set(counts.values()) == {results["n"]}:
        text += f", each on the same {format_count(results['n'], 'clip')}."
    else:
        sizes = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        text += (
            f". A clip without a true value of a target is left out of the scores of this target only: {sizes} clips."
        )
    if "mse" not in results["scores"]:
        text += " Errors have no mean, because the targets have different ranges."
    return text


def are_groups_unknown(results: Mapping[str, Any]) -> bool:
    """Return whether no clip of a split has a group, so that clips are resampled. False for older metrics."""
    return 0 < results["n"] == results.get("ungrouped", 0)


def count_known_groups(results: Mapping[str, Any]) -> int | None:
    """Return the number of groups of a split without clips whose group is unknown, or None if no group is known."""
    if are_groups_unknown(results):
        return None
    return int(results["groups"]) - int(results.get("ungrouped") or 0)


def known_groups(data: Mapping[str, Any], targets: Mapping[str, Mapping[str, Any]]) -> str:
    """Return whether the groups of "all", "some" or "none" of the clips are known.

    Args:
        data: Data in record.json. Records of older versions do not contain this property.
        targets: Targets of metrics.json, from which it is derived in this case.
    """
    if stored := data.get("groups_known"):
        return str(stored)
    results = [split for target in targets.values() for split in target["splits"].values()]
    ungrouped = sum(split.get("ungrouped", 0) for split in results)
    return "all" if not ungrouped else "none" if ungrouped == sum(split["n"] for split in results) else "some"


def are_splits_disjoint(data: Mapping[str, Any], targets: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether no group is in more than one split. False if groups of clips are unknown."""
    return bool(data.get("disjoint")) and known_groups(data, targets) == "all"


def describe_clips(results: dict[str, Any], disjoint: bool = False) -> str:
    """Describe the scored clips, such as "42 clips in 5 groups, none of them in training"."""
    clips, ungrouped = format_count(results["n"], "clip"), results.get("ungrouped")
    if are_groups_unknown(results):
        return f"{clips} with unknown groups"
    if ungrouped is None and results["groups"] == results["n"]:  # older metrics do not show whether groups are known
        return clips
    groups = format_count(results["groups"] - (ungrouped or 0), "group")
    if ungrouped:
        return f"{clips}, {results['n'] - ungrouped} of them in {groups} and {ungrouped} with unknown groups"
    return f"{clips} in {groups}{', none of them in training' if disjoint else ''}"


def list_limitations(results: dict[str, Any]) -> list[str]:
    """Return sentences on the limitations of the intervals of a split. Several targets may have some in common."""
    if not results["scores"]:
        return []
    if results["groups"] < 2:
        return ["All clips belong to one group, which cannot be resampled, so scores have no confidence interval."]
    rows = [row for row in results.get("per_class", []) if row["support"]]
    noun = "clip" if are_groups_unknown(results) else "group"
    notes = []
    if rows and all(row.get("groups") == 1 for row in rows):
        notes.append(
            f"Each class has only one {noun}, so recognising it cannot be distinguished from recognising the {noun}. "
            "Scores have no confidence interval."
        )
    else:
        notes += describe_few_groups(results["groups"], noun)
    single = [row["class"] for row in rows if row["groups"] == 1 and row["support"] > 1]
    if 0 < len(single) < len(rows):
        others = " and ".join(f"all {name} clips" for name in single[1:])
        addition = f" (and so do {others})" if others else ""
        notes.append(
            f"All scored {single[0]} clips come from one group{addition}. The variation between groups of "
            f"{'these classes' if others else 'this class'} is unknown, so the intervals can be too narrow."
        )
    if len(rows) == 1:
        notes.append(
            f"All clips are of the class {rows[0]['class']}, so the scores do not show that classes are distinguished."
        )
    if noun == "clip":
        notes.append(
            "The groups of the clips, such as artists, are unknown. Clips are resampled as if they were independent, "
            "and training and test clips may share artists. If clips share artists, intervals are too narrow and "
            "scores can be too high."
        )
    elif results.get("ungrouped"):
        notes.append(
            f"{results['ungrouped']} of {results['n']} clips have no known group. Each of them is resampled as its own "
            "group, and may share an artist with other clips, also in training."
        )
    return notes


def describe_few_groups(count: int, noun: str = "group") -> list[str]:
    """Return sentences on intervals from few resampled groups (or clips), or no sentence for many."""
    if count >= FEW_GROUPS:
        return []
    notes = [
        f"The intervals are based on only {count} {noun}s, so they are rough and can be too narrow (Cameron, Gelbach & "
        "Miller 2008)."
    ]
    few = f"With fewer than {MIN_TEST_GROUPS} {noun}s, no difference is significant."
    return [*notes, few] if count < MIN_TEST_GROUPS else notes


def _describe_correlation(score: dict[str, Any], groups: int) -> str:
    """Describe a rank correlation in comparison with chance."""
    sign = excludes_zero(score)
    if score["low"] is None:  # such as a correlation of 1 on all resamples
        if abs(score["value"]) < 1 - 1e-9:
            return "rank correlation not tested"
        sign = 1 if score["value"] > 0 else -1
    sign = sign if groups >= MIN_TEST_GROUPS else 0
    if sign > 0:
        return "rank correlation above chance"
    return "rank correlation below chance" if sign else "no significant rank correlation"


def _describe_difference(results: dict[str, Any], baseline: dict[str, Any], metric: str, digits: int = 2) -> str:
    """Format the score of a baseline and the difference from it, and state if the interval does not include zero."""
    difference, suffix = baseline["difference"][metric], ""
    if metric in baseline.get("constant_differences", ()):
        suffix = ", equal on all resamples"
    elif significant_sign(results, baseline, metric):
        suffix = " (the interval does not include zero)"
    elif excludes_zero(difference) > 0 and only_predicted_class(results) is not None:
        suffix = " (due to the choice of one class)"
    elif excludes_zero(difference):
        count = baseline.get("differing_groups", results["groups"])
        noun = "clip" if are_groups_unknown(results) else "group"
        suffix = f" (the predictions differ in only {format_count(count, noun)}, too few for a significant difference)"
    interval = (
        f" {format_interval(difference, digits)}" if format_interval(difference, digits) else " without an interval"
    )
    other = format_number(baseline["scores"][metric]["value"], digits)
    value = format_number(difference["value"], digits)
    return f"{capitalise_first(baseline['name'])} {other}, difference {value}{interval}{suffix}."


def recommend_probes(record: Mapping[str, Any], targets: Mapping[str, Mapping[str, Any]]) -> str:
    """Recommend linear probes for a network from random weights that is not better than the baseline, or return ""."""
    model, split = record.get("model") or {}, (record.get("data", {}).get("splits") or {}).get("train") or {}
    pretrained = model.get("weights") or model.get("linear_probe") or record.get("earlier_training")
    few = 0 < split.get("clips", 0) <= MANY_CLIPS
    if pretrained or record.get("ensemble") or model.get("feature") == "image" or not few:
        return ""
    tests = [(name, target["splits"]["test"], target["primary"]) for name, target in targets.items()]
    baselines = [(*test, baseline) for test in tests if (baseline := test[1]["baselines"].get("statistics"))]
    names = [name for name, test, metric, baseline in baselines if significant_sign(test, baseline, metric) < 1]
    clips = format_count(split["clips"], "training clip")
    text = f"From random weights and {clips}, the network is not significantly better than the linear model or SVM on "
    text += f"{', '.join(names)}. For few clips of audio, linear probes on a pretrained network are better on most "
    return f"{text}collections: {probe_command(str(record.get('command') or ''))}" if names else ""


def describe_copies(record: Mapping[str, Any]) -> list[str]:
    """Return a warning for each split that has the same audio as training clips, or clips of the same artists.

    The same audio is accepted with `data.split.duplicates=allow`. Artists are separated if they are the groups.
    """
    data = record.get("data") or {}
    reasons = {
        "copies": "have the same audio as training clips under other ids, so the {} scores are optimistic",
        "known_artists": "are by artists of training clips, so the {} scores can be optimistic",
    }
    return [
        f"{count} of the {format_count(data['splits'][split]['clips'], name + ' clip')} {reason.format(name)}."
        for key, reason in reasons.items()
        for split, name in SPLIT_NAMES.items()
        if (count := (data.get(key) or {}).get(split))
    ]


def describe_earlier_training(record: Mapping[str, Any]) -> list[str]:
    """Describe the earlier training of the initial weights, and the scored clips that it used.

    Args:
        record: Content of record.json. Its `earlier_training` is empty for a run without earlier training.

    Returns:
        Sentences. The first is a warning if the weights were trained on scored clips.
    """
    earlier = record.get("earlier_training") or {}
    sentences = []
    runs = _join_runs(earlier.get("runs") or [])
    for split, numbers in (earlier.get("splits") or {}).items():
        name, left_out = SPLIT_NAMES[split], numbers["left_out"]
        total = record.get("data", {}).get("splits", {}).get(split, {}).get("clips", 0)
        trained, same_group = (numbers[key] for key in ("trained", "same_group"))
        if trained > left_out:
            sentences.append(
                f"The initial weights were trained on {trained - left_out} of the "
                f"{format_count(total, name + ' clip')} ({runs}), so the {name} scores are optimistic."
            )
        if trained <= left_out < trained + same_group:
            sentences.append(
                "The initial weights were trained on other clips of the groups of "
                f"{trained + same_group - left_out} of the {format_count(total, name + ' clip')} ({runs}), so "
                f"the {name} scores can be optimistic."
            )
        if left_out:
            dropped = runs if earlier.get("overlap", "drop") == "drop" else ""  # else data.leave_out left them out
            sources = "; ".join(filter(None, (dropped, _join_runs(earlier.get("left_out_of") or []))))
            sentences.append(
                f"{format_count(left_out, name + ' clip')} {'was' if left_out == 1 else 'were'} left out, because "
                f"{'it or its group' if left_out == 1 else 'they or their groups'} had been used to train {sources}."
            )
        if numbers["validated"]:
            sentences.append(
                f"{format_count(numbers['validated'], name + ' clip')} had been in the validation split of an earlier "
                f"run ({runs}), which may have selected its epoch."
            )
    if runs:
        found = any(row["trained"] + row["same_group"] > row["left_out"] for row in earlier["splits"].values())
        sentences.append(
            ("" if found else f"No scored clip was in the earlier training of the weights ({runs}). ")
            + "Clips are recognised by the hash of their sound and, in the same archive, by their id; copies with "
            "another encoding are not found."
        )
        if not earlier.get("groups_checked", True):
            sentences.append(
                "Some clips of the earlier training are not in this collection, and their groups, such as artists, are "
                "unknown or compared by name only. Scored clips may share groups with them."
            )
    if unknown := earlier.get("unknown"):
        sentences.append(
            f"The training clips of {', '.join(unknown)} are not recorded, so it cannot be checked whether the scored "
            "clips are among them."
        )
    return sentences


def count_trained_clips(record: Mapping[str, Any], split: str) -> int:
    """Return the number of scored clips that, or whose groups, were used to train the initial weights."""
    numbers = (record.get("earlier_training") or {}).get("splits", {}).get(split)
    return numbers["trained"] + numbers["same_group"] - numbers["left_out"] if numbers else 0


def _join_runs(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the names of runs with their data and numbers of training clips."""
    return "; ".join(f"{run['name']} on {format_count(run['clips'], 'clip')} of {run['data']}" for run in runs)
