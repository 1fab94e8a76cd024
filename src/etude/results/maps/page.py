"""Runs and their maps to a page of one file: plotly.js and the data, once, are inside it.

The script of the page puts every name from the data into the page as text; only plotly's own code is marked as safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etude.results.maps import quality, tables
from etude.results.maps.brief import brief
from etude.results.maps.chart import SHOWN, Chart
from etude.results.maps.methods import METHODS
from etude.results.maps.payload import payload
from etude.results.maps.read import Run
from etude.results.maps.words import Wish
from etude.results.template import template


def render(runs: Sequence[Run], charts: Sequence[Chart], wish: Wish, command: str) -> str:
    """The page as HTML.

    Args:
        runs: What was mapped.
        charts: Every map of every run, or the reason why there is none.
        wish: What was asked for.
        command: What the page says it was made by.
    """
    from plotly.offline import get_plotlyjs

    groups = {run.name: len(set(run.groups().tolist())) for run in runs}
    first = next(run for run in runs if not run.problem)
    about: dict[str, Any] = {
        "methods": {key: METHODS[key] for key in wish.methods},
        "dims": wish.dims,
        "part": {"test": "test", "val": "validation"}[wish.part],
        "seed": wish.seed,
        "neighbours": quality.NEIGHBOURS,
        "brief": brief(runs, charts),
        "shown": SHOWN,
        "clips": len(first.x),
        "groups": groups[first.name] if first.table["group"].notna().any() else 0,
        "same": len({tuple(sorted(run.table["id"])) for run in runs if not run.problem}) < 2,
        "kept": tables.kept(runs, charts),
        "told": tables.told(runs, charts),
        "why": list(dict.fromkeys((chart.run, chart.why) for chart in charts if chart.why)),
    }
    return template("latent.html.j2").render(
        **about, runs=runs, data=payload(runs, charts, wish.seed), plotly=get_plotlyjs(), command=command
    )
