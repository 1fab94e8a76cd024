"""Maps of runs with their numbers, and the tables and sentences on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import format_count, format_number
from etude.reports.maps import quality
from etude.reports.maps.embeddings import MappedRun
from etude.reports.maps.projection import METHODS, Projection, ProjectionError, project, subset

if TYPE_CHECKING:
    import pandas as pd


SHOWN = 2000
"""Clips that a page draws and measures; more are a blot on the screen, and distances of all pairs."""
AXES = ("x", "y", "z")
KEPT = ("trustworthiness", "continuity")
SCORES = {"label": ("all", "others", "silhouette"), "scalar": ("all", "others")}

Cache = dict[tuple[str, int], dict[str, dict[str, Any]]]
Numbers = Mapping[str, Any]
TableRow = tuple[str, float | None, list[float | None]]


@dataclass(frozen=True)
class Chart:
    """Map of a run with its numbers.

    Args:
        run: Name of the run.
        method: Key of METHODS.
        dims: 2 or 3.
        map: The projection; None when there is none.
        why: Why there is none.
        drawn: Positions in the map of the clips that are drawn and measured (s,).
        preserved: Trustworthiness and continuity.
        scores: Scores of neighbours in the map, by target.
        full: Scores of neighbours in the full space, of the same clips.
    """

    run: str
    method: str
    dims: int
    map: Projection | None
    why: str
    drawn: np.ndarray
    preserved: dict[str, float | None]
    scores: dict[str, dict[str, Any]]
    full: dict[str, dict[str, Any]]


def make_chart(run: MappedRun, method: str, dims: int, seed: int, cache: Cache) -> Chart:
    """Project the embeddings of a run, and measure the map.

    Args:
        run: With embeddings, or the problem for which it has none.
        method: A key of METHODS.
        dims: 2 or 3.
        seed: Of the method, and of the subset of many clips that is drawn.
        cache: Scores of neighbours in the full space, by run and number of clips; it is filled here.
    """
    try:
        if run.problem:
            raise ProjectionError(run.problem)
        made = project(run.x, method, dims, seed)
    except ProjectionError as error:
        return Chart(run.name, method, dims, None, str(error), np.arange(0), {}, {}, {})
    rows = subset(len(run.x), min(SHOWN, len(made.rows)), seed)
    drawn = np.searchsorted(made.rows, rows)  # smaller subsets of a seed lie within larger ones
    x, at, groups = run.x[rows], made.at[drawn], run.groups()[rows]
    truths = {name: (kind, true[rows]) for name, (kind, true) in run.truths().items()}
    key = (run.name, len(rows))
    if key not in cache:
        cache[key] = quality.neighbour_scores(x, groups, truths)
    preserved = quality.neighbourhood_preservation(x, at)
    scores = quality.neighbour_scores(at, groups, truths)
    return Chart(run.name, method, dims, made, "", drawn, preserved, scores, cache[key])


def coordinates(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> pd.DataFrame:
    """Return every clip in every map: columns run, method, dims, id, x, y, z; z is nan in the plane."""
    import pandas as pd

    by_name = {run.name: run for run in runs}
    parts = []
    for chart in charts:
        if chart.map is not None:
            part = pd.DataFrame({"run": chart.run, "method": chart.method, "dims": chart.dims}, index=chart.map.rows)
            part["id"] = by_name[chart.run].table["id"].iloc[chart.map.rows]
            parts.append(part.assign(**dict(zip(AXES, chart.map.at.T, strict=False))))
    return pd.concat(parts, ignore_index=True).reindex(columns=["run", "method", "dims", "id", *AXES])


def chart_numbers(runs: Sequence[MappedRun], charts: Sequence[Chart], part: str, seed: int) -> str:
    """Return the numbers of each map as JSON: None where a number is undefined, `why` where there is no map."""
    about = [{"name": run.name, "clips": len(run.x), "dims": run.x.shape[1], "problem": run.problem} for run in runs]
    maps = [_entry(chart) for chart in charts]
    whole = {"version": 1, "part": part, "seed": seed, "neighbours": quality.NEIGHBOURS, "runs": about, "maps": maps}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def run_summaries(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """Return of each run name, problem, note, clips, dims, `full` by target, `best` as text and `sentences`."""
    return [_summary(run, [c for c in charts if c.run == run.name and c.map is not None]) for run in runs]


def preservation_tables(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """Return for each of KEPT its `rows`: name of the run, None, and a number (or None) for each of its maps."""
    return [{"key": key, "rows": _rows(runs, charts, key, lambda chart: (chart.preserved, {}))} for key in KEPT]


def score_tables(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """Return the scores of neighbours for each target.

    Returns:
        By target its name, kind, n clips, how many of them are `asked` in the score of other groups, and `measures`,
        whose `rows` have second the score in the full space. A target that was measured nowhere is left out.
    """
    kinds = {name: target["kind"] for run in runs for name, target in run.targets.items()}
    found = []
    for name, kind in kinds.items():
        measured = [chart.full[name] for chart in charts if name in chart.full]
        if measured:
            most = max(measured, key=lambda full: full["n"])
            measures = [{"key": key, "rows": _score_rows(runs, charts, key, name)} for key in SCORES[kind]]
            found.append({"name": name, "kind": kind, "n": most["n"], "asked": most["asked"], "measures": measures})
    return found


def _entry(chart: Chart) -> dict[str, Any]:
    entry: dict[str, Any] = {"run": chart.run, "method": chart.method, "dims": chart.dims}
    if chart.map is None:
        return entry | {"why": chart.why}
    entry |= {"clips": len(chart.map.rows), "measured": len(chart.drawn), "note": chart.map.note, **chart.preserved}
    return entry | {"targets": {name: {"map": chart.scores[name], "full": chart.full[name]} for name in chart.scores}}


def _summary(run: MappedRun, made: list[Chart]) -> dict[str, Any]:
    full = max(made, key=lambda chart: len(chart.drawn)).full if made else {}
    best = max(made, key=_worst) if made else None
    row: dict[str, Any] = {"name": run.name, "problem": run.problem, "note": run.note, "full": full}
    row |= {"clips": len(run.x), "dims": run.x.shape[1]}
    row["best"] = f"{METHODS[best.method].title} in {best.dims}-D" if best and _worst(best) > 0 else ""
    if run.problem:
        return row | {"sentences": [run.problem]}
    known = bool(run.table["group"].notna().any())
    sentences = [f"{format_count(len(run.x), 'clip')}, {format_count(run.x.shape[1], 'dimension')}."]
    sentences += [run.note] if run.note else []
    sentences += [_score_sentence(name, score, known) for name, score in full.items()]
    if best and row["best"]:
        trust, continuity = (format_number(best.preserved[key]) for key in ("trustworthiness", "continuity"))
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
    """Return the lower of trustworthiness and continuity; 0 where they are not known."""
    return min(value or 0.0 for value in chart.preserved.values())


def _score_sentence(name: str, full: dict[str, Any], known: bool) -> str:
    """Return a sentence on the scores of neighbours in the full space for a target."""
    if full["all"] is None:
        return (
            f"Of {name} nothing can be told: {format_count(full['n'], 'clip')} with a truth are too few, or all alike."
        )
    label = full["kind"] == "label"
    k = min(quality.NEIGHBOURS, full["n"] - 1)
    what = "an accuracy" if label else "a Spearman’s ρ"
    sentence = f"The {k} nearest clips tell {name} with {what} of {format_number(full['all'])}"
    if known and full["others"] is not None:
        sentence += f", those of other groups with {format_number(full['others'])}"
        if full["asked"] < full["n"]:
            sentence += f" (of the {format_count(full['asked'], 'clip')} whose class another group has)"
    elif known:
        sentence += (
            "; other groups cannot tell it, for no class is in two of them" if label else "; there is one group alone"
        )
    return sentence + (f". The most frequent class alone gives {format_number(full['chance'])}." if label else ".")


def _score_rows(runs: Sequence[MappedRun], charts: Sequence[Chart], key: str, target: str) -> list[TableRow]:
    known = [run for run in runs if target in run.targets]
    return _rows(known, charts, key, lambda chart: (chart.scores.get(target, {}), chart.full.get(target, {})))


def _rows(
    runs: Sequence[MappedRun],
    charts: Sequence[Chart],
    key: str,
    numbers: Callable[[Chart], tuple[Numbers, Numbers]],
) -> list[TableRow]:
    """Return a row per run; the score in the full space is that of the map with most clips."""
    rows = []
    for run in runs:
        mine = [chart for chart in charts if chart.run == run.name]
        most = max(mine, key=lambda chart: len(chart.drawn))
        rows.append((run.name, numbers(most)[1].get(key), [numbers(chart)[0].get(key) for chart in mine]))
    return rows
