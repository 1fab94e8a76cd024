"""Pooling of the folds of a cross-validation into one result.

Predictions are pooled, not scores. The tables of the folds are concatenated, and their metrics are computed once. The
pooled result is an ordinary run folder, which all readers of runs can read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from etude.evaluation.formatting import NAMES, format_number, format_score
from etude.evaluation.measure import repeated_scores
from etude.evaluation.metrics import PRIMARY
from etude.evaluation.predictions import find_worst_errors
from etude.evaluation.score_summary import describe_clips
from etude.files.atomic import remove_folder, write_bytes, write_text
from etude.files.ownership import open_folder, subfolder
from etude.reports.comparison.runs import ComparedRun, mapping_or_empty, nested_value, read_compared_run
from etude.reports.run_report import write_report
from etude.runs.folder import POOLED_FOLDER, RunFolder, write_metrics, write_predictions, write_record

if TYPE_CHECKING:
    import pandas as pd


REPEATS = "repeats.json"
MODEL_KEYS = ("backbone", "head", "task", "feature")  # choices that describe a network


def pool_folds(sweep: Path, runs: list[Path]) -> list[Path]:
    """Pool the runs that differ only in their fold.

    Args:
        sweep: Folder in which the folder `pooled` is created.
        runs: Run folders. Runs without a fold, unfinished runs and single folds of a config are not pooled.

    Returns:
        Folders of the pooled results, each with predictions, record, config without fold, metrics.json and report.html.

    Raises:
        ValueError: A clip is in the test split of two folds.
    """
    by_config: dict[str, dict[int | str, ComparedRun]] = defaultdict(dict)
    for run in map(read_compared_run, runs):
        fold = run.data.get("fold")
        complete = run.status == "finished" and run.files.predictions_path.is_file()
        known = run.config or not run.files.config_path.is_file()
        if isinstance(fold, int | str) and complete and known:
            by_config[_config_key(run)][fold] = run  # a later run of the same fold replaces an earlier one
    folders = []
    for key, folds in by_config.items():
        if len(folds) > 1:
            records = [run.record for _, run in sorted(folds.items())]
            name = re.sub(r"[^\w.-]+", "-", str(records[0].get("name", "run")))
            pooled = RunFolder(sweep / POOLED_FOLDER / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:6]}")
            open_folder(sweep)
            subfolder(sweep / POOLED_FOLDER)
            open_folder(pooled.path)
            table = _concatenate_predictions(folds)
            write_predictions(pooled, table)
            record = _pooled_record(records, table)
            record["data"]["pooled_from"] = [run.folder.name for _, run in sorted(folds.items())]
            write_record(pooled, record)
            write_text(pooled.config_path, yaml.safe_dump(json.loads(key)[0], sort_keys=False, allow_unicode=True))
            shown = [row[0] for name, target in records[0]["targets"].items()
                     for row in find_worst_errors(table, name, target["kind"])["rows"]]  # fmt: skip
            copy_worst_errors([run.files for _, run in sorted(folds.items())], pooled, {str(clip) for clip in shown})
            write_metrics(pooled)
            write_report(pooled)
            folders.append(pooled.path)
    _remove_replaced(sweep / POOLED_FOLDER, folders)
    return folders


def _remove_replaced(pooled: Path, folders: list[Path]) -> None:
    """Remove earlier pooled results whose folds are all in a new one, such as those of an interrupted sweep."""
    new = [set(RunFolder(folder).record["data"]["pooled_from"]) for folder in folders]
    for path in pooled.iterdir() if new else ():
        if path.is_dir() and path not in folders:
            old = nested_value(read_compared_run(path).record, "data", "pooled_from")
            if old and any(new_folds.issuperset(old) for new_folds in new):
                remove_folder(path)


def score_repeats(sweep: Path, pooled: list[Path]) -> list[str]:
    """Score repeated cross-validations, which differ only in their seeds, and write `repeats.json`.

    Args:
        sweep: Folder with the folder `pooled`.
        pooled: Folders of the pooled results.

    Returns:
        A sentence for each target of each repeated cross-validation.
    """
    repeated: dict[str, list[RunFolder]] = defaultdict(list)
    for run in map(RunFolder, pooled):
        config = copy.deepcopy(run.config)
        config.pop("seed", None)
        mapping_or_empty(mapping_or_empty(config.get("data")).get("split")).pop("seed", None)
        data = run.record["data"]
        key = [config, data.get("hash"), data.get("folds"), data["pooled"]]
        repeated[json.dumps(key, sort_keys=True, default=str)].append(run)
    results, sentences = [], []
    for runs in repeated.values():
        complete = [run for run in runs if len(run.record["data"]["pooled"]) == run.record["data"].get("folds")]
        if len(complete) < 2:
            continue
        record = complete[0].record
        scores = {name: repeated_scores([run.predictions for run in complete], name, target)
                  for name, target in record["targets"].items()}  # fmt: skip
        results.append({"name": record["name"], "runs": [run.path.name for run in complete], "targets": scores})
        for name, result in scores.items():
            metric = PRIMARY[record["targets"][name]["kind"]]
            score = result["scores"][metric]
            values = ", ".join(format_number(value) for value in score["values"])
            sentences.append(
                f"{record['name']}, {name}: mean {NAMES[metric]} {format_score(score)} of {len(complete)} repeated "
                f"cross-validations ({values}), {describe_clips(result)}; the interval resamples all repeats together."
            )
    if results:
        text = json.dumps({"version": 1, "results": results}, indent=1, ensure_ascii=False) + "\n"
        write_text(sweep / POOLED_FOLDER / REPEATS, text)
    return sentences


def copy_worst_errors(runs: list[RunFolder], target: RunFolder, ids: set[str]) -> None:
    """Copy the saved worst errors of several runs into one run folder.

    The worst errors of the pooled predictions are among the worst errors of the folds. Clips that no run saved, and
    runs whose image scale differs from the scale of the first run, are left out.

    Args:
        runs: Folders of the folds.
        target: Folder of the pooled result.
        ids: Ids of the clips that are copied.
    """
    remove_folder(target.errors_path)
    scale: dict[str, Any] = {}
    clips: list[dict[str, Any]] = []
    missing = set(ids)
    for run in runs:
        saved = run.read_worst_errors()
        scale = scale or saved["scale"]
        for clip in saved["clips"].values() if saved["scale"] == scale else ():
            if clip["id"] not in missing:
                continue
            missing.remove(clip["id"])
            subfolder(target.errors_path)
            for kind in ("picture", "audio"):
                if name := clip.get(kind):
                    clip[kind] = f"{len(clips):02d}{Path(name).suffix}"
                    write_bytes(target.errors_path / clip[kind], (run.errors_path / name).read_bytes())
            clips.append(clip)
    if clips:
        text = json.dumps({**scale, "clips": clips}, indent=1, ensure_ascii=False) + "\n"
        write_text(target.errors_index_path, text)


def _config_key(run: ComparedRun) -> str:
    """Return config (without the fold) and data as JSON. The folds of one cross-validation have the same result."""
    config = copy.deepcopy(run.config)
    mapping_or_empty(mapping_or_empty(config.get("data")).get("split")).pop("fold", None)
    data = [run.data.get(name) for name in ("hash", "labels", "folds")]
    return json.dumps([config, *data], sort_keys=True, default=str)


def _concatenate_predictions(folds: dict[int | str, ComparedRun]) -> pd.DataFrame:
    """Return the predictions of all folds with the fold of each row.

    Raises:
        ValueError: A clip is in the test split of two folds.
    """
    import pandas as pd

    tables = [run.files.predictions.assign(fold=fold) for fold, run in sorted(folds.items())]
    table = pd.concat(tables, ignore_index=True)
    tested = table.loc[table["split"] == "test", "id"]
    if tested.duplicated().any():
        clip = tested[tested.duplicated()].iloc[0]
        raise ValueError(f"clip {clip!r} is in the test split of two folds; they are not folds of one cross-validation")
    return table


def _pooled_record(records: list[dict[str, Any]], table: pd.DataFrame) -> dict[str, Any]:
    """Return the record of the pooled result, with common values of the folds and the sums of their times."""
    first, folds = records[0], [record["data"]["fold"] for record in records]
    model = {
        k: v
        for k, v in first.get("model", {}).items()
        if k not in ("epochs", "best_epoch", "best_score", "linear_probe", "initial_heads", "layer_weights")
    }
    targets = {name: _pooled_target(name, [record["targets"][name] for record in records], table, folds)
               | pooled_baselines([record["targets"][name] for record in records])
               for name in first["targets"]}  # fmt: skip
    earlier = pooled_earlier_training([record.get("earlier_training") or {} for record in records])
    changes: dict[str, Any] = {"data": pooled_data(records, table), "seconds": pooled_seconds(records), "model": model}
    one, all_folds = f"data.split.fold={folds[0]}", f"-m data.split.fold={','.join(map(str, folds))}"
    changes["command"] = str(first.get("command", "")).replace(one, all_folds).replace(" hydra.mode=RUN", "")
    return first | changes | {"targets": targets, "earlier_training": earlier}


def pooled_data(records: list[dict[str, Any]], table: pd.DataFrame) -> dict[str, Any]:
    """Return the data and split of several runs of one collection with different splits.

    Args:
        records: Record of each run.
        table: Predictions of all runs. Without the column `fold`, they have a row per clip and split.
    """
    data = dict(records[0]["data"])
    keys = [key for key in ("id", "split", "fold") if key in table]
    rows = sorted(",".join(map(str, row)) for row in table[keys].itertuples(index=False))
    tested = table.loc[table["split"] == "test", "id"]
    disjoint = [record["data"].get("disjoint") for record in records]
    unknown = data.get("groups_known") == "none"
    return data | {
        "fold": None,
        "pooled": list(dict.fromkeys(record["data"].get("fold") for record in records)),
        "disjoint": False if False in disjoint else True if all(disjoint) else None,
        "shared_groups": max(record["data"].get("shared_groups") or 0 for record in records),
        **{
            key: {
                split: sum((record["data"].get(key) or {}).get(split, 0) for record in records)
                for split in ("val", "test")
            }
            for key in ("copies", "known_artists")
        },
        "split_hash": hashlib.sha256("\n".join(rows).encode()).hexdigest(),
        "test_clips": hashlib.sha256("\n".join(sorted(map(str, tested))).encode()).hexdigest(),
        "splits": {
            split: {
                "clips": len(clips),
                "groups": None if unknown else int(clips["group"].fillna(clips["id"]).nunique()),
            }
            for split in ("val", "test")
            for clips in [table[table["split"] == split]]
        },
    }


def pooled_seconds(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the sums of the times of several runs."""
    return {
        key: round(sum(record.get("seconds", {}).get(key, 0) for record in records), 1)
        for key in records[0].get("seconds", {})
    }


