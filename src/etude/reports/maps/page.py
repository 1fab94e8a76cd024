"""HTML page with the embedding maps of runs.

The script of the page inserts every name from the data as text. Only the code of plotly is marked as safe.
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
from etude.reports.html import load_template
from etude.reports.maps import embedding_map, embeddings
from etude.reports.maps.embedding_map import MOST_SHOWN, EmbeddingMap, ScoreCache, make_map
from etude.reports.maps.embeddings import MappedRun
from etude.reports.maps.projection import METHODS, subset
from etude.system.streams import track

FULL_SCALE = 30_000
"""Largest coordinate on the page, where coordinates are 16-bit integers."""


@dataclass(frozen=True)
class MapOptions:
    """Options of the page with embedding maps.

    Args:
        folders: Run folders.
        out: Folder of the files, which is created if it does not exist.
        methods: Keys of METHODS.
        dims: 2, 3 or both.
        split: "test" or "val".
        seed: Seed of the methods and of random subsets.
    """

    folders: list[Path]
    out: Path
    methods: tuple[str, ...] = tuple(METHODS)
    dims: tuple[int, ...] = (2, 3)
    split: str = "test"
    seed: int = 0


def draw_maps(options: MapOptions, command: str = "") -> Path:
    """Compute the embedding maps of runs and write maps.html, maps.csv and maps.json.

    Args:
        options: Runs, methods and output folder.
        command: Command that the page shows.

    Returns:
        Path of the page.

    Raises:
        UserError: A folder is not a run folder, no map can be computed, or the output folder cannot be written.
    """
    folder = options.out
    ownership.check_names(folder, ("maps.html", "maps.csv", "maps.json"))
    names = embeddings.run_names(options.folders)
    runs = [
        embeddings.read_mapped_run(run, name, options.split) for run, name in zip(options.folders, names, strict=True)
    ]
    embeddings.check_agreement(runs)
    jobs = [(run, method, dims) for run in runs for method in options.methods for dims in options.dims]
    cache: ScoreCache = {}
    computed = (make_map(run, method, dims, options.seed, cache) for run, method, dims in jobs)
    maps = list(track(computed, len(jobs), "Maps", "maps"))
    if all(entry.projection is None for entry in maps):
        problems = dict.fromkeys(f"{entry.run}: {entry.problem}" for entry in maps)
        raise UserError("no map can be computed\n" + "\n".join(problems))
    html = render_page(runs, maps, options, command)
    with os_errors.explain_errors(folder, os_errors.FOLDER_REMEDY, f"--out {folder}"):
        ownership.open_folder(folder)
        write_text(folder / "maps.csv", embedding_map.coordinate_frame(runs, maps).to_csv(index=False))
        write_text(folder / "maps.json", embedding_map.quality_json(runs, maps, options.split, options.seed))
        return write_text(folder / "maps.html", html)


def page_data(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap], seed: int) -> dict[str, Any]:
    """Return the data of the page's script, which can be encoded as JSON.

    Returns:
        - `clips`: ids of the clips
        - `groups`: name of each clip's group, or None
        - `targets`: name, kind, classes, and the true value of each clip as a class index, a number or None
        - `methods`
        - `runs`: name, indices of the run's clips, and predictions of these clips by target
        - `maps`
    """
    rows = {run.name: subset(len(run.x), MOST_SHOWN, seed) for run in runs}
    shown = {run.name: run.table.iloc[rows[run.name]] for run in runs}
    index: dict[str, int] = {}
    for table in shown.values():
        for clip in table["id"]:
            index.setdefault(clip, len(index))
    groups: list[str | None] = [None] * len(index)
    for table in shown.values():
        for clip, group in zip(table["id"], table["group"], strict=True):
            groups[index[clip]] = None if group is None or group != group else str(group)
    specs = {name: dict(target) for run in reversed(runs) for name, target in run.targets.items()}
    specs = {name: specs[name] for run in runs for name in run.targets}
    targets = [_target_data(name, spec, shown, index) for name, spec in specs.items()]
    classes = {target["name"]: target["classes"] for target in targets}
    return {
        "clips": list(index),
        "groups": groups,
        "targets": targets,
        "methods": [{"key": key, "title": method.title, "caution": method.caution} for key, method in METHODS.items()],
        "runs": [
            {
                "name": run.name,
                "clips": [index[clip] for clip in shown[run.name]["id"]],
                "predicted": {
                    name: _encode_values(shown[run.name][f"{name}.pred"].tolist(), classes[name])
                    for name in run.targets
                },
            }
            for run in runs
        ],
        "maps": [_map_data(entry, rows[entry.run]) for entry in maps],
    }


def render_page(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap], options: MapOptions, command: str) -> str:
    """Return the page as HTML.

    Args:
        runs: Runs of the maps.
        maps: All maps of all runs, including those with a problem.
        options: Options of the page.
        command: Command that the page shows.
    """
    from plotly.offline import get_plotlyjs

    first = next(run for run in runs if not run.problem)
    content: dict[str, Any] = {
        "methods": {key: METHODS[key] for key in options.methods},
        "dims": options.dims,
        "split": {"test": "test", "val": "validation"}[options.split],
        "seed": options.seed,
        "neighbours": embeddings.NEIGHBOURS,
        "summaries": embedding_map.run_summaries(runs, maps),
        "most_shown": MOST_SHOWN,
        "clips": len(first.x),
        "groups": len(set(first.groups().tolist())) if first.table["group"].notna().any() else 0,
        "same_clips": len({tuple(sorted(run.table["id"])) for run in runs if not run.problem}) < 2,
        "preservation_tables": embedding_map.preservation_tables(runs, maps),
        "scored_targets": embedding_map.score_tables(runs, maps),
        "problems": list(dict.fromkeys((entry.run, entry.problem) for entry in maps if entry.problem)),
    }
    return load_template("maps.html.j2").render(
        **content, runs=runs, data=page_data(runs, maps, options.seed), plotly=get_plotlyjs(), command=command
    )


def _target_data(name: str, target: dict[str, Any], shown: dict[str, Any], index: dict[str, int]) -> dict[str, Any]:
    """Return a target with the true values of all clips. A value is taken from any run that has it."""
    true: list[Any] = [None] * len(index)
    for table in shown.values():
        if f"{name}.true" in table:
            for clip, value in zip(table["id"], table[f"{name}.true"], strict=True):
                true[index[clip]] = true[index[clip]] if value is None or value != value else value
    classes = list(target.get("classes", []))
    limits = {key: target.get(key) for key in ("low", "high")}
    return {"name": name, "kind": target["kind"], "classes": classes, **limits, "true": _encode_values(true, classes)}


def _encode_values(values: Sequence[Any], classes: Sequence[str]) -> list[float | int | None]:
    """Return class indices, or numbers rounded to four decimals. A missing value is None."""
    index = {name: i for i, name in enumerate(classes)}
    known = [None if value is None or value != value else value for value in values]
    if classes:
        return [None if value is None else index.get(value) for value in known]
    return [None if value is None else round(float(value), 4) for value in known]


def _map_data(entry: EmbeddingMap, rows: np.ndarray) -> dict[str, Any]:
    """Return a map for the page's script.

    Args:
        entry: The map.
        rows: Rows of the run's clips on the page, ascending.
    """
    content: dict[str, Any] = {"run": entry.run, "method": entry.method, "dims": entry.dims, "problem": entry.problem}
    if entry.projection is None:
        return content
    shown = entry.projection.rows[entry.shown]
    centred = entry.projection.coordinates[entry.shown]
    centred = centred - centred.mean(0)
    integers = np.round(centred * (FULL_SCALE / (np.abs(centred).max() or 1.0))).astype("<i2")
    ranges = np.ptp(centred, axis=0)
    return content | {
        "clips": np.searchsorted(rows, shown).tolist() if len(shown) < len(rows) else None,
        "aspect_ratio": (np.maximum(ranges, 1e-9) / max(ranges.max(), 1e-9)).round(3).tolist(),
        "coordinates": [{"dtype": "i2", "bdata": base64.b64encode(axis.tobytes()).decode()} for axis in integers.T],
        "note": entry.projection.note,
        "quality": _quality_rows(entry),
    }


def _quality_rows(entry: EmbeddingMap) -> list[list[str]]:
    """Return the rows of the table below a map, with a measure and its values in the map and in the full space."""
    rows = [[key.capitalize(), format_number(value), ""] for key, value in entry.preservation.items()]
    for name, scores in entry.scores.items():
        full_scores = entry.full_scores[name]
        score = "accuracy" if scores["kind"] == "label" else "Spearman ρ"
        nearest = embedding_map.neighbours_text(scores["neighbours"])
        titles = {
            "all_clips": f"{name}, {nearest}, {score}",
            "other_groups": f"{name}, {nearest} of other groups, {score}",
        }
        titles |= {"silhouette": f"{name}, silhouette"} if scores["kind"] == "label" else {}
        rows += [[title, format_number(scores[key]), format_number(full_scores[key])] for key, title in titles.items()]
    return rows
