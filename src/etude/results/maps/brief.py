"""What the neighbours and the maps say, in a sentence or two for each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etude.results.bootstrap import FEW_GROUPS
from etude.results.maps import quality
from etude.results.maps.chart import Chart
from etude.results.maps.methods import METHODS
from etude.results.maps.read import Run
from etude.results.text import number, plural


def brief(runs: Sequence[Run], charts: Sequence[Chart]) -> list[tuple[str, list[str]]]:
    """Name and sentences of each run; of one without maps, why."""
    return [(run.name, [run.problem] if run.problem else _sentences(run, charts)) for run in runs]


def _sentences(run: Run, charts: Sequence[Chart]) -> list[str]:
    made = [chart for chart in charts if chart.run == run.name and chart.map is not None]
    about = f"{plural(len(run.x), 'clip')}, {plural(run.x.shape[1], 'dimension')}."
    if not made:
        return [f"{about} {run.note}".strip(), "No map could be made of it."]
    most = max(made, key=lambda chart: len(chart.drawn))
    known = bool(run.table["group"].notna().any())
    sentences = [f"{about} {run.note}".strip(), *(_target(name, full, known) for name, full in most.full.items())]
    scored = [chart for chart in made if chart.preserved["trustworthiness"] is not None]
    if scored:
        best = max(scored, key=lambda chart: min(chart.preserved.values(), key=float))  # type: ignore[arg-type]
        sentences.append(
            f"The map that keeps neighbourhoods best is {METHODS[best.method].title} in {best.dims}-D: trustworthiness "
            f"{number(best.preserved['trustworthiness'])}, continuity {number(best.preserved['continuity'])}."
        )
    count = len(set(run.groups().tolist()))
    if known and 1 < count < FEW_GROUPS:
        sentences.append(f"With {count} groups, what clips of other groups tell is rough.")
    return sentences


def _target(name: str, full: dict[str, Any], known: bool) -> str:
    """What neighbours in the full space tell of a target."""
    if full["all"] is None:
        return f"{name}: {plural(full['n'], 'clip')} with a truth, which is too few, or all of one value."
    k = min(quality.NEIGHBOURS, full["n"] - 1)
    label = full["kind"] == "label"
    what = "the accuracy" if label else "Spearman’s ρ"
    said = f"{name} by the {k} nearest clips in the full space: {what} is {number(full['all'])}"
    if known:
        others = "undefined, for there is one group alone" if full["others"] is None else number(full["others"])
        said += f" from all other clips, and from those of other groups {others}"
    return said + (f"; the most frequent class alone gives {number(full['chance'])}." if label else ".")
