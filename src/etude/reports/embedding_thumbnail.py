"""Two-dimensional maps of the test embeddings of a run, for its report.

Principal components preserve distances as well as two dimensions allow. t-SNE (van der Maaten & Hinton 2008) preserves
neighbours; distances between its clusters have no meaning. Both maps are computed from standardised embeddings with a
fixed seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.reports.charts import MARKERS, Panel, marker_path, padded_range
from etude.reports.figures import subsample

if TYPE_CHECKING:
    from pandas import DataFrame


MIN_CLIPS, MAX_CLIPS = 12, 300  # t-SNE of more clips would take too long at the end of a run
MAX_CLASSES = 16


def embedding_maps(table: DataFrame, targets: dict[str, Any], pooled: bool = False) -> dict[str, Any]:
    """Draw maps of the embeddings of the test split.

    Args:
        table: Content of predictions.parquet.
        targets: Kind and classes of each target. Colours and markers show the first label. Without labels, they show
            groups.
        pooled: Whether the table contains predictions of several networks.

    Returns:
        - `maps`: title and SVG of both maps
        - `legend`: name, colour role and marker path of each class
        - `coloured_by`: name of the label, or `group`
        - `has_errors`: whether errors are marked by circles
        - `omitted`: number of omitted clips
        - `reason`: sentence that replaces missing maps
    """
    clips = table[table["split"] == "test"]
    if "embedding" in clips:
        clips = clips[clips["embedding"].notna()]
    if pooled:
        reason = "each fold has its own network, and the networks have different embedding spaces"
    elif "embedding" not in clips:
        reason = "the table of predictions has no embeddings"
    elif len(clips) < MIN_CLIPS:
        reason = f"there are {len(clips)} test clips; a map requires {MIN_CLIPS}"
    else:
        clips, omitted = subsample(clips, MAX_CLIPS)
        z = np.stack(clips["embedding"].to_list()).astype(np.float64)
        if z.ndim == 2 and np.isfinite(z).all() and (z.std(0) > 0).sum() >= 2:
            return _draw_maps(clips, z, targets) | {"omitted": omitted, "reason": ""}
        reason = "the embeddings vary in fewer than two dimensions, or are not finite"
    reason = f"There is no map: {reason}."
    return {"maps": [], "legend": [], "coloured_by": "", "has_errors": False, "omitted": 0, "reason": reason}


def project_embeddings(z: np.ndarray) -> dict[str, np.ndarray]:
    """Return a dictionary from the name of a method to its projection (n, 2) of embeddings (n, D)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    deviation = z.std(0)
    z = (z - z.mean(0))[:, deviation > 0] / deviation[deviation > 0]
    components = PCA(min(50, *z.shape), svd_solver="full").fit_transform(z)
    init = _tsne_init(components[:, :2])
    tsne = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), init=init, random_state=0, max_iter=500)
    return {"Principal components": components[:, :2], "t-SNE": tsne.fit_transform(components)}


def _tsne_init(components: np.ndarray) -> np.ndarray:
    """Return small principal components as the initial positions of t-SNE (Kobak & Berens 2019)."""
    return (components / components[:, 0].std() * 1e-4).astype(np.float32)


def _draw_maps(clips: DataFrame, z: np.ndarray, targets: dict[str, Any]) -> dict[str, Any]:
    """Return maps and legend for the rows of clips and their embeddings (n, D)."""
    label = next((name for name, spec in targets.items() if spec["kind"] == "label"), None)
    column = f"{label}.true" if label else "group"
    values = clips[column].astype(object).where(clips[column].notna(), None)
    names = targets[label]["classes"] if label else values.value_counts().index.tolist()
    if len(names) > MAX_CLASSES:  # more classes cannot be distinguished
        names = [name for name in names if name in set(values.value_counts().index[:MAX_CLASSES])]
    indices = np.array([names.index(v) if v in names else -1 for v in values])
    rest = f"other {'classes' if label else 'groups'}" if values.notna().all() else "other or unknown"
    styles = [(str(name), f"group-{i % 8 + 1}", MARKERS[(i + i // 8) % 8]) for i, name in enumerate(names)]
    styles += [(rest, "constant", "o")] if (indices < 0).any() else []
    wrong = (clips[f"{label}.pred"] != clips[column]).to_numpy() & values.notna().to_numpy() if label else indices < -1
    maps = []
    for title, points in project_embeddings(z).items():
        description = f"{title} of {len(z)} test embeddings, marked by {label or 'group'}."
        x, y = padded_range(points[:, 0]), padded_range(points[:, 1])
        panel = Panel(x, y, description, "", "", (420, 320), [], [], left=12)
        for i, (_, role, shape) in enumerate(styles):
            mask = indices == (i if i < len(names) else -1)
            panel.points(points[mask, 0], points[mask, 1], role, shape, 3.4)
        panel.points(points[wrong, 0], points[wrong, 1], "ink", "o", 6.4, hollow=True)
        maps.append((title, panel.svg()))
    legend = [(name, role, marker_path(shape, 4)) for name, role, shape in styles]
    return {"maps": maps, "legend": legend, "coloured_by": label or "group", "has_errors": bool(wrong.any())}
