"""Embedding maps with their quality, and the tables and sentences about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import format_count, format_number
from etude.reports.maps import embeddings
from etude.reports.maps.embeddings import MappedRun
from etude.reports.maps.projection import METHODS, Projection, ProjectionError, project, subset

if TYPE_CHECKING:
    import pandas as pd


MOST_SHOWN = 2000
"""Maximum number of clips that are drawn and scored. More would overlap, and all pairwise distances are computed."""
AXES = ("x", "y", "z")
PRESERVATION = ("trustworthiness", "continuity")
SCORES = {"label": ("all_clips", "other_groups", "silhouette"), "scalar": ("all_clips", "other_groups")}

ScoreCache = dict[tuple[str, int], dict[str, dict[str, Any]]]
"""Nearest-neighbour scores in the full space by name of the run and number of clips."""
Scores = Mapping[str, Any]
TableRow = tuple[str, float | None, list[float | None]]
"""Name of a run, its score in the full space, and the score of each of its maps."""


@dataclass(frozen=True)
class EmbeddingMap:
    """Map of the embeddings of a run, with its quality.

    Args:
        run: Name of the run.
        method: Key of METHODS.
        dims: 2 or 3.
        projection: Coordinates of the clips, or None if there is a problem.
        problem: Reason why there is no projection, or "".
        shown: Rows of the projection that are drawn and scored (s,), int.
        preservation: Trustworthiness and continuity.
        scores: Nearest-neighbour scores in the map, by target.
        full_scores: Nearest-neighbour scores of the same clips in the full space, by target.
    """

    run: str
    method: str
    dims: int
    projection: Projection | None
    problem: str
    shown: np.ndarray
    preservation: dict[str, float | None]
    scores: dict[str, dict[str, Any]]
    full_scores: dict[str, dict[str, Any]]


def make_map(run: MappedRun, method: str, dims: int, seed: int, cache: ScoreCache) -> EmbeddingMap:
    """Project the embeddings of a run and compute the quality of the map.

    Args:
        run: Run with embeddings, or with the reason why it has none.
        method: Key of METHODS.
        dims: 2 or 3.
        seed: Seed of the method, and of the subset of clips that is drawn.
        cache: Scores in the full space. Missing scores are added.
    """
    try:
        if run.problem:
            raise ProjectionError(run.problem)
        projection = project(run.x, method, dims, seed)
    except ProjectionError as error:
        return EmbeddingMap(run.name, method, dims, None, str(error), np.arange(0), {}, {}, {})
    rows = subset(len(run.x), min(MOST_SHOWN, len(projection.rows)), seed)
    shown = np.searchsorted(projection.rows, rows)  # with the same seed, a smaller subset is part of a larger one
    x, coordinates, groups = run.x[rows], projection.coordinates[shown], run.groups()[rows]
    targets = {name: (kind, true[rows]) for name, (kind, true) in run.true_values().items()}
    key = (run.name, len(rows))
    if key not in cache:
        cache[key] = embeddings.neighbour_scores(x, groups, targets)
    preservation = embeddings.neighbourhood_preservation(x, coordinates)
    scores = embeddings.neighbour_scores(coordinates, groups, targets)
    return EmbeddingMap(run.name, method, dims, projection, "", shown, preservation, scores, cache[key])


def coordinate_frame(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap]) -> pd.DataFrame:
    """Return a row per clip and map, with the columns run, method, dims, id, x, y and z. In 2-D, z is nan."""
    import pandas as pd

    by_name = {run.name: run for run in runs}
    frames = []
    for entry in maps:
        if entry.projection is not None:
            rows = entry.projection.rows
            frame = pd.DataFrame({"run": entry.run, "method": entry.method, "dims": entry.dims}, index=rows)
            frame["id"] = by_name[entry.run].table["id"].iloc[rows]
            frames.append(frame.assign(**dict(zip(AXES, entry.projection.coordinates.T, strict=False))))
    return pd.concat(frames, ignore_index=True).reindex(columns=["run", "method", "dims", "id", *AXES])


def quality_json(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap], split: str, seed: int) -> str:
    """Return the quality of each map as JSON, with null for an undefined number and `problem` for a missing map."""
    run_entries = [
        {"name": run.name, "clips": len(run.x), "dims": run.x.shape[1], "problem": run.problem} for run in runs
    ]
    content = {
        **{"version": 2, "split": split, "seed": seed, "neighbours": embeddings.NEIGHBOURS},
        **{"runs": run_entries, "maps": [_quality_entry(entry) for entry in maps]},
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def run_summaries(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap]) -> list[dict[str, Any]]:
    """Return name, problem, note, clips, dims, full_scores by target, best_map and sentences of each run."""
    return [_run_summary(run, [m for m in maps if m.run == run.name and m.projection is not None]) for run in runs]


def preservation_tables(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap]) -> list[dict[str, Any]]:
    """Return `key` and `rows` of each measure of PRESERVATION. These measures have no value in the full space."""
    return [{"key": key, "rows": _table_rows(runs, maps, key, lambda m: (m.preservation, {}))} for key in PRESERVATION]


def neighbours_text(count: int) -> str:
    """Return a number of nearest neighbours as text."""
    return f"{count} nearest neighbours" if count > 1 else "nearest neighbour"


def score_tables(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap]) -> list[dict[str, Any]]:
    """Return the nearest-neighbour scores of each target.

    Returns:
        `name`, `kind`, `n`, `n_other_groups`, `nearest` (text) and `tables` of each target. Each table has the `key`
        and the `rows` of one score. A target without scores is left out.
    """
    kinds = {name: target["kind"] for run in runs for name, target in run.targets.items()}
    targets = []
    for name, kind in kinds.items():
        scored = [entry.full_scores[name] for entry in maps if name in entry.full_scores]
        if scored:
            largest = max(scored, key=lambda scores: scores["n"])
            tables = [{"key": key, "rows": _score_rows(runs, maps, key, name)} for key in SCORES[kind]]
            counts = {key: largest[key] for key in ("n", "n_other_groups")}
            nearest = neighbours_text(largest["neighbours"])
            targets.append({"name": name, "kind": kind, **counts, "nearest": nearest, "tables": tables})
    return targets


def _quality_entry(entry: EmbeddingMap) -> dict[str, Any]:
    """Return the entry of a map in maps.json."""
    content: dict[str, Any] = {"run": entry.run, "method": entry.method, "dims": entry.dims}
    if entry.projection is None:
        return content | {"problem": entry.problem}
    content |= {"clips": len(entry.projection.rows), "scored": len(entry.shown), "note": entry.projection.note}
    targets = {name: {"map": entry.scores[name], "full": entry.full_scores[name]} for name in entry.scores}
    return content | entry.preservation | {"targets": targets}


def _run_summary(run: MappedRun, maps: list[EmbeddingMap]) -> dict[str, Any]:
    """Return the summary of a run from its maps with a projection."""
    full_scores = max(maps, key=lambda entry: len(entry.shown)).full_scores if maps else {}
    best = max(maps, key=_lowest_preservation) if maps else None
    row: dict[str, Any] = {"name": run.name, "problem": run.problem, "note": run.note, "full_scores": full_scores}
    row |= {"clips": len(run.x), "dims": run.x.shape[1]}
    row["best_map"] = (
        f"{METHODS[best.method].title} in {best.dims}-D" if best and _lowest_preservation(best) > 0 else ""
    )
    if run.problem:
        return row | {"sentences": [run.problem]}
    has_groups = bool(run.table["group"].notna().any())
    sentences = [f"{format_count(len(run.x), 'clip')}, {format_count(run.x.shape[1], 'dimension')}."]
    sentences += [run.note] if run.note else []
    sentences += [_score_sentence(name, scores, has_groups) for name, scores in full_scores.items()]
    if best and row["best_map"]:
        trustworthiness, continuity = (format_number(best.preservation[key]) for key in PRESERVATION)
        sentences.append(
            f"{row['best_map']} preserves neighbourhoods best: trustworthiness {trustworthiness}, continuity "
            f"{continuity}."
        )
    elif not maps:
        sentences.append("No map could be computed.")
    count = len(set(run.groups().tolist()))
    if has_groups and 1 < count < FEW_GROUPS:
        sentences.append(f"With only {count} groups, scores with neighbours from other groups are inaccurate.")
    return row | {"sentences": sentences}


def _lowest_preservation(entry: EmbeddingMap) -> float:
    """Return the minimum of trustworthiness and continuity, or 0 if they are undefined."""
    return min(value or 0.0 for value in entry.preservation.values())


def _score_sentence(name: str, scores: dict[str, Any], has_groups: bool) -> str:
    """Return a sentence about the nearest-neighbour scores of a target in the full space."""
    if scores["all_clips"] is None:
        clips = f"{format_count(scores['n'], 'clip')} with a true value"
        return f"No score of {name}: there are {clips}, and these are too few or all equal."
    label = scores["kind"] == "label"
    score = "accuracy" if label else "Spearman’s ρ"
    value = format_number(scores["all_clips"])
    sentence = f"Predicting {name} from the {neighbours_text(scores['neighbours'])} has {score} {value}"
    if has_groups and scores["other_groups"] is not None:
        sentence += f", or {format_number(scores['other_groups'])} with neighbours from other groups"
        if scores["n_other_groups"] < scores["n"]:
            sentence += f" (on {format_count(scores['n_other_groups'], 'clip')} whose class occurs in another group)"
    elif has_groups:
        reason = "no class occurs in two groups" if label else "there is only one group"
        sentence += f"; with neighbours from other groups it is undefined, because {reason}"
    return sentence + (f". The majority class has accuracy {format_number(scores['majority'])}." if label else ".")


def _score_rows(runs: Sequence[MappedRun], maps: Sequence[EmbeddingMap], key: str, target: str) -> list[TableRow]:
    """Return the rows of one score of one target."""
    with_target = [run for run in runs if target in run.targets]
    return _table_rows(
        with_target, maps, key, lambda entry: (entry.scores.get(target, {}), entry.full_scores.get(target, {}))
    )


def _table_rows(
    runs: Sequence[MappedRun],
    maps: Sequence[EmbeddingMap],
    key: str,
    scores: Callable[[EmbeddingMap], tuple[Scores, Scores]],
) -> list[TableRow]:
    """Return a row per run. The score in the full space is for the clips of the map with most clips.

    Args:
        runs: Runs of the rows.
        maps: All maps.
        key: Key of the score.
        scores: Function that returns the scores in the map and in the full space.
    """
    rows = []
    for run in runs:
        run_maps = [entry for entry in maps if entry.run == run.name]
        largest = max(run_maps, key=lambda entry: len(entry.shown))
        rows.append((run.name, scores(largest)[1].get(key), [scores(entry)[0].get(key) for entry in run_maps]))
    return rows
