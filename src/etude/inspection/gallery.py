"""Other clips of the test part, small, with the three classes that the network finds most probable."""

from __future__ import annotations

import base64
import io
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.inspection.filters import fit
from etude.inspection.scene import Scene

if TYPE_CHECKING:
    import pandas as pd

    from etude.inspection.load import Run

log = logging.getLogger(__name__)
COUNT, LARGEST = 8, 4000  # clips; values of a small picture


def gallery(run: Run, but: str) -> list[dict[str, Any]]:
    """Random clips of the test part, always the same ones.

    Args:
        run: With its table of predictions; without one there is no gallery.
        but: Id of a clip that is shown already.

    Returns:
        Of each clip `id`, `picture` as a data URI, and `labels`: `name`, `true` class, and `top`, three classes with
        their probabilities.
    """
    table = run.predictions()
    names = [name for name, target in run.network.task.targets.items() if target.kind == "label"]
    if table is None or not names:
        return []
    needed = {f"{name}.{column}" for name in names for column in ["true", *_scores(run, name)]}
    if lacking := sorted(needed - set(table.columns)):
        log.warning("%s: no other clips are shown: predictions.parquet has no column %s", run.folder, lacking[0])
        return []
    rows = {str(clip): row for row, clip in enumerate(run.pack.index["id"])}
    test = table[(table["split"] == "test") & table["id"].astype(str).isin(rows) & (table["id"].astype(str) != but)]
    chosen = np.random.default_rng(0).permutation(len(test))[:COUNT]
    return [_small(test.iloc[int(k)], rows, names, run) for k in chosen]


def _scores(run: Run, name: str) -> list[str]:
    """Return the columns of a label's probabilities, without the label's name."""
    return [f"score.{one}" for one in getattr(run.network.task.targets[name], "classes", [])]


def _small(said: pd.Series, rows: dict[str, int], names: list[str], run: Run) -> dict[str, Any]:
    clip = str(said["id"])
    frames = np.asarray(run.pack.clip(rows[clip])[:, run.columns], np.float32)
    scene = Scene(run.front, run.columns, len(frames))
    labels = []
    for name in names:
        scores = ((column.removeprefix("score."), float(said[f"{name}.{column}"])) for column in _scores(run, name))
        top = sorted(scores, key=lambda pair: -pair[1])[:3]
        true = said[f"{name}.true"]
        labels.append({"name": name, "true": None if true is None or true != true else str(true), "top": top})
    return {"id": clip, "picture": png(scene.upright(fit(scene.even(frames), LARGEST))), "labels": labels}


def png(picture: np.ndarray) -> str:
    """Values (h, w) in the colours of every spectrogram, as the data URI of a PNG."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, cmap=colormaps["magma"].resampled(64), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
