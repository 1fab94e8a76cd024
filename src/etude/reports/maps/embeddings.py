"""Embeddings of runs, and the quality of their maps.

Quality is measured by preserved neighbourhoods and by nearest-neighbour predictions of the targets. Trustworthiness is
high if neighbours in the map are neighbours in the full space. Continuity is high if neighbours in the full space are
neighbours in the map (Venna & Kaski 2001). 1 means that all neighbours are preserved, and a random map has about 0.5.
Targets are predicted from the nearest neighbours in the map and in the full space, once among all other clips and once
among clips of other groups. Clips of one artist are similar for many reasons, so neighbours of the same group are weak
evidence about the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError, missing_path
from etude.evaluation.bootstrap import encode_groups
from etude.evaluation.formatting import format_count
from etude.evaluation.metrics import regression
from etude.reports.maps.projection import ProjectionError
from etude.runs.folder import POOLED_FOLDER, RunFolder, find_runs

if TYPE_CHECKING:
    import pandas as pd


MOST_RUNS = 8
"""Maximum number of runs on one page."""

NEIGHBOURS = 10
BLOCK = 512
"""Number of clips whose distances to all others are in memory at once."""

Targets = dict[str, tuple[str, np.ndarray]]
"""Kind and true values (n,) by target: class indices with -1, or numbers with nan, for an unknown value."""


@dataclass(frozen=True)
class MappedRun:
    """Embeddings of the clips of one run.

    Args:
        name: Unique name of the run.
        table: Predictions of the clips with a finite embedding on one split (n rows).
        x: Embeddings (n, D), float64; (0, 0) if there is a problem.
        targets: Targets of record.json.
        problem: Reason why there are no embeddings, as a sentence, or "".
        note: Remark about the embeddings, or "".
    """

    name: str
    table: pd.DataFrame
    x: np.ndarray
    targets: dict[str, dict[str, Any]]
    problem: str = ""
    note: str = ""

    def groups(self) -> np.ndarray:
        """Return the group index of each clip (n,). A clip without a group is its own group."""
        return encode_groups(self.table["group"].tolist())

    def true_values(self) -> Targets:
        """Return kind and true values of each target in the format of `neighbour_scores`."""
        values: Targets = {}
        for name, target in self.targets.items():
            true = self.table[f"{name}.true"]
            if target["kind"] == "label":
                index = {value: i for i, value in enumerate(target["classes"])}
                values[name] = ("label", true.map(index).fillna(-1).to_numpy(dtype=np.int64))
            else:
                values[name] = ("scalar", true.to_numpy(dtype=np.float64))
        return values


def finished_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the given run folders, and the finished runs in the other given folders, each once.

    Raises:
        UserError: There is no folder, a folder contains no finished run, or there are too many runs for one page.
    """
    if not folders:
        raise UserError("no run folder is given; name at least one, such as outputs/<run>")
    runs: dict[Path, Path] = {}
    for folder in folders:
        run_folders = find_runs(folder)
        if run_folders != [folder]:
            finished = [run for run in run_folders if RunFolder(run).predictions_path.is_file()]
            # pooled predictions of several networks have no common embedding space
            run_folders = [run for run in finished if run.parent.name != POOLED_FOLDER]
        if not run_folders:
            message = f"{folder}: is not a run folder and contains no finished run"
            raise UserError(message if folder.exists() else missing_path(folder, "run folder"))
        runs |= {run.resolve(): run for run in run_folders}
    if len(runs) > MOST_RUNS:
        raise UserError(f"{len(runs)} runs are too many for one page; give at most {MOST_RUNS} of them")
    return list(runs.values())


def read_mapped_run(folder: Path, name: str, split: str) -> MappedRun:
    """Read the embeddings of a run.

    Args:
        folder: Run folder with predictions.parquet and record.json.
        name: Unique name of the run on the page.
        split: "test" or "val".

    Raises:
        UserError: The run is not finished, or has no clip of the split.
    """
    run = RunFolder(folder)
    if missing := run.missing_results():
        raise UserError(f"{folder}: is not a finished run; it has no {' and no '.join(missing)}")
    record, table = run.record, run.predictions
    table = table[table["split"] == split].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{run.predictions_path}: has no clip of the {split} split")
    return _make_mapped_run(name, table, record["targets"], record.get("data", {}).get("pooled"))


