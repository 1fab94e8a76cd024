"""Nearest training clips of a sound."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.errors import UserError, one_line_message
from etude.evaluation.formatting import format_number
from etude.files.atomic import replacing
from etude.files.progress import track
from etude.inference.figure import sound_uri
from etude.inference.model import Model, PredictionColumns
from etude.inference.windows import Window, WindowPlan, crops_of
from etude.reports.clip_frames import ClipFile, files
from etude.reports.html import load_template
from etude.reports.maps.embeddings import embeddings
from etude.reports.maps.projection import ProjectionError
from etude.reports.maps.quality import nearest
from etude.reports.worst_errors import CREDIT, credit
from etude.runs.folder import EMBEDDINGS, PREDICTIONS

if TYPE_CHECKING:
    import pandas as pd

    from etude.inspection.clips import InspectedRun


log = logging.getLogger(__name__)
BATCH = 32  # clips that are embedded at a time
COUNT, SAMPLE = 6, 2000  # clips that are shown; clips whose own neighbours give the usual distance
ALONE = "A checkpoint alone knows no clips; with the folder of its run, those of its training are compared here."


class EmbeddingKey(NamedTuple):
    """Identity of stored embeddings.

    Args:
        checkpoint: SHA-256 of the checkpoint.
        frames: SHA-256 of all frames of the pack.
        ids: Ids of the clips, in order.
    """

    checkpoint: str
    frames: str
    ids: tuple[str, ...]


@dataclass
class ClipLibrary:
    """Clips with their embeddings.

    Args:
        table: A row for each clip, with `id` and what is known of it (n rows).
        x: Embeddings (n, D), float32.
        files: File of each clip, by its id.
        what: Splits of these clips.
        why: Reason for these clips, or why there are none; often empty.
    """

    table: pd.DataFrame
    x: np.ndarray
    files: dict[str, ClipFile]
    what: str = "training"
    why: str = ""


class NeighbourSearch:
    """Search for the clips that are nearest to a sound.

    Args:
        library: Clips with their embeddings.
        front: Front end, which decides which file of a clip is played.
        columns: Columns of the predictions.
    """

    def __init__(self, library: ClipLibrary, front: FrontEnd, columns: PredictionColumns) -> None:
        self.library, self.front, self.columns = library, front, columns
        self.usual = _usual(library.x)
        self._excerpt = lru_cache(maxsize=64)(_beginning)

    def find(self, embedding: np.ndarray, count: int = COUNT) -> list[tuple[int, float]]:
        """Return rows of the nearest clips and their Euclidean distances, nearest first; equally near ones in order.

        Args:
            embedding: Of the sound (D,).
            count: How many at most.
        """
        x = self.library.x.astype(np.float64)
        if not len(x):
            return []
        distances = np.linalg.norm(x - embedding.astype(np.float64), axis=1)
        order = np.argsort(distances, kind="stable")[:count]
        return [(int(row), float(distances[row])) for row in order]

    def section(self, embedding: np.ndarray) -> str:
        """Return the nearest clips as a section of the page."""
        found = self.find(embedding)
        table, files = self.library.table, self.library.files
        ids = [str(table["id"].iloc[row]) for row, _ in found]
        return load_template("demo_near.html.j2").render(
            clips=[
                self.card(table.iloc[row], files.get(clip)) | {"distance": distance}
                for clip, (row, distance) in zip(ids, found, strict=True)
            ],
            what=self.library.what, why=self.library.why, count=len(self.library.x), words=self.sentence(found),
        )  # fmt: skip

    def sentence(self, found: list[tuple[int, float]]) -> str:
        """Return a sentence on the distance of the nearest clip, beside usual distances."""
        if not found or self.usual is None:
            return ""
        first, share = found[0][1], float((self.usual <= found[0][1]).mean())
        here = f"The nearest is {format_number(first)} away"
        if first < 1e-3:
            return f"{here}: for this network it is the same sound."
        if share > 0.95:
            return (
                f"{here}, further than {100 * share:.0f} % of these clips are from their own nearest: the network has "
                "learned from nothing like it, and what it says is a guess."
            )
        return (
            f"{here}; half of these clips have their own nearest within {format_number(float(np.median(self.usual)))}."
        )

    def card(self, about: pd.Series, file: ClipFile | None) -> dict[str, Any]:
        """Return what the page shows of a clip: its name, credit, labels, and sound as a data URI.

        Args:
            about: Its row in a table of clips.
            file: Its sound, where it is at hand.
        """
        sound, encoded, why = self._sound(file)
        known = {key: about[key] for key in CREDIT if key in about.index}
        said = {key: str(value) for key, value in known.items() if value == value and value}
        return {
            "id": str(about["id"]), "credit": credit({"credit": said, "encoded": encoded}), "sound": sound, "why": why,
            "labels": self._labels(about),
        }  # fmt: skip

    def _sound(self, file: ClipFile | None) -> tuple[str, bool, str]:
        if file is None:
            return "", False, "its sound is not at hand"
        return self._excerpt(file.under(self.front)) if file.is_sound else ("", False, "the data are frames, no sound")

    def _labels(self, about: Any) -> list[tuple[str, str]]:
        found = []
        for name, spec in self.columns.targets.items():
            value = about.get(name, about.get(f"{name}.true"))
            if value is not None and value == value:
                found.append((name, str(value) if spec["kind"] == "label" else format_number(float(value))))
        return found


def load_library(run: InspectedRun | None, model: Model, plan: WindowPlan) -> ClipLibrary:
    """Return the clips of the training part; where the data is not there, those that the run has predicted.

    Args:
        run: The run; None for a checkpoint alone.
        model: Its network.
        plan: How clips are cut for it.
    """
    import pandas as pd

    nothing = ClipLibrary(pd.DataFrame({"id": []}), np.empty((0, 0), np.float32), {}, why=ALONE)
    if run is None:
        return nothing
    try:
        return _training_clips(run, model, plan)
    except (UserError, OSError, ValueError) as error:
        reason = one_line_message(error).rstrip(".")
        log.warning("%s: the clips of its training are not at hand (%s)", run.folder, reason)
        nothing.why = f"The clips of the training part are not at hand ({reason})"
    try:
        table = run.predictions()
        if table is None:
            nothing.why += f", and the run has no {PREDICTIONS}."
            return nothing
        x = embeddings(table)
    except (UserError, ProjectionError) as error:
        nothing.why += f", and its predictions are of no use here: {error}"
        return nothing
    finite = np.isfinite(x).all(1)
    why = f"{nothing.why}; these are the clips that the run was judged on, whose sound is not at hand either."
    table = table[finite].reset_index(drop=True)
    return ClipLibrary(table, x[finite].astype(np.float32), {}, "validation and test", why)


def split_rows(run: InspectedRun, part: str) -> np.ndarray:
    """Return rows of the run's pack that were in a split.

    Raises:
        UserError: The run does not say which clips were where, or none of them is in its data.
    """
    path = run.files.split_path
    if not path.is_file():
        raise UserError(f"{path}: cannot be read as a table of id and split")
    ids = {clip for clip, known in run.files.split.items() if known == part}
    rows = np.flatnonzero(run.pack.index["id"].astype(str).isin(ids))
    if not len(rows):
        raise UserError(f"{path}: none of its clips of the part {part} is in the data")
    return rows


def embed_clips(run: InspectedRun, model: Model, plan: WindowPlan, rows: np.ndarray) -> np.ndarray:
    """Return embeddings of clips of the pack (n, D), float32, as evaluation computes them."""
    found: list[np.ndarray] = []

    def batches() -> Iterator[list[Window]]:
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            clips = (np.asarray(run.pack.clip(int(row))[:, slice(*plan.columns)]) for row in some)
            yield [Window(0.0, 0.0, crops_of(clip, plan)) for clip in clips]

    for batch in track(
        batches(),
        -(-len(rows) // BATCH),
        "Embeddings of the training part",
        f"batches of {BATCH} clips",
    ):
        found += [z for z, _ in model.predict(batch)]
    return np.stack(found).astype(np.float32)


def read_embeddings(folder: Path, key: EmbeddingKey) -> np.ndarray | None:
    """Read the stored embeddings (n, D), float32; None where they are of other clips, or the file is damaged."""
    try:
        with np.load(folder / EMBEDDINGS, allow_pickle=False) as kept:
            same = (str(kept["checkpoint"]), str(kept["frames"]), tuple(kept["ids"].tolist())) == key
            x = kept["x"] if same else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return x if x is not None and x.dtype == np.float32 and x.ndim == 2 and len(x) == len(key.ids) else None


def write_embeddings(folder: Path, key: EmbeddingKey, x: np.ndarray) -> None:
    """Store embeddings, completely or not at all; a folder that cannot be written to is only a warning."""
    try:
        with replacing(folder / EMBEDDINGS) as draft, draft.open("wb") as file:
            np.savez(file, checkpoint=key.checkpoint, frames=key.frames, ids=np.array(key.ids), x=x)
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("%s: cannot be written (%s); the embeddings are computed anew the next time", folder, reason)


def _training_clips(run: InspectedRun, model: Model, plan: WindowPlan) -> ClipLibrary:
    rows = split_rows(run, "train")
    table = run.pack.index.iloc[rows].reset_index(drop=True)
    key = EmbeddingKey(model.sha256, str(run.pack.manifest["sha256"]), tuple(table["id"].astype(str)))
    x = read_embeddings(run.folder, key)
    if x is None:
        x = embed_clips(run, model, plan, rows)
        write_embeddings(run.folder, key, x)
    finite = np.isfinite(x).all(1)
    return ClipLibrary(table[finite].reset_index(drop=True), x[finite], files(run.data.source))


def _beginning(path: Path) -> tuple[str, bool, str]:
    """Return the beginning of a sound as a data URI, whether it was encoded anew, and why there is none."""
    try:
        sound, kept = sound_uri(path)
    except Exception:  # one bad file must not end the page
        return "", False, "its file cannot be played"
    return sound, bool(kept["encoded"]), ""


def _usual(x: np.ndarray) -> np.ndarray | None:
    """Return distances of clips to their own nearest (m,), of a fixed sample; None for a single clip."""
    if len(x) < 2:
        return None
    some = x[np.sort(np.random.default_rng(0).permutation(len(x))[:SAMPLE])].astype(np.float64)
    return np.linalg.norm(some - some[nearest(some, 1)[:, 0]], axis=1)
