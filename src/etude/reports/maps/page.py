"""Page with the maps of runs.

The script of the page puts every name from the data into the page as text; only plotly's own code is marked as safe.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude.errors import UserError
from etude.evaluation.formatting import format_number
from etude.files import os_errors, ownership
from etude.files.atomic import write_text
from etude.files.progress import track
from etude.reports.html import load_template
from etude.reports.maps import chart, embeddings, quality
from etude.reports.maps.chart import SHOWN, Cache, Chart, make_chart
from etude.reports.maps.embeddings import MappedRun
from etude.reports.maps.projection import METHODS, subset

FULL_SCALE = 30_000
"""The farthest clip from the centre of its map; coordinates are 16-bit integers."""


@dataclass(frozen=True)
class MapOptions:
    """Options of the page with maps.

    Args:
        folders: Run folders.
        to: An existing folder, or one to be made.
        methods: Keys of METHODS.
        dims: 2, 3 or both.
        part: "test" or "val".
        seed: Of everything random.
    """

    folders: list[Path]
    to: Path
    methods: tuple[str, ...] = tuple(METHODS)
    dims: tuple[int, ...] = (2, 3)
    part: str = "test"
    seed: int = 0


def draw_maps(asked: MapOptions, command: str = "") -> Path:
    """Map runs and write latent.html, latent.csv and latent.json.

    Args:
        asked: Which runs, how, and where to.
        command: What the page says it was made by.

    Returns:
        Path of the page.

    Raises:
        UserError: A folder is no run, no map can be made of any, or the folder cannot be written.
    """
    ownership.check_names(asked.to, ("latent.html", "latent.csv", "latent.json"))
    called = embeddings.names(asked.folders)
    runs = [embeddings.read(folder, name, asked.part) for folder, name in zip(asked.folders, called, strict=True)]
    embeddings.agree(runs)
    wanted = [(run, method, dims) for run in runs for method in asked.methods for dims in asked.dims]
    cache: Cache = {}
    made = (make_chart(run, method, dims, asked.seed, cache) for run, method, dims in wanted)
    charts = list(track(made, len(wanted), "latent", "maps"))
    if all(one.map is None for one in charts):
        reasons = dict.fromkeys(f"{one.run}: {one.why}" for one in charts)
        raise UserError("there is nothing to map\n" + "\n".join(reasons))
    html = render(runs, charts, asked, command)
    with os_errors.explain_errors(asked.to, os_errors.FOLDER_REMEDY, f"to={asked.to}"):
        ownership.open_folder(asked.to)
        write_text(asked.to / "latent.csv", chart.coordinates(runs, charts).to_csv(index=False))
        write_text(asked.to / "latent.json", chart.chart_numbers(runs, charts, asked.part, asked.seed))
        return write_text(asked.to / "latent.html", html)


def payload(runs: Sequence[MappedRun], charts: Sequence[Chart], seed: int) -> dict[str, Any]:
    """Return the data of the page as plain values, for JSON.

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
        "maps": [_map(one, rows[one.run]) for one in charts],
    }


def render(runs: Sequence[MappedRun], charts: Sequence[Chart], wish: MapOptions, command: str) -> str:
    """Return the page as HTML.

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
        "brief": chart.run_summaries(runs, charts),
        "shown": SHOWN,
        "clips": len(first.x),
        "groups": groups[first.name] if first.table["group"].notna().any() else 0,
        "same": len({tuple(sorted(run.table["id"])) for run in runs if not run.problem}) < 2,
        "kept": chart.preservation_tables(runs, charts),
        "told": chart.score_tables(runs, charts),
        "why": list(dict.fromkeys((one.run, one.why) for one in charts if one.why)),
    }
    return load_template("latent.html.j2").render(
        **about, runs=runs, data=payload(runs, charts, wish.seed), plotly=get_plotlyjs(), command=command
    )


def _target(name: str, target: dict[str, Any], shown: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    """Return a target with its true values, from any run that has them."""
    true: list[Any] = [None] * len(place)
    for table in shown.values():
        if f"{name}.true" in table:
            for clip, value in zip(table["id"], table[f"{name}.true"], strict=True):
                true[place[clip]] = true[place[clip]] if value is None or value != value else value
    classes = list(target.get("classes", []))
    ends = {key: target.get(key) for key in ("low", "high")}
    return {"name": name, "kind": target["kind"], "classes": classes, **ends, "true": _values(true, classes)}


def _values(values: Sequence[Any], classes: Sequence[str]) -> list[float | int | None]:
    """Return class numbers, or numbers of four decimals; None where there is none."""
    index = {name: i for i, name in enumerate(classes)}
    known = [None if value is None or value != value else value for value in values]
    if classes:
        return [None if value is None else index.get(value) for value in known]
    return [None if value is None else round(float(value), 4) for value in known]


def _map(shown: Chart, rows: np.ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"run": shown.run, "method": shown.method, "dims": shown.dims, "why": shown.why}
    if shown.map is None:
        return entry
    drawn = shown.map.rows[shown.drawn]
    at = shown.map.at[shown.drawn]
    at = at - at.mean(0)
    whole = np.round(at * (FULL_SCALE / (np.abs(at).max() or 1.0))).astype("<i2")
    return entry | {
        "of": np.searchsorted(rows, drawn).tolist() if len(drawn) < len(rows) else None,
        "ratio": (np.maximum(np.ptp(at, axis=0), 1e-9) / max(np.ptp(at, axis=0).max(), 1e-9)).round(3).tolist(),
        "at": [{"dtype": "i2", "bdata": base64.b64encode(axis.tobytes()).decode()} for axis in whole.T],
        "note": shown.map.note,
        "numbers": _numbers(shown),
    }


def _numbers(shown: Chart) -> list[list[str]]:
    """Return rows of the table beside a map: name, value in the map, value in the full space."""
    rows = [[key.capitalize(), format_number(value), ""] for key, value in shown.preserved.items()]
    for name, here in shown.scores.items():
        full = shown.full[name]
        score = "accuracy" if here["kind"] == "label" else "Spearman ρ"
        k = quality.NEIGHBOURS
        titles = {"all": f"{name} by {k} nearest, {score}", "others": f"{name} by {k} nearest of other groups, {score}"}
        titles |= {"silhouette": f"{name}, silhouette"} if here["kind"] == "label" else {}
        rows += [[title, format_number(here[key]), format_number(full[key])] for key, title in titles.items()]
    return rows