def stack_embeddings(table: pd.DataFrame) -> np.ndarray:
    """Return the embeddings of a table of predictions (n, D), float64, with nan for a missing embedding.

    Raises:
        ProjectionError: There are no embeddings, they have different sizes, or none of them is finite.
    """
    if "embedding" not in table:
        raise ProjectionError("The table of predictions has no column embedding.")
    present = table["embedding"].notna().to_numpy()
    sizes = sorted({len(row) for row in table["embedding"][present]})
    if len(sizes) != 1:
        reason = f"The embeddings have different sizes: {sizes}." if sizes else "No clip has an embedding."
        raise ProjectionError(reason)
    x = np.full((len(table), sizes[0]), np.nan)
    x[present] = np.stack(table["embedding"][present].tolist())
    if not np.isfinite(x).all(1).any():
        raise ProjectionError("No embedding is finite; the network may have diverged.")
    return x


def run_names(folders: list[Path]) -> list[str]:
    """Name each run by its folder. If two names are equal, prepend the parent folder."""
    short = [folder.resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for name, folder in zip(short, folders, strict=True)
    ]


def check_agreement(runs: list[MappedRun]) -> None:
    """Check that runs have the same groups and true values for common clips, so that they can share one colour scale.

    Raises:
        UserError: Two runs have different groups or true values for a clip.
    """
    known: dict[tuple[str, str], tuple[Any, str]] = {}
    for run in runs:
        for column in ("group", *(f"{name}.true" for name in run.targets)):
            for clip, value in zip(run.table["id"], run.table[column], strict=True):
                if value is None or value != value:
                    continue
                known_value, other = known.setdefault((column, clip), (value, run.name))
                if known_value != value:
                    raise UserError(
                        f"{run.name}: {column} of clip {clip!r} is {value!r}, but {known_value!r} in {other}; runs of "
                        "different collections cannot be shown on one page"
                    )


def _make_mapped_run(name: str, table: pd.DataFrame, targets: dict[str, Any], pooled: list[int] | None) -> MappedRun:
    """Return the clips with a finite embedding, or the reason why there are none."""
    try:
        if pooled:
            raise ProjectionError(
                f"These are pooled predictions of {len(pooled)} networks, which have different embedding spaces; map "
                "the run of one fold instead."
            )
        x = stack_embeddings(table)
    except ProjectionError as error:
        return MappedRun(name, table.iloc[:0], np.empty((0, 0)), targets, str(error))
    finite = np.isfinite(x).all(1)
    excluded = len(table) - int(finite.sum())
    note = f"{format_count(excluded, 'clip')} without a finite embedding left out." if excluded else ""
    return MappedRun(name, table[finite].reset_index(drop=True), x[finite], targets, note=note)


