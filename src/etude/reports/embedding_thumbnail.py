"""Small map of the test embeddings of a run.

Principal components keep distances as well as a plane can; t-SNE (van der Maaten & Hinton 2008) keeps neighbours, and
its distances between clusters mean nothing. Both see standardised embeddings, and have a fixed seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.reports.charts import MARKERS, Panel, around, marker
from etude.reports.figures import subsample

if TYPE_CHECKING:
    from pandas import DataFrame


LEAST, MOST = 12, 300  # clips; t-SNE of more would keep a run waiting
CLASSES = 16


def embedding_maps(table: DataFrame, targets: dict[str, Any], pooled: bool = False) -> dict[str, Any]:
    """Draw the embeddings of the test part.

    Args:
        table: predictions.parquet.
        targets: Kind and classes of each target; the first label gives colours and marks, else the groups do.
        pooled: Whether the table is of several networks.

    Returns:
        `drawn`, (title, svg) of both maps; `legend`, (name, role, path of the mark) of each class; `by`, what the marks
        tell; `rings`, whether wrong ones are ringed; `left`, clips that were left out; `why`, a sentence in place of
        maps.
    """
    part = table[table["split"] == "test"]
    if "embedding" in part:
        part = part[part["embedding"].notna()]
    if pooled:
        why = "each fold has a network of its own, and their embeddings do not share a space"
    elif "embedding" not in part:
        why = "the table of predictions has no embeddings"
    elif len(part) < LEAST:
        why = f"of {len(part)} test clips no map can be read; {LEAST} are needed"
    else:
        part, left = subsample(part, MOST)
        z = np.stack(part["embedding"].to_list()).astype(np.float64)
        if z.ndim == 2 and np.isfinite(z).all() and (z.std(0) > 0).sum() >= 2:
            return _drawn(part, z, targets) | {"left": left, "why": ""}
        why = "the embeddings are one point or one line"
    return {"drawn": [], "legend": [], "by": "", "rings": False, "left": 0, "why": f"There is no map: {why}."}


def points(z: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings (n, D) to places (n, 2), by the name of the method."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    spread = z.std(0)
    z = (z - z.mean(0))[:, spread > 0] / spread[spread > 0]
    principal = PCA(min(50, *z.shape), svd_solver="full").fit_transform(z)
    tsne = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), init=_start(principal[:, :2]), random_state=0, max_iter=500)
    return {"Principal components": principal[:, :2], "t-SNE": tsne.fit_transform(principal)}


def _start(plane: np.ndarray) -> np.ndarray:
    """Where t-SNE begins: at the principal plane, small (Kobak & Berens 2019)."""
    return (plane / plane[:, 0].std() * 1e-4).astype(np.float32)


def _drawn(part: DataFrame, z: np.ndarray, targets: dict[str, Any]) -> dict[str, Any]:
    label = next((name for name, spec in targets.items() if spec["kind"] == "label"), None)
    column = f"{label}.true" if label else "group"
    values = part[column].astype(object).where(part[column].notna(), None)
    known = targets[label]["classes"] if label else values.value_counts().index.tolist()
    if len(known) > CLASSES:  # the others are too many to be told apart
        known = [name for name in known if name in set(values.value_counts().index[:CLASSES])]
    which = np.array([known.index(v) if v in known else -1 for v in values])
    rest = f"other {'classes' if label else 'groups'}" if values.notna().all() else "others, or not known"
    styles = [(str(name), f"group-{i % 8 + 1}", MARKERS[(i + i // 8) % 8]) for i, name in enumerate(known)]
    styles += [(rest, "constant", "o")] if (which < 0).any() else []
    wrong = (part[f"{label}.pred"] != part[column]).to_numpy() & values.notna().to_numpy() if label else which < -1
    drawn = []
    for title, place in points(z).items():
        about = f"{title} of {len(z)} test embeddings, marked by {label or 'group'}."
        panel = Panel(around(place[:, 0]), around(place[:, 1]), about, "", "", (420, 320), [], [], left=12)
        for i, (_, role, shape) in enumerate(styles):
            here = which == (i if i < len(known) else -1)
            panel.points(place[here, 0], place[here, 1], role, shape, 3.4)
        panel.points(place[wrong, 0], place[wrong, 1], "ink", "o", 6.4, hollow=True)
        drawn.append((title, panel.svg()))
    legend = [(name, role, marker(shape, 4)) for name, role, shape in styles]
    return {"drawn": drawn, "legend": legend, "by": label or "group", "rings": bool(wrong.any())}
