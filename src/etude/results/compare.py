"""Many runs, one table: the leading score of each target, with its interval and beside its baselines.

Runs are comparable only on the same clips: numbers of other data, or of another split, look alike and mean something
else. So each row carries the hash of its data and split, and where these differ nothing is called the best.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.results.measure import save
from etude.results.pool import pool
from etude.results.text import NAMES, duration, number, span

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table
    from rich.text import Text

COLUMNS = [
    *("name", "folder", "status", "backbone", "feature", "task", "target", "metric", "value", "low", "high"),
    *("constant", "linear", "n", "groups", "seconds", "fold", "scored_on"),
]


def find(path: Path) -> list[Path]:
    """The run folders at or below a path, job 9 before job 10: all that hold a record or a config, unless hidden."""
    marks = [mark for name in ("record.json", "config.yaml") for mark in path.rglob(name)]
    runs = {mark.parent for mark in marks if not any(p.startswith(".") for p in mark.relative_to(path).parts)}
    return [path] if path in runs else sorted(runs, key=_natural)


def collect(folders: str | Path | Sequence[str | Path]) -> DataFrame:
    """Read the test scores of runs.

    Args:
        folders: Run folders, or folders that hold some (a sweep).

    Returns:
        One row per run and target, columns COLUMNS: the target's leading metric, its value and interval, what the
        constant (majority class or training mean) and the linear model reach, n clips in how many groups, seconds of
        the whole run. A run without metrics.json is one row of status "unfinished" with nothing else known.
    """
    import pandas as pd

    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    runs = dict.fromkeys(run for path in paths for run in find(path))
    return pd.DataFrame([row for run in runs for row in _rows(run)], columns=COLUMNS)


def show(frame: DataFrame, folder: Path | None = None) -> None:
    """Print one table, a row per run and a column per target; in plain text when nobody sits at a terminal.

    The best run of each target is bold where all runs were scored on the same clips. With a folder, the frame is kept
    there as compare.csv.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=400, color_system=None)
    if frame.empty:
        console.print("No runs.")
    else:
        table, remarks = _table(frame, plain=not console.is_terminal)
        console.print(table)
        for remark in remarks:
            console.print(remark, soft_wrap=True, markup=False)
    if folder is not None:
        save(folder / "compare.csv", frame.to_csv(index=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs; exit status 2 when a folder holds none. A single sweep folder also gets a compare.csv."""
    parser = argparse.ArgumentParser(description="One table over runs: the leading score of each target on test.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or the folder of a sweep")
    folders: list[Path] = parser.parse_args(argv).folders
    for folder in folders:
        if not find(folder):
            print(f"{folder} is not a run, and no run is below it.", file=sys.stderr)  # noqa: T201
            return 2
    sweep = folders[0] if len(folders) == 1 and find(folders[0]) != folders else None
    if sweep is not None:
        pool(sweep, find(sweep))
    show(collect(folders), sweep)
    return 0


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts job 10 of a sweep after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _rows(run: Path) -> list[dict[str, Any]]:
    known: dict[str, Any] = {"name": run.resolve().name, "folder": str(run), "status": "unfinished"}
    record = json.loads((run / "record.json").read_text("utf-8")) if (run / "record.json").is_file() else {}
    known |= {key: record.get("model", {}).get(key) for key in ("backbone", "feature", "task")}
    if not (run / "metrics.json").is_file():
        return [known]
    known |= {"name": record.get("name", known["name"]), "status": "finished"}
    known["seconds"] = record.get("seconds", {}).get("total")
    data = record.get("data", {})
    known["scored_on"] = f"{data.get('labels') or data.get('hash') or '?'}/{data.get('split_hash') or '?'}"
    if pooled := data.get("pooled"):
        known["fold"] = f"{len(pooled)} of {data.get('folds')} folds"
    elif data.get("fold") is not None:
        known["fold"] = str(data["fold"])
    rows = []
    for name, target in json.loads((run / "metrics.json").read_text("utf-8"))["targets"].items():
        part, metric = target["splits"]["test"], target["primary"]
        row = known | {"target": name, "metric": metric, "n": part["n"], "groups": part["groups"]}
        row |= part["scores"].get(metric, {})
        rows.append(row | {key: b["scores"][metric]["value"] for key, b in part["baselines"].items()})
    return rows or [known]


def _table(frame: DataFrame, plain: bool) -> tuple[Table, list[str]]:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    pooled = frame["fold"].astype(str).str.endswith("folds")
    folds = frame["fold"].notna() & ~pooled
    if pooled.any():  # what is pooled is shown as one; the folds by themselves are in compare.csv
        frame = frame[~folds]
    done = frame[frame["status"] == "finished"]
    same = len(set(done["scored_on"])) <= 1 and len(done[["target", "n"]].drop_duplicates()) == len(set(done["target"]))
    several = same and len(set(done["folder"])) > 1
    targets = list(dict.fromkeys(done["target"].dropna()))
    best = {t: done.loc[done["target"] == t, "value"].max() for t in targets}
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for title in ("run", "backbone", "feature", "task"):
        table.add_column(title, overflow="fold")
    for target in targets:
        here = done[done["target"] == target]
        clips = ", ".join(str(int(n)) for n in sorted(set(here["n"])))
        table.add_column(f"{target}\n{NAMES[here['metric'].iloc[0]]}, n = {clips}", justify="right")
    table.add_column("time", justify="right")

    for _, rows in frame.groupby("folder", sort=False):
        first = rows.iloc[0]
        cells = [
            Text(str(first[key])) if isinstance(first[key], str) else "–" for key in ("backbone", "feature", "task")
        ]
        if first["status"] == "unfinished":
            table.add_row(_title(first), *cells, *["unfinished"] * len(targets), "–" if targets else "unfinished")
            continue
        scores = {row["target"]: row for row in rows.to_dict("records")}
        for target in targets:
            row = _plain(scores.get(target, {}))
            bold = several and row.get("value") == best[target]
            score = span(row) if row else "–"
            cells.append(Text(score + (" *" if bold and plain else ""), style="bold" if bold else ""))
        table.add_row(_title(first), *cells, duration(_plain(dict(first))["seconds"]))
    for key, title in (("linear", "linear model"), ("constant", "majority class / training mean")):
        values = [sorted(set(done.loc[done["target"] == t, key].dropna().round(6))) for t in targets]
        if same and any(values):
            cells = [number(v[0]) if len(v) == 1 else "varies" if v else "undefined" for v in values]
            table.add_row(title, "", "", "", *cells, "", style="" if plain else "dim")
    remarks = [f"Folds are pooled: {folds.sum()} scores of single folds are in compare.csv."] if pooled.any() else []
    remarks += [] if same else ["These runs were not scored on the same clips: their numbers do not compare."]
    if targets and several:
        mark = "marked *" if plain else "bold"
        remarks.append(f"Test, 95 % intervals. The highest value is {mark}; where intervals overlap, that may be luck.")
    return table, remarks


def _title(row: Any) -> Text:
    """A run's name, with its fold."""
    from rich.text import Text

    fold = row["fold"]
    suffix = "" if not isinstance(fold, str) else f", {fold}" if fold.endswith("folds") else f", fold {fold}"
    return Text(row["name"] + suffix)


def _plain(row: dict[Any, Any]) -> dict[Any, Any]:
    """Row of a frame with None for nan."""
    return {key: None if value != value else value for key, value in row.items()}