def neighbourhood_preservation(x: np.ndarray, coordinates: np.ndarray) -> dict[str, float | None]:
    """Compute trustworthiness and continuity of a map. Both are None for fewer than three clips.

    Args:
        x: Embeddings in the full space (n, D).
        coordinates: Coordinates in the map (n, dims).
    """
    from sklearn.manifold import trustworthiness

    k = min(NEIGHBOURS, (len(x) - 1) // 2)
    if k < 1:
        return {"trustworthiness": None, "continuity": None}
    return {
        "trustworthiness": float(trustworthiness(x, coordinates, n_neighbors=k)),
        "continuity": float(trustworthiness(coordinates, x, n_neighbors=k)),
    }


def neighbour_scores(x: np.ndarray, groups: np.ndarray, targets: Targets) -> dict[str, dict[str, Any]]:
    """Score the nearest-neighbour predictions of each target.

    Args:
        x: Points (n, D) in the full space or in a map.
        groups: Group index of each clip (n,).
        targets: Kind and true values by target.

    Returns:
        For each target:

        - `kind`
        - `n`: number of clips with a true value
        - `neighbours`: number of nearest neighbours. For a label, fewer than the mean number of clips of a class,
          because otherwise most neighbours must be of other classes
        - `all_clips`: score with neighbours among all other clips (accuracy of a label, Spearman's correlation of a
          scalar)
        - `other_groups`: the same score with neighbours among clips of other groups
        - `n_other_groups`: number of clips in `other_groups`. Clips whose class occurs in no other group are excluded,
          because they cannot be predicted.
        - `silhouette` and `majority` (fraction of the most frequent class), only for a label

        An undefined value is None.
    """
    return {name: _target_scores(x, groups, kind, true) for name, (kind, true) in targets.items()}


def nearest_neighbours(x: np.ndarray, k: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the nearest other clips of each clip by Euclidean distance. Ties are resolved by row.

    Args:
        x: Points (n, D).
        k: Number of neighbours, at most n - 1, or with groups at most n minus the size of the largest group.
        groups: Group index of each clip (n,). Clips of the same group are excluded (leave one group out).

    Returns:
        Rows (n, k), int, nearest first.
    """
    from scipy.spatial.distance import cdist

    neighbours = np.empty((len(x), k), dtype=np.int64)
    for start in range(0, len(x), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(x)))
        distances = cdist(x[rows], x)
        excluded = rows[:, None] == np.arange(len(x)) if groups is None else groups[rows][:, None] == groups
        distances[excluded] = np.inf
        neighbours[rows] = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return neighbours


def accuracy(true: np.ndarray, neighbours: np.ndarray, scored: np.ndarray | slice = slice(None)) -> float:
    """Compute the accuracy of the majority class of the nearest neighbours. Ties are resolved by class index.

    Args:
        true: Class indices (n,).
        neighbours: Rows of the nearest neighbours (n, k).
        scored: Mask of the scored clips (n,), bool.
    """
    votes = (true[neighbours][:, :, None] == np.arange(true.max() + 1)).sum(1)
    return float((votes.argmax(1) == true)[scored].mean())


def spearman(true: np.ndarray, neighbours: np.ndarray, scored: np.ndarray | slice = slice(None)) -> float:
    """Compute the rank correlation of the true number and its mean over the nearest neighbours, nan for constants.

    Args:
        true: Numbers (n,).
        neighbours: Rows of the nearest neighbours (n, k).
        scored: Mask of the scored clips (n,), bool.
    """
    return float(regression(true[scored], true[neighbours].mean(1)[scored])["spearman"].item())


def _target_scores(x: np.ndarray, groups: np.ndarray, kind: str, true: np.ndarray) -> dict[str, Any]:
    """Return the nearest-neighbour scores of one target. Clips without a true value are excluded."""
    label = kind == "label"
    known = true >= 0 if label else np.isfinite(true)
    x, groups, true = x[known], groups[known], true[known]
    n = len(true)
    scored = _occurs_in_other_group(true, groups) if label else np.ones(n, dtype=bool)
    most = n // len(np.unique(true)) - 1 if label and n else NEIGHBOURS
    k = min(NEIGHBOURS, max(most, 1), max(n - 1, 1))
    result: dict[str, Any] = {"kind": kind, "n": n, "neighbours": k, "all_clips": None, "other_groups": None}
    result["n_other_groups"] = int(scored.sum())
    if label:
        result |= {"majority": float(np.bincount(true).max() / n) if n else None, "silhouette": _silhouette(x, true)}
    if n < 3:
        return result
    score = accuracy if label else spearman
    outside = n - int(np.unique(groups, return_counts=True)[1].max())
    result["all_clips"] = _finite_or_none(score(true, nearest_neighbours(x, k)))
    if outside and scored.any():
        neighbours = nearest_neighbours(x, min(k, outside), groups)
        result["other_groups"] = _finite_or_none(score(true, neighbours, scored))
    return result


def _occurs_in_other_group(true: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return for each clip whether its class occurs in more than one group (n,), bool."""
    pairs = np.unique(np.stack([true, groups], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=true.max(initial=-1) + 1)[true] > 1


def _silhouette(x: np.ndarray, true: np.ndarray) -> float | None:
    """Return the mean silhouette of the classes, or None if it is undefined."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(x, true)) if 1 < len(np.unique(true)) < len(true) else None


def _finite_or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
