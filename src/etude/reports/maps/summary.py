"""Tables and sentences on the maps of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import number, plural
from etude.reports.maps import quality
from etude.reports.maps.chart import Chart
from etude.reports.maps.embeddings import MappedRun
from etude.reports.maps.projection import METHODS


def brief(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """By run: name, problem, note, clips, dims, `full` by target, `best` in words and `sentences`."""
    return [_run(run, [c for c in charts if c.run == run.name and c.map is not None]) for run in runs]


def _run(run: MappedRun, made: list[Chart]) -> dict[str, Any]:
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


KEPT = ("trustworthiness", "continuity")
TOLD = {"label": ("all", "others", "silhouette"), "scalar": ("all", "others")}

Numbers = Mapping[str, Any]
Row = tuple[str, float | None, list[float | None]]


def kept(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """For each of KEPT its `rows`: name of the run, None, and a number (or None) for each of its maps."""
    return [{"key": key, "rows": _rows(runs, charts, key, lambda chart: (chart.preserved, {}))} for key in KEPT]


def told(runs: Sequence[MappedRun], charts: Sequence[Chart]) -> list[dict[str, Any]]:
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


def _told(runs: Sequence[MappedRun], charts: Sequence[Chart], key: str, target: str) -> list[Row]:
    knowing = [run for run in runs if target in run.targets]
    return _rows(knowing, charts, key, lambda chart: (chart.told.get(target, {}), chart.full.get(target, {})))


def _rows(
    runs: Sequence[MappedRun],
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
