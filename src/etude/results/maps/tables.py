"""The tables of the page: what the maps keep, and what neighbours tell, over runs and methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etude.results.maps.chart import Chart
from etude.results.maps.methods import METHODS
from etude.results.maps.read import Run

KEPT = ("trustworthiness", "continuity")


def kept(runs: Sequence[Run], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """By run, rows of a method's title and its numbers: each of KEPT in each number of dimensions."""
    return [
        {
            "run": run.name,
            "rows": [(title, [_kept(c, key) for key in KEPT for c in row]) for title, row in _rows(run, charts)],
        }
        for run in runs
        if not run.problem
    ]


def told(runs: Sequence[Run], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """By target and run, what the full space tells, and rows of what the maps tell.

    Returns:
        For each target: name, kind, the measures that it has, and for each run that knows it `full`, a number for
        each measure, `chance`, and `rows`: a method's title and each measure in each number of dimensions.
    """
    targets = {name: target["kind"] for run in runs for name, target in run.targets.items()}
    found = []
    for name, kind in targets.items():
        measures = ("all", "others", "silhouette") if kind == "label" else ("all", "others")
        table = []
        for run in runs:
            made = [chart for chart in charts if chart.run == run.name and name in chart.full]
            if not made:
                continue
            most = max(made, key=lambda chart: len(chart.drawn)).full[name]
            rows = [
                (title, [_told(c, name, key) for key in measures for c in row]) for title, row in _rows(run, charts)
            ]
            full = [most[key] for key in measures]
            table.append({"run": run.name, "n": most["n"], "chance": most.get("chance"), "full": full, "rows": rows})
        found.append({"name": name, "kind": kind, "measures": measures, "runs": table})
    return found


def _rows(run: Run, charts: Sequence[Chart]) -> list[tuple[str, list[Chart]]]:
    """The charts of a run by method, each in all numbers of dimensions."""
    mine = [chart for chart in charts if chart.run == run.name]
    return [(METHODS[key].title, [c for c in mine if c.method == key]) for key in dict.fromkeys(c.method for c in mine)]


def _kept(chart: Chart, key: str) -> float | None:
    return chart.preserved.get(key)


def _told(chart: Chart, target: str, key: str) -> float | None:
    return chart.told.get(target, {}).get(key)
