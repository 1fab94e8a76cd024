"""Nearest training clips of an audio file in the embedding space."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from etude.audio.frontend import FrontEnd
from etude.data.pack import combined_hash
from etude.embeddings.encoders import SharedEmbeddings
from etude.embeddings.store import FOLDER
from etude.errors import UserError, one_line_message
from etude.evaluation.formatting import format_number
from etude.inference.figure import audio_uri
from etude.inference.model import Model, PredictionColumns
from etude.inference.windows import Window, WindowPlan, evaluation_crops
from etude.reports.clip_frames import ClipFile, clip_files
from etude.reports.html import load_template
from etude.reports.maps.embeddings import nearest_neighbours, stack_embeddings
from etude.reports.maps.projection import ProjectionError
from etude.reports.worst_errors import CREDIT_KEYS, clip_credit
from etude.runs.folder import PREDICTIONS
from etude.system.streams import track

if TYPE_CHECKING:
    import pandas as pd

    from etude.inspection.clips import InspectedRun


log = logging.getLogger(__name__)
BATCH = 32  # clips that are embedded at a time
N_SHOWN, N_SAMPLED = 6, 2000  # clips on the page; clips whose nearest neighbours give the typical distance
NO_RUN_FOLDER = "Training clips are available only if the page is started with a run folder, not with a checkpoint."
SAME_AUDIO = 1e-3  # maximum distance of embeddings of the same audio


@dataclass
class ClipLibrary:
    """Clips with their embeddings.

    Args:
        table: Table with a row per clip (n rows): `id` and its other known values.
        x: Embeddings (n, D), float32.
        files: File of each clip by its id.
        splits: Names of the splits of these clips, for the page.
        note: Reason why there are no clips, or why they are not training clips, or "".
    """

    table: pd.DataFrame
    x: np.ndarray
    files: dict[str, ClipFile]
    splits: str = "training"
    note: str = ""


class NeighbourSearch:
    """Search for the clips that are nearest to an audio file.

    Args:
        library: Clips with their embeddings.
        front: Front end, which determines which file of a clip is played.
        columns: Columns of the predictions.
    """

    def __init__(self, library: ClipLibrary, front: FrontEnd, columns: PredictionColumns) -> None:
        self.library, self.front, self.columns = library, front, columns
        self.typical_distances = _sample_distances(library.x)
        self._excerpt = lru_cache(maxsize=64)(_read_excerpt)

    def find(self, embedding: np.ndarray, count: int = N_SHOWN) -> list[tuple[int, float]]:
        """Return the rows of the nearest clips and their Euclidean distances, in ascending order of distance.

        Clips at equal distance are in order of their rows.

        Args:
            embedding: Embedding of the audio file (D,).
            count: Maximum number of clips.
        """
        x = self.library.x.astype(np.float64)
        if not len(x):
            return []
        distances = np.linalg.norm(x - embedding.astype(np.float64), axis=1)
        order = np.argsort(distances, kind="stable")[:count]
        return [(int(row), float(distances[row])) for row in order]

    def section(self, embedding: np.ndarray) -> str:
        """Return the section of the page with the nearest clips as HTML."""
        matches = self.find(embedding)
        table, files = self.library.table, self.library.files
        ids = [str(table["id"].iloc[row]) for row, _ in matches]
        return load_template("demo_neighbours.html.j2").render(
            clips=[
                self.card(table.iloc[row], files.get(clip)) | {"distance": distance}
                for clip, (row, distance) in zip(ids, matches, strict=True)
            ],
            splits=self.library.splits, note=self.library.note, count=len(self.library.x),
            distance_note=self.describe_distance(matches),
        )  # fmt: skip

    def describe_distance(self, matches: list[tuple[int, float]]) -> str:
        """Compare the distance of the nearest clip with typical distances, in one sentence."""
        if not matches or self.typical_distances is None:
            return ""
        distance = matches[0][1]
        share = float((self.typical_distances <= distance).mean())
        start = f"The distance of the nearest clip is {format_number(distance)}"
        if distance < SAME_AUDIO:
            return f"{start}, so this clip is the same audio for this network."
        if share > 0.95:
            return (
                f"{start}. For {100 * share:.0f} % of these clips, the distance from the nearest clip is smaller. "
                "No training clip is similar, so the predictions are unreliable."
            )
        median = format_number(float(np.median(self.typical_distances)))
        return f"{start}. The median distance of these clips from their own nearest clips is {median}."

    def card(self, row: pd.Series, file: ClipFile | None) -> dict[str, Any]:
        """Return id, credit, labels and audio (a data URI) of a clip for the template.

        Args:
            row: Row of the clip in a table of clips.
            file: File of the clip. None if it is missing.
        """
        audio, encoded, reason = self._player(file)
        values = {key: row[key] for key in CREDIT_KEYS if key in row.index}
        texts = {key: str(value) for key, value in values.items() if value == value and value}  # without NaN
        return {
            "id": str(row["id"]), "credit": clip_credit({"credit": texts, "encoded": encoded}), "audio": audio,
            "reason": reason, "labels": self._labels(row),
        }  # fmt: skip

    def _player(self, file: ClipFile | None) -> tuple[str, bool, str]:
        """Return the audio as a data URI, whether it was encoded again, and the reason if there is no audio."""
        if file is None:
            return "", False, "its audio file is missing"
        return self._excerpt(file.locate(self.front)) if file.is_audio else ("", False, "the data contain no audio")

    def _labels(self, row: Any) -> list[tuple[str, str]]:
        """Return the name and the true value of each target of a clip."""
        labels = []
        for name, spec in self.columns.targets.items():
            value = row.get(name, row.get(f"{name}.true"))
            if value is not None and value == value:
                labels.append((name, str(value) if spec["kind"] == "label" else format_number(float(value))))
        return labels


def load_library(run: InspectedRun | None, model: Model, plan: WindowPlan) -> ClipLibrary:
    """Return the clips of the training split, or the predicted clips of the run if the data is missing.

    Args:
        run: The run. None for a checkpoint without a run folder.
        model: Network of the run.
        plan: Window plan of the network.
    """
    import pandas as pd

    empty = ClipLibrary(pd.DataFrame({"id": []}), np.empty((0, 0), np.float32), {}, note=NO_RUN_FOLDER)
    if run is None:
        return empty
    try:
        return _training_clips(run, model, plan)
    except (UserError, OSError, ValueError) as error:
        reason = one_line_message(error).rstrip(".")
        log.warning("%s: the clips of the training split are not available (%s)", run.folder, reason)
        empty.note = f"The clips of the training split are not available ({reason})"
    try:
        table = run.predictions()
        if table is None:
            empty.note += f", and the run has no {PREDICTIONS}."
            return empty
        x = stack_embeddings(table)
    except (UserError, ProjectionError) as error:
        empty.note += f", and its predictions cannot be used: {error}"
        return empty
    finite = np.isfinite(x).all(1)
    note = f"{empty.note}. The run was evaluated on the clips below. Their audio is not available either."
    table = table[finite].reset_index(drop=True)
    return ClipLibrary(table, x[finite].astype(np.float32), {}, "validation and test", note)


def split_rows(run: InspectedRun, split: str) -> np.ndarray:
    """Return the rows of a split in the run's pack.

    Raises:
        UserError: The table of splits is missing, or the data contains none of its clips.
    """
    path = run.files.split_path
    if not path.is_file():
        raise UserError(f"{path}: cannot be read as a table with the columns id and split")
    ids = {clip for clip, clip_split in run.files.split.items() if clip_split == split}
    rows = np.flatnonzero(run.pack.index["id"].astype(str).isin(ids))
    if not len(rows):
        raise UserError(f"{path}: the data contains no clip of its {split} split")
    return rows


def embed_clips(run: InspectedRun, model: Model, plan: WindowPlan, rows: np.ndarray) -> np.ndarray:
    """Return the embeddings of clips of the pack (n, D), float32, computed as in evaluation.

    Embeddings in the store that runs share are not computed again, and new ones are added to it.
    """
    contents = [clip_key(content, plan) for content in run.pack.index["content"].iloc[rows]]
    options = run.data.pack_options
    shared = None
    if not options.read_only:
        shared = SharedEmbeddings(options.packs / FOLDER, contents, model.name, lambda _: model.encoder_identity)
    stored = shared.read(range(len(rows)), model.device) if shared else {}
    z = {i: value[0].numpy() for i, value in stored.items()}
    missing = [i for i in range(len(rows)) if i not in z]

    def batches() -> Iterator[list[int]]:
        for start in range(0, len(missing), BATCH):
            yield missing[start : start + BATCH]

    for batch in track(
        batches(), -(-len(missing) // BATCH), "Embeddings of the training split", f"batches of {BATCH} clips"
    ):
        clips = (np.asarray(run.pack.clip(int(rows[i]))[:, slice(*plan.columns)]) for i in batch)
        outputs = model.predict([Window(0.0, 0.0, evaluation_crops(clip, plan)) for clip in clips])
        new = {i: embedding for i, (embedding, _) in zip(batch, outputs, strict=True)}
        z |= new
        if shared:
            shared.write({i: torch.from_numpy(value)[None] for i, value in new.items()})
    if shared:
        shared.close()
    return np.stack([z[i] for i in range(len(rows))]).astype(np.float32)


def clip_key(content: str, plan: WindowPlan) -> str:
    """Return the key of a clip in the store of embeddings.

    Args:
        content: Hash of the clip's frames. It is the key in a run that evaluates complete clips.
        plan: Window plan, whose crops are part of the key.
    """
    return combined_hash([content, str(plan.crop), str(plan.crops)]) if plan.crops and plan.crop else content


def _training_clips(run: InspectedRun, model: Model, plan: WindowPlan) -> ClipLibrary:
    """Return the clips of the training split with stored or new embeddings."""
    rows = split_rows(run, "train")
    table = run.pack.index.iloc[rows].reset_index(drop=True)
    x = embed_clips(run, model, plan, rows)
    finite = np.isfinite(x).all(1)
    return ClipLibrary(table[finite].reset_index(drop=True), x[finite], clip_files(run.data.source))


def _read_excerpt(path: Path) -> tuple[str, bool, str]:
    """Return the start of an audio file as a data URI, whether it was encoded again, and the reason if it failed."""
    try:
        audio, excerpt = audio_uri(path)
    except Exception:  # one invalid file must not end the page
        return "", False, "its file cannot be decoded"
    return audio, bool(excerpt["encoded"]), ""


def _sample_distances(x: np.ndarray) -> np.ndarray | None:
    """Return distances (m,), for each clip of a fixed sample to its nearest neighbour in the sample.

    None for fewer than two clips.
    """
    if len(x) < 2:
        return None
    sample = x[np.sort(np.random.default_rng(0).permutation(len(x))[:N_SAMPLED])].astype(np.float64)
    return np.linalg.norm(sample - sample[nearest_neighbours(sample, 1)[:, 0]], axis=1)
