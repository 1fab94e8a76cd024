"""What the script of the page reads: every clip, truth and prediction once, and the coordinates of each map."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from etude.results.maps import quality
from etude.results.maps.chart import SHOWN, Chart
from etude.results.maps.methods import METHODS
from etude.results.maps.project import subset
from etude.results.maps.read import Run
from etude.results.text import number

FULL_SCALE = 30_000
"""The farthest clip from the centre of its map; coordinates are 16-bit integers."""


def payload(runs: Sequence[Run], charts: Sequence[Chart], seed: int) -> dict[str, Any]:
    """Plain lists and texts, for JSON.

    Returns:
        clips: ids; groups: the name of each clip's group or None; targets: name, kind, classes, and the truth of each
        clip, a class number or a number or None; runs: name, which clips, predictions by target in their order; maps.
    """
    rows = {run.name: subset(len(run.x), SHOWN, seed) for run in runs}
    shown = {run.name: run.table.iloc[rows[run.name]] for run in runs}
    place: dict[str, int] = {}
    for table in shown.values():
        for clip in table["id"]:
            place.setdefault(clip, len(place))
    groups: list[str | None] = [None] * len(place)
    for table in shown.values():
        for clip, group in zip(table["id"], table["group"], strict=True):
            groups[place[clip]] = None if group is None or group != group else str(group)
    targets = {name: dict(target) for run in reversed(runs) for name, target in run.targets.items()}
    targets = {name: targets[name] for run in runs for name in run.targets}
    about = [_target(name, target, shown, place) for name, target in targets.items()]
    classes = {target["name"]: target["classes"] for target in about}
    return {
        "clips": list(place),
        "groups": groups,
        "targets": about,
        "methods": [{"key": key, "title": method.title, "caution": method.caution} for key, method in METHODS.items()],
        "runs": [
            {
                "name": run.name,
                "clips": [place[clip] for clip in shown[run.name]["id"]],
                "predicted": {
                    name: _values(shown[run.name][f"{name}.pred"].tolist(), classes[name]) for name in run.targets
                },
            }
            for run in runs
        ],
        "maps": [_map(chart, rows[chart.run]) for chart in charts],
    }


def _target(name: str, target: dict[str, Any], shown: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    """A target with what is known of it, from whichever run knows it."""
    true: list[Any] = [None] * len(place)
    for table in shown.values():
        if f"{name}.true" in table:
            for clip, value in zip(table["id"], table[f"{name}.true"], strict=True):
                true[place[clip]] = true[place[clip]] if value is None or value != value else value
    classes = list(target.get("classes", []))
    ends = {key: target.get(key) for key in ("low", "high")}
    return {"name": name, "kind": target["kind"], "classes": classes, **ends, "true": _values(true, classes)}


def _values(values: Sequence[Any], classes: Sequence[str]) -> list[float | int | None]:
    """Class numbers, or numbers of four decimals; None where there is none."""
    index = {name: i for i, name in enumerate(classes)}
    known = [None if value is None or value != value else value for value in values]
    if classes:
        return [None if value is None else index.get(value) for value in known]
    return [None if value is None else round(float(value), 4) for value in known]


def _map(chart: Chart, rows: np.ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"run": chart.run, "method": chart.method, "dims": chart.dims, "why": chart.why}
    if chart.map is None:
        return entry
    drawn = chart.map.rows[chart.drawn]
    at = chart.map.at[chart.drawn]
    at = at - at.mean(0)
    whole = np.round(at * (FULL_SCALE / (np.abs(at).max() or 1.0))).astype("<i2")
    return entry | {
        "of": np.searchsorted(rows, drawn).tolist() if len(drawn) < len(rows) else None,
        "ratio": (np.maximum(np.ptp(at, axis=0), 1e-9) / max(np.ptp(at, axis=0).max(), 1e-9)).round(3).tolist(),
        "at": [{"dtype": "i2", "bdata": base64.b64encode(axis.tobytes()).decode()} for axis in whole.T],
        "note": chart.map.note,
        "numbers": _numbers(chart),
    }


def _numbers(chart: Chart) -> list[list[str]]:
    """Rows of the table beside a map: what, in the map, in the full space."""
    rows = [[key.capitalize(), number(value), ""] for key, value in chart.preserved.items()]
    for name, here in chart.told.items():
        full = chart.full[name]
        score = "accuracy" if here["kind"] == "label" else "Spearman ρ"
        k = quality.NEIGHBOURS
        titles = {"all": f"{name} by {k} nearest, {score}", "others": f"{name} by {k} nearest of other groups, {score}"}
        titles |= {"silhouette": f"{name}, silhouette"} if here["kind"] == "label" else {}
        rows += [[title, number(here[key]), number(full[key])] for key, title in titles.items()]
    return rows
