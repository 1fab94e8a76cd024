"""Scores of runs and baselines in one table with a row per run, target, metric and class."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import printable
from etude.evaluation.means import mean_over_scalars
from etude.evaluation.measure import replace_non_finite
from etude.evaluation.metrics import PRIMARY
from etude.evaluation.score_summary import SPLIT_NAMES, are_groups_unknown, count_known_groups
from etude.reports.comparison.axes import NAMED_AXES, CompareOptions, axis_value, differing_axes, settings_key
from etude.reports.comparison.runs import ComparedRun, mapping_or_empty, mean_titles, read_compared_run
from etude.reports.comparison.table import REPEAT_AXES
from etude.runs.folder import find_runs, is_sweep

if TYPE_CHECKING:
    from pandas import DataFrame


COLUMNS = [
    *("name", "folder", "status", "backbone", "feature", "head", "task", "setting", "readout", "transfer"),
    *("pretrained", "data"),
    *(
        "optim",
        "penalty",
        "seed",
        "fold",
        "split",
        "target",
        "class",
        "metric",
        "value",
        "low",
        "high",
        "constant",
        "statistics",
    ),
    *("shortcuts", "linear"),
    *("n", "groups", "ungrouped", "seconds", "scored_on"),
]
AVERAGES = {"macro": "macro mean", "micro": "micro mean (accuracy)", "weighted": "weighted mean"}
"""Last rows of a table per class."""


def collect(folders: str | Path | Sequence[str | Path], split: str = "test") -> DataFrame:
    """Read the primary scores of runs.

    Args:
        folders: Run folders, or folders that contain run folders, such as the folder of a sweep.
        split: test or val.

    Returns:
        A row per run and target with the columns COLUMNS. They contain the primary metric of the target, its value and
        interval, the scores of the baselines, the numbers of clips, of groups, and of clips with an unknown group, and
        the duration of the run in seconds. A run with several scalars has a further row of the target `mean`, with the
        means of their scores. The constant is the majority class or the training mean. `linear` is the
        baseline of runs of earlier versions. A run without scores has one row with its status.
    """
    return score_frame(read_runs(folders), split)


def runs_outside_sweeps(folder: Path) -> list[Path]:
    """Return the run folders at or below a folder, without those of sweeps below it, whose folds are pooled there."""
    runs = {run: run.relative_to(folder).parents for run in find_runs(folder)}
    return [run for run, parents in runs.items() if not any(is_sweep(folder / parent) for parent in parents[:-1])]


def read_runs(folders: str | Path | Sequence[str | Path]) -> list[ComparedRun]:
    """Read all runs at or below some folders, each once."""
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    runs = {run.resolve(): run for path in paths for run in find_runs(path)}
    return [read_compared_run(run) for run in runs.values()]


def score_frame(
    runs: Sequence[ComparedRun], split: str = "test", metrics: Sequence[str] = (), classes: bool = False
) -> DataFrame:
    """Return the scores of runs on one split with the columns COLUMNS.

    Args:
        runs: Runs in any state.
        split: test or val.
        metrics: Metrics of the rows. Empty means the primary metric of each target.
        classes: Return scores per class, and their means over classes, instead of scores of all clips.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    shared: dict[str, Any]
    titles = mean_titles(runs)
    for run in runs:
        shared = {axis: value for axis, reader in NAMED_AXES.items() if (value := reader(run)) not in (None, "")}
        shared |= {"name": run.name, "folder": str(run.folder), "status": run.status, "split": split}
        if run.status == "finished":
            shared |= {"seconds": run.seconds, "scored_on": run.scored_clips(split)}
        run_rows = [shared | row for row in _score_rows(run, titles, split, metrics, classes)]
        rows += run_rows or [shared]
    return pd.DataFrame(rows, columns=COLUMNS)


def no_scores_message(options: CompareOptions) -> str:
    """Return the message that no run has the scores of a comparison, after the options that can be the reason."""
    given = [("--metric", ",".join(options.metrics)), ("--split", options.split), ("--layout", options.layout)]
    unset = ("", CompareOptions.split, CompareOptions.layout)
    arguments = [f"{key} {value}" for (key, value), default in zip(given, unset, strict=True) if value != default]
    if targets := options.where.get("target"):
        arguments.append(f"--where target={','.join(targets)}")
    scores = f"scores of {SPLIT_NAMES[options.split]} clips"
    return f"{' '.join(arguments)}: no run has such {scores}" if arguments else f"no run has {scores}"


