"""The tables of the page, runs x methods: what the maps keep, and what neighbours tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etude.results.maps.chart import Chart
from etude.results.maps.read import Run

KEPT = ("trustworthiness", "continuity")
TOLD = {"label": ("all", "others", "silhouette"), "scalar": ("all", "others")}

Numbers = Mapping[str, Any]
Row = tuple[str, float | None, list[float | None]]


def kept(runs: Sequence[Run], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """For each of KEPT its `rows`: name of the run, None, and a number (or None) for each of its maps."""
    return [{"key": key, "rows": _rows(runs, charts, key, lambda chart: (chart.preserved, {}))} for key in KEPT]


def told(runs: Sequence[Run], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """What neighbours tell of each target.

    Returns:
        By target its name, kind, n clips, how many of them clips of other groups are `asked` about, and `measures`;
        the `rows` of these have second what the full space tells. A target that was measured nowhere is not there.
    """
    kinds = {name: target["kind"] for run in runs for name, target in run.targets.items()}
    found = []
    for name, kind in kinds.items():
        measured = [chart.full[name] for chart in charts if name in chart.full]
        if measured:
            most = max(measured, key=lambda full: full["n"])
            measures = [{"key": key, "rows": _told(runs, charts, key, name)} for key in TOLD[kind]]
            found.append({"name": name, "kind": kind, "n": most["n"], "asked": most["asked"], "measures": measures})
    return found


def _told(runs: Sequence[Run], charts: Sequence[Chart], key: str, target: str) -> list[Row]:
    knowing = [run for run in runs if target in run.targets]
    return _rows(knowing, charts, key, lambda chart: (chart.told.get(target, {}), chart.full.get(target, {})))


def _rows(
    runs: Sequence[Run],
    charts: Sequence[Chart],
    key: str,
    numbers: Callable[[Chart], tuple[Numbers, Numbers]],
) -> list[Row]:
    """A row per run; what the full space tells is taken from the map that has most clips."""
    rows = []
    for run in runs:
        mine = [chart for chart in charts if chart.run == run.name]
        most = max(mine, key=lambda chart: len(chart.drawn))
        rows.append((run.name, numbers(most)[1].get(key), [numbers(chart)[0].get(key) for chart in mine]))
    return rows
