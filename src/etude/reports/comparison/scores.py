"""The scores of runs as one tidy table: a row per run, target, metric and class, with the baselines beside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.metrics import PRIMARY
from etude.reports.comparison.axes import NAMED, value
from etude.reports.comparison.runs import ComparedRun, read
from etude.runs.folder import find_runs

if TYPE_CHECKING:
    from pandas import DataFrame


COLUMNS = [
    *("name", "folder", "status", "backbone", "feature", "head", "task", "setting", "transfer", "pretrained", "data"),
    *("seed", "fold", "part", "target", "class", "metric", "value", "low", "high", "constant", "linear"),
    *("n", "groups", "seconds", "scored_on"),
]
AVERAGES = {"macro": "macro mean", "micro": "micro mean (accuracy)", "weighted": "weighted mean"}
"""The last rows of a table per class."""


def collect(folders: str | Path | Sequence[str | Path], part: str = "test") -> DataFrame:
    """Read the leading scores of runs.

    Args:
        folders: Run folders, or folders that hold some (a sweep).
        part: test or val.

    Returns:
        One row per run and target, columns COLUMNS: the target's leading metric, its value and interval, what the
        constant (majority class or training mean) and the linear model reach, n clips in how many groups, seconds of
        the whole run. A run without scores is one row with its status and nothing else known of its results.
    """
    return tidy(gather(folders), part)


def gather(folders: str | Path | Sequence[str | Path]) -> list[ComparedRun]:
    """Read all runs at or below some folders, each once."""
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    runs = {run.resolve(): run for path in paths for run in find_runs(path)}
    return [read(run) for run in runs.values()]


def tidy(
    runs: Sequence[ComparedRun], part: str = "test", metrics: Sequence[str] = (), classes: bool = False
) -> DataFrame:
    """The scores of runs on one part, columns COLUMNS.

    Args:
        runs: Runs in any state.
        part: test or val.
        metrics: Metrics to list; none lists the one that leads each target.
        classes: Scores per class, and the means over classes, in place of scores of all clips.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    known: dict[str, Any]
    for run in runs:
        known = {axis: here for axis, ask in NAMED.items() if (here := ask(run)) not in (None, "")}
        known |= {"name": run.name, "folder": str(run.folder), "status": run.status, "part": part}
        if run.status == "finished":
            known |= {"seconds": run.seconds, "scored_on": run.scored_on}
        found = [known | row for row in _rows(run, part, metrics, classes)]
        rows += found or [known]
    return pd.DataFrame(rows, columns=COLUMNS)


def number(value: Any) -> float | None:
    """A value of a frame as a float, None for what is not there or not finite."""
    return None if value is None or isinstance(value, str) or not math.isfinite(value) else float(value)


def extremes(runs: Sequence[ComparedRun], target: str) -> list[ComparedRun]:
    """Return the best run of each backbone, the best of them first, and the worst of all runs, by the validation split.

    Args:
        runs: Runs in any state; those without a validation score of the target, and pooled ones, are left out.
        target: Name of a target.
    """
    scores = {
        run.folder: score for run in runs if not run.pooled and (score := _validation_score(run, target)) is not None
    }
    ranked = sorted((run for run in runs if run.folder in scores), key=lambda run: -scores[run.folder])
    best = {value(run, "backbone"): run for run in reversed(ranked)}  # the last one that is entered stays
    chosen = [run for run in ranked if run in best.values()] + ranked[-1:]
    return list({run.folder: run for run in chosen}.values())


def _rows(run: ComparedRun, part: str, metrics: Sequence[str], classes: bool) -> Iterator[dict[str, Any]]:
    for name, target in run.metrics.items():
        here = target["splits"].get(part, {})
        about = {"target": name, "n": here.get("n"), "groups": here.get("groups")}
        if classes:
            yield from (about | row for row in _per_class(here, metrics or ("f1",)))
            continue
        leading = target.get("primary") or PRIMARY[target["kind"]]
        for metric in metrics or (leading,):
            score = here.get("scores", {}).get(metric)
            if score is None and metrics:
                continue  # the other kind of target has this one
            others = {
                key: baseline.get("scores", {}).get(metric, {}).get("value")
                for key, baseline in here.get("baselines", {}).items()
            }
            yield about | {"metric": metric} | (score or {}) | others


def _per_class(part: dict[str, Any], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    for row in part.get("per_class", []):
        for metric in metrics:
            if metric in row:
                support = {"n": row.get("support"), "groups": row.get("groups")}
                yield {"class": row["class"], "metric": metric, "value": row[metric]} | support
    for average, title in AVERAGES.items():
        for metric in metrics:
            if part.get("per_class") and (score := part["scores"].get(f"{average}_{metric}")):
                yield {"class": title, "metric": metric} | score


def _validation_score(run: ComparedRun, target: str) -> float | None:
    """Return the leading score of a target on the validation split."""
    stored = run.metrics.get(target, {})
    leading = stored.get("primary") or PRIMARY.get(stored.get("kind"), "")
    return stored.get("splits", {}).get("val", {}).get("scores", {}).get(leading, {}).get("value")