def identical_runs(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """Return sets of at least two finished runs with bit-identical predictions of the same clips and splits.

    Predictions of labels without probabilities are equal by chance on few clips. Such runs are only identical if their
    settings and seeds are equal too.
    """
    by_scores: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        if run.status == "finished":
            values = {
                (name, split, metric): score.get("value")
                for name, target in run.metrics.items()
                for split, results in target["splits"].items()
                for metric, score in results["scores"].items()
            }
            by_scores[repr(sorted(values.items()))].append(run)
    by_predictions: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in (run for same in by_scores.values() if len(same) > 1 for run in same):
        if key := _predictions_key(run):
            by_predictions[key].append(run)
    return [same for same in by_predictions.values() if len(same) > 1]


def find_repetitions(runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> tuple[set[Path], list[str]]:
    """Return the folders of runs that repeat an earlier run, and remarks on runs with identical predictions.

    Runs with equal settings and identical predictions are one observation. Their number would make a standard deviation
    too small. If only their seeds differ, the seeds had no effect.

    Args:
        runs: Runs in any state.
        names: Titles of the runs by folder.
    """
    repeated: set[Path] = set()
    remarks = []
    for identical in identical_runs(runs):
        by_settings: dict[str, list[ComparedRun]] = defaultdict(list)
        for run in identical:
            by_settings[settings_key(run)].append(run)
        for same in by_settings.values():
            if len(same) > 1:
                repeated |= {run.folder for run in same[1:]}
                varied = [axis for axis in REPEAT_AXES if len({axis_value(run, axis) for run in same}) > 1]
                reason = f"although they differ in {' and '.join(varied)}" if varied else "and equal settings and seeds"
                remarks.append(
                    f"{', '.join(names[run.folder] for run in same)}: identical predictions {reason}, so they are one "
                    f"observation; means and paired tests use only {names[same[0].folder]}."
                )
        if len(by_settings) > 1:
            firsts = [same[0] for same in by_settings.values()]
            varied = differing_axes(firsts) or ["their settings"]
            remarks.append(
                f"{', '.join(names[run.folder] for run in firsts)}: identical predictions although they differ in "
                f"{' and '.join(varied)}."
            )
    return repeated, remarks


def _predictions_key(run: ComparedRun) -> str:
    """Return a hash of the predictions, splits and data of a run, or "" if they cannot be read."""
    labels = {name: target.get("classes", []) for name, target in run.metrics.items() if target["kind"] == "label"}
    columns = ["id", "split", *(f"{name}.pred" for name in run.metrics)]
    scores = [f"{name}.score.{class_name}" for name, classes in labels.items() for class_name in classes]
    exact = len(labels) < len(run.metrics)
    try:
        try:
            table, exact = run.files.read_columns([*columns, *scores]), exact or bool(scores)
        except (ValueError, KeyError):
            table = run.files.read_columns(columns)
    except (OSError, ValueError, KeyError):
        return ""
    text = table.sort_values(["split", "id"], kind="stable").to_csv(index=False, float_format="%.17g")
    settings = "" if exact else repr((settings_key(run), *(axis_value(run, axis) for axis in REPEAT_AXES)))
    return hashlib.sha256(f"{run.scored_on}\n{settings}\n{text}".encode()).hexdigest()


def finite_or_none(value: Any) -> float | None:
    """Return a value of a data frame as a float, or None if it is missing, text or not finite."""
    return None if value is None or isinstance(value, str) or not math.isfinite(value) else float(value)


def best_and_worst_runs(runs: Sequence[ComparedRun], target: str) -> list[ComparedRun]:
    """Return the best run of each backbone, best first, and then the worst of all runs, by validation score.

    Args:
        runs: Runs in any state. Runs without a validation score of the target and pooled runs are ignored.
        target: Name of a target.
    """
    scores = {
        run.folder: score for run in runs if not run.pooled and (score := _validation_score(run, target)) is not None
    }
    ranked = sorted((run for run in runs if run.folder in scores), key=lambda run: -scores[run.folder])
    best = {axis_value(run, "backbone"): run for run in reversed(ranked)}  # a later entry replaces an earlier one
    selected = [run for run in ranked if run in best.values()] + ranked[-1:]
    return list({run.folder: run for run in selected}.values())


def single_task_means(runs: Sequence[ComparedRun], split: str) -> tuple[list[ComparedRun], list[str]]:
    """Compute the means over scalars that were predicted by several runs with one target each.

    The scores are computed from the predictions of all these runs, as for one run with several targets.

    Args:
        runs: Runs in any state. Runs with one scalar are combined if they differ only in their task.
        split: test or val.

    Returns:
        A run without targets for each mean, with the folder and the axes of the first of the combined runs; and remarks
        about runs that cannot be combined.
    """
    by_settings: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        if [target["kind"] for target in run.metrics.values()] == ["scalar"]:
            by_settings[repr((settings_key(run, "task"), axis_value(run, "data.split.seed")))].append(run)
    means, remarks = [], []
    for members in by_settings.values():
        by_target = {next(iter(run.metrics)): run for run in members}
        if len(by_target) < 2:
            continue
        try:
            if len(by_target) < len(members):
                raise ValueError("several of them have the same target, settings and seed")
            clips = {run.scored_clips(split) for run in members}
            if len(clips) > 1 or "?" in "".join(clips):
                raise ValueError("they were scored on different or unknown clips")
            means.append(_combine_runs(by_target, split))
        except (OSError, ValueError, KeyError, TypeError) as error:
            names = ", ".join(run.name for run in members)
            remarks.append(f"{names}: there is no mean over their targets, because {printable(error).rstrip('.')}.")
    return means, remarks


def _combine_runs(by_target: dict[str, ComparedRun], split: str) -> ComparedRun:
    """Return a run whose only scores are the means over the targets of several runs with the same clips."""
    import pandas as pd

    tables, targets = [], {}
    for name, run in by_target.items():
        entry = run.metrics[name]
        targets[name] = entry | mapping_or_empty(mapping_or_empty(run.record.get("targets")).get(name))
        baselines = [f"{name}.baseline.{key}" for key in entry["splits"][split]["baselines"]]
        columns = ["id", "group", "split", f"{name}.true", f"{name}.pred", *baselines]
        table = run.files.read_columns(columns)
        table = table[table["split"] == split]
        repeat = table.groupby("id").cumcount()  # the validation clips of pooled folds are repeated
        tables.append(table.assign(repeat=repeat).set_index(["id", "repeat"]))
    shared = pd.concat([table[["group", "split"]] for table in tables])
    combined = pd.concat([table.drop(columns=["group", "split"]) for table in tables], axis=1)
    combined = combined.join(shared[~shared.index.duplicated()]).reset_index()
    first = next(iter(by_target.values()))
    if first.pooled:
        combined["fold"] = 0
    mean = dict(replace_non_finite(mean_over_scalars(combined, targets, (split,))))
    seconds = [run.seconds for run in by_target.values() if run.seconds is not None]
    record = first.record | {"name": " + ".join(run.name for run in by_target.values())}
    return replace(first, record=record | {"seconds": {"total": sum(seconds)}}, metrics={}, mean=mean)


def _score_rows(
    run: ComparedRun, titles: Mapping[Path, str], split: str, metrics: Sequence[str], classes: bool
) -> Iterator[dict[str, Any]]:
    """Yield a dictionary for each table row of a run, with the values that depend on target, class or metric."""
    for name, target in {**run.metrics, **({titles[run.folder]: run.mean} if run.mean else {})}.items():
        results = target["splits"].get(split, {})
        counts = {"target": name, "n": results.get("n"), "ungrouped": results.get("ungrouped")}
        counts["groups"] = count_known_groups(results) if "groups" in results and "n" in results else None
        if classes:
            yield from (counts | row for row in _class_rows(results, metrics or ("f1",)))
            continue
        primary = target.get("primary") or PRIMARY[target["kind"]]
        for metric in metrics or (primary,):
            score = results.get("scores", {}).get(metric)
            if score is None and metrics:
                continue  # a metric of the other kind of target
            baselines = {
                key: baseline.get("scores", {}).get(metric, {}).get("value")
                for key, baseline in results.get("baselines", {}).items()
            }
            yield counts | {"metric": metric} | (score or {}) | baselines


def _class_rows(results: dict[str, Any], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the scores of each class and their means over classes."""
    unknown = bool(results.get("n")) and are_groups_unknown(results)
    for row in results.get("per_class", []):
        for metric in metrics:
            if metric in row:
                support = {"n": row.get("support"), "groups": None if unknown else row.get("groups")}
                yield {"class": row["class"], "metric": metric, "value": row[metric]} | support
    for average, title in AVERAGES.items():
        for metric in metrics:
            if results.get("per_class") and (score := results["scores"].get(f"{average}_{metric}")):
                yield {"class": title, "metric": metric} | score


def _validation_score(run: ComparedRun, target: str) -> float | None:
    """Return the primary score of a target on the validation split."""
    stored = run.metrics.get(target, {})
    primary = stored.get("primary") or PRIMARY.get(stored.get("kind"), "")
    return stored.get("splits", {}).get("val", {}).get("scores", {}).get(primary, {}).get("value")
