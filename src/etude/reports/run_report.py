"""HTML report of a run.

The page is a single file with styles, figures and numbers, and loads nothing from a network. It begins with the test
scores. Validation scores are collapsed, and labelled as optimistic if they were used to select the weights. The
template escapes every string of the run. Only the figures and the data card, which escape their own text, are marked as
safe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation import formatting
from etude.evaluation.bootstrap import FEW_GROUPS, MIN_TEST_GROUPS, significant_sign
from etude.evaluation.linear_models import describe_end, weakness
from etude.evaluation.means import MEAN, targets_and_mean
from etude.evaluation.predictions import find_worst_errors
from etude.evaluation.score_summary import (
    are_groups_unknown,
    are_splits_disjoint,
    describe_clips,
    describe_copies,
    describe_earlier_training,
    describe_mean,
    known_groups,
    list_limitations,
    recommend_probes,
    summarise_scores,
)
from etude.files.atomic import write_text
from etude.reports import figures, html, run_figures, worst_errors
from etude.reports.html import link_members, load_template
from etude.runs.folder import RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame

CALIBRATION_TITLES = {"nll": "Negative log-likelihood (nats)", "brier": "Brier score (0 to 2)",
                      "ece": "Expected calibration error (10 equal-width bins)"}  # fmt: skip
BASELINE_TITLES = {"constant": "constant", "linear": "linear", "shortcuts": "shortcuts"}
AGREEMENT_TITLES = {"bias": "Mean residual", "sd": "Standard deviation of residuals",
                    "lower": "Lower limit of agreement", "upper": "Upper limit of agreement"}  # fmt: skip


def target_section(
    name: str, target: dict[str, Any], table: DataFrame, disjoint: bool, train_classes: dict[str, int] | None = None
) -> dict[str, Any]:
    """Return the content of the section of a target.

    Args:
        name: Name of the target.
        target: Entry of the target in metrics.json.
        table: Content of predictions.parquet.
        disjoint: Whether no group is in more than one split. False if groups of clips are unknown.
        train_classes: Number of training clips of each class of a label. None if it is unknown.
    """
    test = target["splits"]["test"]
    is_label = target["kind"] == "label"
    left_out = formatting.describe_left_out({name: target})
    summary, evidence = summarise_scores(target, disjoint=disjoint)
    return {
        "name": name,
        "kind": target["kind"],
        "note": target["note"],
        "summary": summary,
        "evidence": evidence,
        "limitations": list_limitations(test) + ([f"Computed {left_out}."] if left_out else []),
        "untested_classes": _describe_untested_classes(target, train_classes or {}),
        "primary_metric": formatting.NAMES[target["primary"]],
        "score": test["scores"].get(target["primary"]),
        "splits": {split: _split_scores(target, split, disjoint) for split in ("test", "val")},
        "per_class": test.get("per_class", []),
        "confusion": _confusion_matrix(test.get("confusion", []), target.get("classes", [])),
        "scatter": "" if is_label else figures.scatter_plot(table, name, target),
        "worst_errors": find_worst_errors(table, name, target["kind"]),
        "calibration": _calibration(name, test) if is_label else None,
        "residuals": None if is_label else _residuals(table, name, test),
    }


def mean_section(mean: dict[str, Any], disjoint: bool) -> dict[str, Any]:
    """Return the content of the section of the mean over the scalars.

    Args:
        mean: Entry `mean` of metrics.json.
        disjoint: Whether no group is in more than one split. False if groups of clips are unknown.
    """
    test = mean["splits"]["test"]
    summary, evidence = summarise_scores(mean, disjoint=disjoint)
    return {
        "name": f"Mean of {', '.join(mean['targets'])}",
        "summary": summary,
        "evidence": evidence,
        "notes": {split: describe_mean(mean, split) for split in ("test", "val")},
        "primary_metric": f"mean {formatting.NAMES[mean['primary']]}",
        "score": test["scores"].get(mean["primary"]),
        "splits": {split: _split_scores(mean, split, disjoint) for split in ("test", "val")},
    }


def _describe_untested_classes(target: dict[str, Any], train_classes: dict[str, int]) -> str:
    """Describe the classes without training clips and the classes in training alone, or return ""."""
    support = {
        split: {row["class"]: row["support"] for row in target["splits"][split].get("per_class") or []}
        for split in ("val", "test")
    }
    if not train_classes or not all(support.values()):
        return ""
    sizes = {name: [support[split].get(name, 0) for split in ("val", "test")] for name in train_classes}
    untrained = [name for name, count in train_classes.items() if not count and any(sizes[name])]
    only_trained = [name for name, count in train_classes.items() if count and not any(sizes[name])]
    texts = []
    if untrained:
        counts = ", ".join(f"{name} ({sizes[name][0]} validation, {sizes[name][1]} test)" for name in untrained)
        texts.append(f"No training clips of {counts}: the network cannot predict these clips correctly.")
    if only_trained:
        texts.append(f"Only training clips of {', '.join(only_trained)}, so they are not tested.")
    return " ".join(texts)


def _calibration(name: str, test: dict[str, Any]) -> dict[str, Any]:
    """Return calibration measures, reliability diagram and bins of a label, or the `reason` why there are none.

    Args:
        name: Name of the target.
        test: Test split of the target in metrics.json.
    """
    calibration = test.get("calibration") or {}
    if not calibration:
        if "calibration" in test:
            return {"reason": "The predictions have no probabilities."}
        return {"reason": "The metrics of this run are from an older version without calibration: rebuild the report."}
    return {
        "rows": [(title, calibration[key]) for key, title in CALIBRATION_TITLES.items()],
        "svg": figures.reliability_diagram(name, calibration),
        "summary": figures.describe_calibration(calibration, test["n"]),
        "bins": [row for row in calibration["bins"] if row["n"]],
        "reason": "",
    }


def _residuals(table: DataFrame, name: str, test: dict[str, Any]) -> dict[str, Any]:
    """Return bias, limits of agreement and both residual plots of a scalar."""
    agreement = test.get("agreement") or {}
    by_group, caption = figures.group_residual_plot(table, name)
    return {
        "rows": [(title, agreement[key]) for key, title in AGREEMENT_TITLES.items() if key in agreement],
        "by_truth": figures.residual_plot(table, name, agreement),
        "by_group": by_group,
        "caption": caption,
    }


def _split_scores(target: dict[str, Any], split: str, disjoint: bool) -> dict[str, Any]:
    """Return the table of metrics of a split, with one row per metric and columns for network and baselines."""
    results = target["splits"][split]
    rows = []
    order = [*formatting.METRIC_ORDER[target["kind"]], *target.get("metrics", ())]
    for metric in (name for name in order if name in results["scores"]):
        title = formatting.NAMES[metric] + (" (= micro precision, recall, F1)" if metric == "accuracy" else "")
        is_error = metric in formatting.LOWER_IS_BETTER
        sign = -1 if is_error else 1
        baselines = [
            (b["scores"][metric], b["difference"][metric], sign * significant_sign(results, b, metric))
            for b in results["baselines"].values()
        ]
        row = {"title": title, "score": results["scores"][metric], "baselines": baselines}
        rows.append(row | {"digits": 3 if is_error else 2})
    names = [(baseline["name"], BASELINE_TITLES.get(key, "")) for key, baseline in results["baselines"].items()]
    names = [(name, title or formatting.short_baseline_name(name)) for name, title in names]
    learnable = results.get("learnable") or {"classes": [], "scores": {}}
    count = len(learnable["classes"])
    suffix = f" of {count} {'class' if count == 1 else 'classes'} with training clips"
    learnable_rows = [
        {"title": formatting.NAMES[metric] + suffix, "score": score} for metric, score in learnable["scores"].items()
    ]
    return results | {
        "learnable_rows": learnable_rows,
        "rows": rows,
        "has_intervals": any(row["score"]["low"] is not None for row in rows),
        "resampled": any(score["low"] is not None for row in rows for score, *_ in row["baselines"]),
        "baselines": names,
        "fits": [text for baseline in results["baselines"].values() if (text := _describe_fit(baseline))],
        "clips": describe_clips(results, disjoint),
        "groups_unknown": are_groups_unknown(results),
    }


def _describe_fit(baseline: dict[str, Any]) -> str:
    """Describe the choice and the fit of a baseline, or return "" for a constant and for runs of earlier versions."""
    if "seconds" not in baseline:
        return ""
    penalty = ", ".join(f"{key} = {value:.2g}" for key, value in (baseline.get("penalty") or {}).items())
    name = formatting.capitalise_first(baseline["name"]) + (f" ({penalty})" if penalty else "")
    is_chosen = baseline.get("inner_score", 0) is not None  # a pooled baseline has no score of its own
    choice = "chosen by cross-validation on the clips that it was fitted to, " if is_chosen else ""
    text = f"{name}: {choice}fitted in {formatting.format_duration(baseline['seconds'])}."
    remark = baseline.get("remark")
    return f"{text} {formatting.format_sentence(remark)}" if remark else text


MAX_CLASSES, MAX_PAIRS = 60, 50  # browsers are too slow for a matrix of 500 classes, which has 250,000 cells


def _confusion_matrix(counts: list[list[int]], classes: list[str]) -> dict[str, Any] | None:
    """Return the rows of a confusion matrix, and a summary.

    Each cell is a pair: the number of clips, and their share of the true class. For more than 60 classes, `rows` is
    empty, `pairs` has the most frequent confusions, and `n_pairs` is the number of pairs of classes that are confused.
    """
    if not counts:
        return None
    pairs = [(counts[i][j], i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    largest, i, j = max(pairs, default=(0, 0, 0), key=lambda pair: pair[0])
    n_correct = sum(counts[k][k] for k in range(len(classes)))
    summary = f"{n_correct} of {sum(map(sum, counts))} clips are on the diagonal."
    if largest:
        ties = sum(pair[0] == largest for pair in pairs)
        most = "The most frequent confusion" if ties == 1 else f"One of the {ties} most frequent confusions"
        summary += f" {most} is {classes[i]} predicted as {classes[j]}: {largest} of {sum(counts[i])}."
    if len(classes) > MAX_CLASSES:
        confused = sorted((pair for pair in pairs if pair[0]), key=lambda pair: -pair[0])
        shown = [(classes[i], classes[j], count, count / sum(counts[i])) for count, i, j in confused[:MAX_PAIRS]]
        return {"classes": classes, "rows": [], "summary": summary, "pairs": shown, "n_pairs": len(confused)}
    rows = [[(count, count / max(1, sum(row))) for count in row] for row in counts]
    return {"classes": classes, "rows": rows, "summary": summary, "pairs": [], "n_pairs": 0}


def write_report(run: RunFolder) -> Path:
    """Write report.html of a run folder and return its path.

    The page is computed from the predictions, record, metrics, curves and config in the folder.

    Raises:
        UserError: A file is damaged, or metrics.json is missing. (`write_metrics` writes this file.)
    """
    record, metrics = run.record, run.metrics
    table = run.predictions
    disjoint = are_splits_disjoint(record.get("data", {}), metrics["targets"])
    specs = record.get("targets", {})
    sections = [
        target_section(name, target, table, disjoint, (specs.get(name) or {}).get("train_classes"))
        for name, target in metrics["targets"].items()
    ]
    mean = mean_section(metrics[MEAN], disjoint) if metrics.get(MEAN) else None
    model, data = record.get("model", {}), record.get("data", {})
    saved_errors = run.read_worst_errors()
    values: dict[str, Any] = {
        "record": record,
        "metrics": metrics,
        "model": model,
        "sections": sections,
        "mean": mean,
        "limitations": list(dict.fromkeys(text for section in sections for text in section["limitations"])),
        "recommendation": recommend_probes(record, metrics["targets"]),
        "forest_plot": figures.forest_plot(targets_and_mean(metrics)),
        "curves": run_figures.draw_learning_curves(
            run.read_curves(), model.get("best_epoch"), model.get("monitor") or "val/score"
        ),
        "probes": [probe_section(name, probe) for name, probe in (model.get("linear_probe") or {}).items()],
        "initial_heads": [probe_section(name, p, "") for name, p in (model.get("initial_heads") or {}).items()],
        "validation_remark": _validation_remark(record),
        "embeddings": run_figures.embedding_maps(table, metrics["targets"], pooled=bool(data.get("pooled"))),
        "card": html.markdown_to_html(data.get("card", "")),
        "config": run.read_config_text(),
        "record_text": _record_text(record),
        "saved_errors": saved_errors,
        "colour_stops": worst_errors.colour_stops(),
        "few_groups": FEW_GROUPS,
        "earlier_training": [*describe_copies(record), *describe_earlier_training(record)],
        "min_test_groups": MIN_TEST_GROUPS,
        "members": link_members((record.get("ensemble") or {}).get("members") or [], run.path),
        "groups_known": known_groups(data, metrics["targets"]),
    }
    page = load_template("report.html.j2")
    max_bytes = worst_errors.MAX_PAGE_SIZE - len(page.render(values | {"omitted": {}}).encode())
    omitted = worst_errors.add_error_cards(run, saved_errors, sections, max_bytes)
    return write_text(run.report_path, page.render(values | {"omitted": omitted}))


def probe_section(name: str, probe: dict[str, Any], grid: str = "optim.") -> dict[str, Any]:
    """Return the description of the linear probe of a target, and the inner score of each penalty.

    Args:
        name: Name of the target.
        probe: Its entry in the record.
        grid: Config group with the grid of penalties; "" for a grid that is not an option.
    """
    is_label = probe["score"] == "log_loss"
    key = "C" if is_label else "alpha"
    penalty = "".join(f", {key} = {value:g}" for value in probe["penalty"].values())
    weights = f", {probe['class_weight']} class weights" if probe.get("class_weight") else ""
    clips = formatting.format_count(probe["clips"], "clip")
    if probe["validation_clips"]:
        clips += (
            f", of which {probe['validation_clips']} are validation clips. Their predictions are from the inner folds, "
            "fitted without the clip. The baselines are fitted to the same clips, in the same way"
        )
    groups = f" that keep {probe['groups']} groups together" if probe["groups"] else ""
    folds = f" {probe['folds']} inner folds{groups}." if probe["candidates"] else ""
    warnings = [weakness(name, probe), describe_end(probe, grid) if probe.get("at_end") else None]
    candidates = probe["candidates"]
    columns = list(dict.fromkeys(candidate.get("class_weight") for candidate in candidates))
    chosen = (probe["penalty"], probe.get("class_weight"))
    scores = {(c["penalty"].get(key), c.get("class_weight")): -c["inner_score"] for c in candidates}
    rows = [
        {
            "penalty": f"{value:g}",
            "cells": [{"score": scores[value, w], "chosen": chosen == ({key: value}, w)} for w in columns],
        }
        for value in dict.fromkeys(value for value, _ in scores)
    ]
    title = "log-loss (nats)" if is_label else "mean squared error"
    return {
        "title": f"Linear probe of {name}",
        "summary": f"{formatting.capitalise_first(probe['name'])}{penalty}{weights}, fitted to {clips}.{folds}",
        "warnings": [formatting.format_sentence(text) for text in warnings if text],
        "caption": f"Inner score: {title}, over the predictions of all inner folds.",
        "key": key,
        "columns": [f"{weight} class weights" if weight else title for weight in columns],
        "rows": rows,
        "seconds": probe["seconds"],
    }


def _validation_remark(record: dict[str, Any]) -> str:
    """Return the remark on the heading of validation scores."""
    if record.get("ensemble"):
        return " (the report of each member states how it used these clips)"
    model = record.get("model") or {}
    probes = (model.get("linear_probe") or {}).values()
    if any(probe["validation_clips"] for probe in probes):
        return " (out-of-fold predictions of the inner folds, by which the penalty was chosen)"
    if model.get("monitor") or model.get("stopped_by"):
        return " (the epoch was selected by these scores, so they are optimistic)"
    return " (these scores were not used to select an epoch)"


def _record_text(record: dict[str, Any]) -> str:
    """Return record.json as text without the data card, which has its own section."""
    data = {key: value for key, value in record.get("data", {}).items() if key != "card"}
    return json.dumps(record | {"data": data}, indent=1, ensure_ascii=False)
