"""The clips that a sound is compared with: those of the training part, each with its embedding by the network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etude.demo import stored
from etude.errors import UserError
from etude.prediction.model import Model
from etude.prediction.windows import Plan, Window, crops_of
from etude.progress import track
from etude.results import reading
from etude.results.exploration.views import File, files
from etude.results.maps.project import NoMap
from etude.results.maps.read import embeddings

if TYPE_CHECKING:
    import pandas as pd

    from etude.inspection.load import Run

log = logging.getLogger(__name__)
BATCH = 32
ALONE = "A checkpoint alone knows no clips; with the folder of its run, those of its training are compared here."


@dataclass
class Library:
    """Clips with their embeddings.

    Args:
        table: A row for each clip, with `id` and what is known of it (n rows).
        x: Embeddings (n, D), float32.
        files: Where the sound of a clip is, by its id.
        what: What clips these are.
        why: Why these and no others, or why there are none; often empty.
    """

    table: pd.DataFrame
    x: np.ndarray
    files: dict[str, File]
    what: str = "training"
    why: str = ""


def library(run: Run | None, model: Model, plan: Plan) -> Library:
    """The clips of the training part; where the data is not there, those that the run has predicted.

    Args:
        run: The run; none for a checkpoint alone.
        model: Its network.
        plan: How it hears a clip.
    """
    import pandas as pd

    nothing = Library(pd.DataFrame({"id": []}), np.empty((0, 0), np.float32), {}, why=ALONE)
    if run is None:
        return nothing
    try:
        return _trained(run, model, plan)
    except (UserError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        log.warning("%s: the clips of its training are not at hand (%s)", run.folder, reason)
        nothing.why = f"The clips of the training part are not at hand ({reason})"
    try:
        table = run.predictions()
        if table is None:
            nothing.why += f", and the run has no {reading.TABLE}."
            return nothing
        x = embeddings(table)
    except (UserError, NoMap) as error:
        nothing.why += f", and its predictions are of no use here: {error}"
        return nothing
    finite = np.isfinite(x).all(1)
    why = f"{nothing.why}; these are the clips that the run was judged on, whose sound is not at hand either."
    return Library(table[finite].reset_index(drop=True), x[finite].astype(np.float32), {}, "validation and test", why)


def members(run: Run, part: str) -> np.ndarray:
    """Rows of the run's pack that were in a part.

    Raises:
        UserError: The run does not say which clips were where, or none of them is in its data.
    """
    import pandas as pd

    path = run.folder / "split.csv"
    try:
        split = pd.read_csv(path, dtype=str, keep_default_na=False)
        ids = set(split["id"][split["split"] == part])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as a table of id and split") from error
    rows = np.flatnonzero(run.pack.index["id"].astype(str).isin(ids))
    if not len(rows):
        raise UserError(f"{path}: none of its clips of the part {part} is in the data")
    return rows


def embedded(run: Run, model: Model, plan: Plan, rows: np.ndarray) -> np.ndarray:
    """Embeddings of clips of the pack (n, D), float32, as evaluation has them."""
    found: list[np.ndarray] = []

    def batches() -> Iterator[list[Window]]:
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            clips = (np.asarray(run.pack.clip(int(row))[:, slice(*plan.columns)]) for row in some)
            yield [Window(0.0, 0.0, crops_of(clip, plan)) for clip in clips]

    for batch in track(
        batches(), -(-len(rows) // BATCH), "Embeddings of the training part", f"batches of {BATCH} clips"
    ):
        found += [z for z, _ in model.judge(batch)]
    return np.stack(found).astype(np.float32)


def _trained(run: Run, model: Model, plan: Plan) -> Library:
    rows = members(run, "train")
    table = run.pack.index.iloc[rows].reset_index(drop=True)
    key = stored.Key(model.sha256, str(run.pack.manifest["sha256"]), tuple(table["id"].astype(str)))
    x = stored.read(run.folder, key)
    if x is None:
        x = embedded(run, model, plan, rows)
        stored.write(run.folder, key, x)
    finite = np.isfinite(x).all(1)
    return Library(table[finite].reset_index(drop=True), x[finite], files(run.data.source))
