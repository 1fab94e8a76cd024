"""What lies beside the page: latent.csv, a row per clip and map, and latent.json, the numbers of each map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etude.results.maps import quality
from etude.results.maps.chart import Chart
from etude.results.maps.read import Run

if TYPE_CHECKING:
    import pandas as pd

AXES = ("x", "y", "z")


def coordinates(runs: Sequence[Run], charts: Sequence[Chart]) -> pd.DataFrame:
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


def numbers(runs: Sequence[Run], charts: Sequence[Chart], part: str, seed: int) -> str:
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
