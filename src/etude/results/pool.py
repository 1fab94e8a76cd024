"""The folds of a cross-validation as one result: every clip tested once, by a network that was not trained on it.

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

from etude.files.atomic import remove_folder, replacing, write_bytes, write_text
from etude.files.ownership import open_folder, subfolder
from etude.results import excerpts, reading
from etude.results.comparison.reading import read
from etude.results.comparison.run import Run, mapping
from etude.results.measure import write
from etude.results.worst import worst

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "pooled"


def pool(sweep: Path, runs: list[Path]) -> list[Path]:
    """Pool the runs that differ only in their fold.

    Args:
        sweep: Where the folder `pooled` is made.
        runs: Run folders. Those without folds, unfinished, or alone with their config are left as they are.

    Returns:
        The folders of the pooled results, each with its table, record, config without a fold, metrics.json and
        report.html.
    """
    import yaml

    from etude.results.report import render

    alike: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in map(read, runs):
        fold = run.data.get("fold")
        whole = run.status == "finished" and (run.folder / "predictions.parquet").is_file()
        known = run.config or not (run.folder / "config.yaml").is_file()
        if isinstance(fold, int) and whole and known:
            alike[_config(run)][fold] = run  # of two runs of a fold, the later counts
    made = []
    for key, folds in alike.items():
        if len(folds) > 1:
            records = [run.record for _, run in sorted(folds.items())]
            name = re.sub(r"[^\w.-]+", "-", str(records[0].get("name", "run")))
            folder = sweep / FOLDER / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
            subfolder(sweep / FOLDER)
            open_folder(folder)
            table = _tables(folds)
            with replacing(folder / "predictions.parquet") as draft:
                table.to_parquet(draft, write_page_checksum=True)
            record = _together(records, table)
            record[reading.TABLE_HASH] = reading.file_hash(folder / reading.TABLE)
            record["data"]["pooled_from"] = [run.folder.name for _, run in sorted(folds.items())]
            write_text(folder / "record.json", json.dumps(reading.sealed(record), indent=1, ensure_ascii=False) + "\n")
            write_text(folder / "config.yaml", yaml.safe_dump(json.loads(key)[0], sort_keys=False, allow_unicode=True))
            shown = [row[0] for name, target in records[0]["targets"].items()
                     for row in worst(table, name, target["kind"])["rows"]]  # fmt: skip
            gather([run.folder for _, run in sorted(folds.items())], folder, {str(clip) for clip in shown})
            write(folder)
            render(folder)
            made.append(folder)
    return made


def gather(folders: list[Path], target: Path, ids: set[str]) -> None:
    """Put what several runs kept of some clips into one folder: the worst of all folds are among the worst of each.

    Runs whose pictures are of another kind than the first's are left out.
    """
    remove_folder(target / excerpts.FOLDER)
    scale: dict[str, Any] = {}
    clips: list[dict[str, Any]] = []
    for folder in folders:
        kept = excerpts.read(folder)
        scale = scale or kept["scale"]
        for clip in kept["clips"].values() if kept["scale"] == scale else ():
            if clip["id"] not in ids:
                continue
            subfolder(target / excerpts.FOLDER)
            for kind in ("picture", "audio"):
                if name := clip.get(kind):
                    clip[kind] = f"{len(clips):02d}{Path(name).suffix}"
                    write_bytes(target / excerpts.FOLDER / clip[kind], (folder / excerpts.FOLDER / name).read_bytes())
            clips.append(clip)
    if clips:
        text = json.dumps({**scale, "clips": clips}, indent=1, ensure_ascii=False) + "\n"
        write_text(target / excerpts.FOLDER / excerpts.INDEX, text)


def _config(run: Run) -> str:
    """What two folds of one cross-validation have in common: every value but the fold, and the data."""
    config = copy.deepcopy(run.config)
    mapping(mapping(config.get("data")).get("split")).pop("fold", None)
    return json.dumps([config, run.data.get("hash"), run.data.get("folds")], sort_keys=True, default=str)


def _tables(folds: dict[int, Run]) -> pd.DataFrame:
    """The tables of all folds, with the fold of each row.

    Raises:
        ValueError: A clip is tested in two folds.
    """
    import pandas as pd

    tables = [reading.table(run.folder).assign(fold=fold) for fold, run in sorted(folds.items())]
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
