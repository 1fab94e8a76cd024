"""Reading of the embeddings of a run."""

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


MOST_RUNS = 8  # side by side on one page


@dataclass(frozen=True)
class MappedRun:
    """One run's clips.

    Args:
        name: Of the folder; unlike those of the other runs.
        table: Its predictions of one part (n rows), those with an embedding only.
        x: Embeddings (n, D), float64; (0, 0) where there is a problem.
        targets: What record.json says of each target.
        problem: Why there are no embeddings, in a sentence; "" when there are.
        note: What has to be known of them.
    """

    name: str
    table: pd.DataFrame
    x: np.ndarray
    targets: dict[str, dict[str, Any]]
    problem: str = ""
    note: str = ""

    def groups(self) -> np.ndarray:
        """Group number of each clip (n,); a clip without group is one of its own."""
        return encode_groups(self.table["group"].tolist())

    def truths(self) -> Targets:
        """Kind and truth of each target, as `quality` wants them."""
        found: Targets = {}
        for name, target in self.targets.items():
            true = self.table[f"{name}.true"]
            if target["kind"] == "label":
                index = {value: i for i, value in enumerate(target["classes"])}
                found[name] = ("label", true.map(index).fillna(-1).to_numpy(dtype=np.int64))
            else:
                found[name] = ("scalar", true.to_numpy(dtype=np.float64))
        return found


def finished_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders at or below some folders: those named, and the finished runs of a sweep, each once.

    Raises:
        UserError: No folder is named, one of them holds no run, or there are too many runs for one page.
    """
    if not folders:
        raise UserError("name at least one run folder, such as outputs/<run>; --help shows some")
    runs: dict[Path, Path] = {}
    for folder in folders:
        found = find_runs(folder)
        if found != [folder]:
            # what was pooled from several networks has no space of its own
            whole = [run for run in found if RunFolder(run).predictions_path.is_file()]
            found = [run for run in whole if run.parent.name != POOLED_FOLDER]
        if not found:
            raise UserError(f"{folder} is not a run, and no finished run is below it.")
        runs |= {run.resolve(): run for run in found}
    if len(runs) > MOST_RUNS:
        raise UserError(f"{len(runs)} runs are too many for one page; name at most {MOST_RUNS} of them.")
    return list(runs.values())


def read(folder: Path, name: str, part: str) -> MappedRun:
    """Read a run folder.

    Args:
        folder: With predictions.parquet and record.json.
        name: What it is to be called.
        part: "test" or "val".

    Raises:
        UserError: It is not a finished run, or has no clip of this part.
    """
    run = RunFolder(folder)
    if lacking := run.missing_results():
        raise UserError(f"{folder} is not a finished run: it has no {' and no '.join(lacking)}.")
    record, table = run.record, run.predictions
    table = table[table["split"] == part].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{folder}: its {run.predictions_path.name} has no clip of the part {part}.")
    return _run(name, table, record["targets"], record.get("data", {}).get("pooled"))


def embeddings(table: pd.DataFrame) -> np.ndarray:
    """The embeddings of a table (n, D), float64; nan where a clip has none.

    Raises:
        ProjectionError: There are none, they are of different sizes, or none is finite.
    """
    if "embedding" not in table:
        raise ProjectionError("The table of predictions has no column embedding.")
    held = table["embedding"].notna().to_numpy()
    sizes = sorted({len(row) for row in table["embedding"][held]})
    if len(sizes) != 1:
        reason = f"The embeddings are of different sizes: {sizes}." if sizes else "No clip has an embedding."
        raise ProjectionError(reason)
    x = np.full((len(table), sizes[0]), np.nan)
    x[held] = np.stack(table["embedding"][held].tolist())
    if not np.isfinite(x).all(1).any():
        raise ProjectionError("No embedding is finite: did the network diverge?")
    return x


def names(folders: list[Path]) -> list[str]:
    """Names of runs: those of their folders, with the folder above where two are the same."""
    short = [folder.resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for name, folder in zip(short, folders, strict=True)
    ]


def agree(runs: list[MappedRun]) -> None:
    """See that runs which share clips know the same of them, so that one colour can serve for all.

    Raises:
        UserError: A clip has another truth or group in another run.
    """
    known: dict[tuple[str, str], tuple[Any, str]] = {}
    for run in runs:
        for column in ("group", *(f"{name}.true" for name in run.targets)):
            for clip, value in zip(run.table["id"], run.table[column], strict=True):
                if value is None or value != value:
                    continue
                before, other = known.setdefault((column, clip), (value, run.name))
                if before != value:
                    raise UserError(
                        f"{run.name}: {column} of clip {clip!r} is {value!r} here and {before!r} in {other}; these "
                        "runs are not of one collection and have no place on one page."
                    )


def _run(name: str, table: pd.DataFrame, targets: dict[str, Any], pooled: list[int] | None) -> MappedRun:
    try:
        if pooled:
            raise ProjectionError(
                f"These are the pooled predictions of {len(pooled)} networks, each with a space of its own; map the "
                "run of one fold instead."
            )
        x = embeddings(table)
    except ProjectionError as error:
        return MappedRun(name, table.iloc[:0], np.empty((0, 0)), targets, str(error))
    finite = np.isfinite(x).all(1)
    left = len(table) - int(finite.sum())
    note = f"{format_count(left, 'clip')} without a finite embedding left out." if left else ""
    return MappedRun(name, table[finite].reset_index(drop=True), x[finite], targets, note=note)