def averaged_record(
    records: list[dict[str, Any]], earlier: list[dict[str, Any]], tables: list[pd.DataFrame], table: pd.DataFrame
) -> dict[str, Any]:
    """Return the record of an ensemble, without name, environment and members.

    Args:
        records: Record of each member.
        earlier: Earlier training of each member, without clips that it does not score.
        tables: Predictions of each member for the clips that it scores.
        table: Averaged predictions.
    """
    first, models = records[0], [record.get("model") or {} for record in records]
    data, pooled_earlier = pooled_data(records, table), pooled_earlier_training(earlier)
    if one_split := len({record["data"].get("split_hash") for record in records}) == 1:
        data = dict(first["data"]) | {"disjoint": data["disjoint"]}
        pooled_earlier |= {"splits": earlier[0]["splits"]} if "splits" in earlier[0] else {}
    elif None in data["pooled"]:
        data["pooled"] = None
    targets = {}
    for name, target in first["targets"].items():
        own = [record["targets"][name] for record in records]
        targets[name] = target | ({} if one_split else pooled_baselines(own))
        if all("train_classes" in spec for spec in own):
            targets[name]["train_classes"] = _smallest_classes(name, own, tables)
    names = {key: join_distinct([model.get(key) for model in models]) for key in MODEL_KEYS}
    counts = table["members"][table["split"] == "test"]
    return {
        **{"seed": first.get("seed"), "trial": None, "targets": targets, "data": data},
        **{"seconds": pooled_seconds(records), "earlier_training": pooled_earlier},
        "model": names | {"parameters": sum(model.get("parameters") or 0 for model in models)},
        "ensemble": {"fewest": int(counts.min()), "most": int(counts.max())},
    }


