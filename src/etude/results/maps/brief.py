"""What the full space tells, and which map is the truest: a sentence for one run, a row of a table for several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etude.results.bootstrap import FEW_GROUPS
from etude.results.maps import quality
from etude.results.maps.chart import Chart
from etude.results.maps.methods import METHODS
from etude.results.maps.read import Run
from etude.results.text import number, plural


def brief(runs: Sequence[Run], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """By run: name, problem, note, clips, dims, `full` by target, `best` in words and `sentences`."""
    return [_run(run, [c for c in charts if c.run == run.name and c.map is not None]) for run in runs]


def _run(run: Run, made: list[Chart]) -> dict[str, Any]:
    full = max(made, key=lambda chart: len(chart.drawn)).full if made else {}
    best = max(made, key=_worst) if made else None
    row: dict[str, Any] = {"name": run.name, "problem": run.problem, "note": run.note, "full": full}
    row |= {"clips": len(run.x), "dims": run.x.shape[1]}
    row["best"] = f"{METHODS[best.method].title} in {best.dims}-D" if best and _worst(best) > 0 else ""
    if run.problem:
        return row | {"sentences": [run.problem]}
    known = bool(run.table["group"].notna().any())
    sentences = [f"{plural(len(run.x), 'clip')}, {plural(run.x.shape[1], 'dimension')}."]
    sentences += [run.note] if run.note else []
    sentences += [_target(name, told, known) for name, told in full.items()]
    if best and row["best"]:
        trust, continuity = (number(best.preserved[key]) for key in ("trustworthiness", "continuity"))
        sentences.append(
            f"{row['best']} keeps neighbourhoods best of the maps: trustworthiness {trust}, continuity {continuity}."
        )
    elif not made:
        sentences.append("No map could be made of them.")
    count = len(set(run.groups().tolist()))
    if known and 1 < count < FEW_GROUPS:
        sentences.append(f"What clips of other groups tell is rough with {count} groups.")
    return row | {"sentences": sentences}


def _worst(chart: Chart) -> float:
    """The lower of trustworthiness and continuity; 0 where they are not known."""
    return min(value or 0.0 for value in chart.preserved.values())


def _target(name: str, full: dict[str, Any], known: bool) -> str:
    """What neighbours in the full space tell of a target."""
    if full["all"] is None:
        return f"Of {name} nothing can be told: {plural(full['n'], 'clip')} with a truth are too few, or all alike."
    label = full["kind"] == "label"
    k = min(quality.NEIGHBOURS, full["n"] - 1)
    what = "an accuracy" if label else "a Spearman’s ρ"
    said = f"The {k} nearest clips tell {name} with {what} of {number(full['all'])}"
    if known and full["others"] is not None:
        said += f", those of other groups with {number(full['others'])}"
        if full["asked"] < full["n"]:
            said += f" (of the {plural(full['asked'], 'clip')} whose class another group has)"
    elif known:
        said += (
            "; other groups cannot tell it, for no class is in two of them" if label else "; there is one group alone"
        )
    return said + (f". The most frequent class alone gives {number(full['chance'])}." if label else ".")
