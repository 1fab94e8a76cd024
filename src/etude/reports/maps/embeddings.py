"""Reader of the embeddings of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError
from etude.evaluation.bootstrap import encode_groups
from etude.evaluation.formatting import format_count
from etude.reports.comparison.pooling import POOLED_FOLDER
from etude.reports.maps.projection import ProjectionError
from etude.reports.maps.quality import Targets
from etude.runs.folder import RunFolder, find_runs

if TYPE_CHECKING:
    import pandas as pd


MOST_RUNS = 8
"""Maximum number of runs on one page."""


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
        """Return kind and true values of each target in the format of `quality`."""
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
            raise UserError(f"{folder}: is not a run folder and contains no finished run")
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