def _smallest_classes(name: str, targets: list[dict[str, Any]], tables: list[pd.DataFrame]) -> dict[str, int]:
    """Return the smallest number of training clips of each class, over the runs that test the class."""
    tested = [set(table.loc[table["split"] == "test", f"{name}.true"]) for table in tables]
    smallest = {}
    for value, count in targets[0]["train_classes"].items():
        pairs = zip(targets, tested, strict=True)
        sizes = [target["train_classes"].get(value, 0) for target, classes in pairs if value in classes]
        smallest[value] = min(sizes, default=count)
    return smallest


def join_distinct(values: Sequence[Any]) -> str:
    """Return the distinct values as text, such as `musicnn + efficientat`."""
    return " + ".join(dict.fromkeys(str(value) for value in values if value))


def pooled_earlier_training(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the earlier training of all folds, with the sums of their numbers of clips."""
    pooled = copy.deepcopy(folds[0])
    for fold in folds[1:]:
        for key in ("runs", "left_out_of", "unknown"):
            pooled[key] = [*pooled.get(key, []), *(row for row in fold.get(key, []) if row not in pooled.get(key, []))]
        for split, numbers in fold.get("splits", {}).items():
            totals = pooled.setdefault("splits", {}).setdefault(split, dict.fromkeys(numbers, 0))
            totals |= {name: totals.get(name, 0) + count for name, count in numbers.items()}
    return pooled


def _pooled_target(
    name: str, targets: list[dict[str, Any]], table: pd.DataFrame, folds: list[int | str]
) -> dict[str, Any]:
    """Return a target with the smallest number of training clips of each class in the folds that test the class."""
    if not all("train_classes" in target for target in targets):
        return {key: value for key, value in targets[0].items() if key != "train_classes"}
    tested = table[table["split"] == "test"]
    counts: dict[str, int] = {}
    for value in targets[0]["classes"]:
        sizes = [
            target["train_classes"].get(value, 0)
            for fold, target in zip(folds, targets, strict=True)
            if ((tested["fold"] == fold) & (tested[f"{name}.true"] == value)).any()
        ]
        counts[value] = min(sizes, default=max(target["train_classes"].get(value, 0) for target in targets))
    return targets[0] | {"train_classes": counts}


def pooled_baselines(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the descriptions of the baselines of a target, whose families may differ between folds."""
    baselines = {}
    for key in folds[0].get("baselines") or {}:
        fits = [(fold.get("baselines") or {}).get(key) or {} for fold in folds]
        names = list(dict.fromkeys(str(fit.get("name")) for fit in fits))
        features = next((name.partition(" on ")[2] for name in names if " on " in name), "statistics of the clips")
        name = names[0] if len(names) == 1 else f"linear model or SVM on {features}"
        remarks = "; ".join(dict.fromkeys(fit["remark"] for fit in fits if fit.get("remark")))
        seconds = round(sum(fit.get("seconds") or 0 for fit in fits), 2)
        baselines[key] = {"name": name, "seconds": seconds, "remark": remarks}
    return {"baselines": baselines} if baselines else {}
