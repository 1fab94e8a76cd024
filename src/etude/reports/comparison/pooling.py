"""Pooling of the folds of a cross-validation into one result.

What is pooled is predictions, never scores: the tables of the folds are put under one another and measured as one. The
pooled result is a run folder like any other, so everything that reads runs reads it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from etude.evaluation.predictions import find_worst_errors
from etude.files.atomic import remove_folder, write_bytes, write_text
from etude.files.ownership import open_folder, subfolder
from etude.reports.comparison.runs import ComparedRun, mapping, read
from etude.reports.run_report import write_report
from etude.runs.folder import RunFolder
from etude.runs.results import write_metrics, write_predictions, write_record

if TYPE_CHECKING:
    import pandas as pd


POOLED_FOLDER = "pooled"


def pool_folds(sweep: Path, runs: list[Path]) -> list[Path]:
    """Pool the runs that differ only in their fold.

    Args:
        sweep: Where the folder `pooled` is made.
        runs: Run folders. Those without folds, unfinished, or alone with their config are left as they are.

    Returns:
        The folders of the pooled results, each with its table, record, config without a fold, metrics.json and
        report.html.
    """
    alike: dict[str, dict[int, ComparedRun]] = defaultdict(dict)
    for run in map(read, runs):
        fold = run.data.get("fold")
        whole = run.status == "finished" and run.files.predictions_path.is_file()
        known = run.config or not run.files.config_path.is_file()
        if isinstance(fold, int) and whole and known:
            alike[_config(run)][fold] = run  # of two runs of a fold, the later counts
    made = []
    for key, folds in alike.items():
        if len(folds) > 1:
            records = [run.record for _, run in sorted(folds.items())]
            name = re.sub(r"[^\w.-]+", "-", str(records[0].get("name", "run")))
            pooled = RunFolder(sweep / POOLED_FOLDER / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:6]}")
            subfolder(sweep / POOLED_FOLDER)
            open_folder(pooled.path)
            table = _tables(folds)
            write_predictions(pooled, table)
            record = _together(records, table)
            record["data"]["pooled_from"] = [run.folder.name for _, run in sorted(folds.items())]
            write_record(pooled, record)
            write_text(pooled.config_path, yaml.safe_dump(json.loads(key)[0], sort_keys=False, allow_unicode=True))
            shown = [row[0] for name, target in records[0]["targets"].items()
                     for row in find_worst_errors(table, name, target["kind"])["rows"]]  # fmt: skip
            gather([run.files for _, run in sorted(folds.items())], pooled, {str(clip) for clip in shown})
            write_metrics(pooled)
            write_report(pooled)
            made.append(pooled.path)
    return made


def gather(runs: list[RunFolder], target: RunFolder, ids: set[str]) -> None:
    """Put what several runs kept of some clips into one folder: the worst of all folds are among the worst of each.

    Runs whose pictures are of another kind than the first's are left out.
    """
    remove_folder(target.errors_path)
    scale: dict[str, Any] = {}
    clips: list[dict[str, Any]] = []
    for run in runs:
        kept = run.read_worst_errors()
        scale = scale or kept["scale"]
        for clip in kept["clips"].values() if kept["scale"] == scale else ():
            if clip["id"] not in ids:
                continue
            subfolder(target.errors_path)
            for kind in ("picture", "audio"):
                if name := clip.get(kind):
                    clip[kind] = f"{len(clips):02d}{Path(name).suffix}"
                    write_bytes(target.errors_path / clip[kind], (run.errors_path / name).read_bytes())
            clips.append(clip)
    if clips:
        text = json.dumps({**scale, "clips": clips}, indent=1, ensure_ascii=False) + "\n"
        write_text(target.errors_index_path, text)


def _config(run: ComparedRun) -> str:
    """What two folds of one cross-validation have in common: every value but the fold, and the data."""
    config = copy.deepcopy(run.config)
    mapping(mapping(config.get("data")).get("split")).pop("fold", None)
    return json.dumps([config, run.data.get("hash"), run.data.get("folds")], sort_keys=True, default=str)


def _tables(folds: dict[int, ComparedRun]) -> pd.DataFrame:
    """The tables of all folds, with the fold of each row.

    Raises:
        ValueError: A clip is tested in two folds.
    """
    import pandas as pd

    tables = [run.files.predictions.assign(fold=fold) for fold, run in sorted(folds.items())]
    table = pd.concat(tables, ignore_index=True)
    tested = table.loc[table["split"] == "test", "id"]
    if tested.duplicated().any():
        raise ValueError(
            f"clip {tested[tested.duplicated()].iloc[0]!r} is tested in two folds: these are not folds of one split"
        )
    return table


def _together(records: list[dict[str, Any]], table: pd.DataFrame) -> dict[str, Any]:
    """The record of the pooled result: what the folds share, and what they add up to."""
    first, data = records[0], dict(records[0]["data"])
    folds = [record["data"]["fold"] for record in records]
    pairs = sorted(f"{row.id},{row.split},{row.fold}" for row in table[["id", "split", "fold"]].itertuples())
    data |= {
        "fold": None,
        "pooled": folds,
        "disjoint": all(record["data"].get("disjoint") for record in records),
        "split_hash": hashlib.sha256("\n".join(pairs).encode()).hexdigest(),
        "splits": {
            part: {"clips": len(rows), "groups": int(rows["group"].fillna(rows["id"]).nunique())}
            for part in ("val", "test")
            for rows in [table[table["split"] == part]]
        },
    }
    seconds = {k: round(sum(r.get("seconds", {}).get(k, 0) for r in records), 1) for k in first.get("seconds", {})}
    model = {k: v for k, v in first.get("model", {}).items() if k not in ("epochs", "best_epoch", "best_score")}
    return first | {"data": data, "seconds": seconds, "model": model}
