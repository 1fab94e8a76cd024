"""One map of one run, and the files beside the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.reports.maps import quality
from etude.reports.maps.embeddings import MappedRun
from etude.reports.maps.projection import Map, NoMap, project, subset

if TYPE_CHECKING:
    import pandas as pd


SHOWN = 2000
"""Clips that a page draws and measures; more are a blot on the screen, and distances of all pairs."""

Cache = dict[tuple[str, int], dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Chart:
    """A map with its numbers.

    Args:
        run: Name of the run.
        method: Key of METHODS.
        dims: 2 or 3.
        map: None when there is none.
        why: The reason for that.
        drawn: Positions in the map of the clips that are drawn and measured (s,).
        preserved: Trustworthiness and continuity.
        told: What neighbours in the map tell of each target.
        full: What neighbours in the full space tell, of the same clips.
    """

    run: str
    method: str
    dims: int
    map: Map | None
    why: str
    drawn: np.ndarray
    preserved: dict[str, float | None]
    told: dict[str, dict[str, Any]]
    full: dict[str, dict[str, Any]]


def make_chart(run: MappedRun, method: str, dims: int, seed: int, cache: Cache) -> Chart:
    """Make a map and measure it.

    Args:
        run: With embeddings, or the problem for which it has none.
        method: A key of METHODS.
        dims: 2 or 3.
        seed: Of the method, and of the subset of many clips that is drawn.
        cache: What neighbours in the full space tell, by run and number of clips; it is filled here.
    """
    try:
        if run.problem:
            raise NoMap(run.problem)
        made = project(run.x, method, dims, seed)
    except NoMap as error:
        return Chart(run.name, method, dims, None, str(error), np.arange(0), {}, {}, {})
    rows = subset(len(run.x), min(SHOWN, len(made.rows)), seed)
    drawn = np.searchsorted(made.rows, rows)  # smaller subsets of a seed lie within larger ones
    x, at, groups = run.x[rows], made.at[drawn], run.groups()[rows]
    truths = {name: (kind, true[rows]) for name, (kind, true) in run.truths().items()}
    key = (run.name, len(rows))
    if key not in cache:
        cache[key] = quality.told(x, groups, truths)
    preserved = quality.preserved(x, at)
    return Chart(run.name, method, dims, made, "", drawn, preserved, quality.told(at, groups, truths), cache[key])


AXES = ("x", "y", "z")


def coordinates(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> pd.DataFrame:
    """Every clip in every map: columns run, method, dims, id, x, y, z; z is nan in the plane."""
    import pandas as pd

    by_name = {run.name: run for run in runs}
    parts = []
    for chart in charts:
        if chart.map is not None:
            part = pd.DataFrame({"run": chart.run, "method": chart.method, "dims": chart.dims}, index=chart.map.rows)
            part["id"] = by_name[chart.run].table["id"].iloc[chart.map.rows]
            parts.append(part.assign(**dict(zip(AXES, chart.map.at.T, strict=False))))
    return pd.concat(parts, ignore_index=True).reindex(columns=["run", "method", "dims", "id", *AXES])


def numbers(runs: Sequence[MappedRun], charts: Sequence[Chart], part: str, seed: int) -> str:
    """The numbers of each map as JSON: None where a number is undefined, `why` where there is no map."""
    about = [{"name": run.name, "clips": len(run.x), "dims": run.x.shape[1], "problem": run.problem} for run in runs]
    maps = [_entry(chart) for chart in charts]
    whole = {"version": 1, "part": part, "seed": seed, "neighbours": quality.NEIGHBOURS, "runs": about, "maps": maps}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _entry(chart: Chart) -> dict[str, Any]:
    entry: dict[str, Any] = {"run": chart.run, "method": chart.method, "dims": chart.dims}
    if chart.map is None:
        return entry | {"why": chart.why}
    entry |= {"clips": len(chart.map.rows), "measured": len(chart.drawn), "note": chart.map.note, **chart.preserved}
    return entry | {"targets": {name: {"map": chart.told[name], "full": chart.full[name]} for name in chart.told}}
