"""Learning curves of a run and maps of its test embeddings, for its report.

All panels have the same legend. Training values are a dashed line with squares, and validation values are a solid line
with circles. A dotted line marks the epoch whose weights were used for the predictions.

Principal components preserve distances as well as two dimensions allow. t-SNE (van der Maaten & Hinton 2008) preserves
neighbours; distances between its clusters have no meaning. Both maps are computed from standardised embeddings with a
fixed seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.formatting import NAMES, capitalise_first, format_number
from etude.reports.charts import MARKERS, Panel, marker_path, padded_range
from etude.reports.figures import subsample

if TYPE_CHECKING:
    from pandas import DataFrame, Series


TRAIN, VAL = ("constant", "5 3", "s"), ("network", "", "o")
"""Colour role, dashes and marker of a line."""
MAX_MARKERS = 40  # points of a line; a longer line has no markers
MAX_RATES = 6

Drawings = list[tuple[str, str]]
"""Title and SVG of each panel."""


def draw_learning_curves(log: DataFrame, best_epoch: int | None, monitor: str | None = None) -> dict[str, Any]:
    """Draw the content of curves.csv.

    Args:
        log: One row per logged step, in which most cells are empty. Columns are epoch, step, train/loss,
            val/{target}/{metric}, lr, and so on.
        best_epoch: Epoch whose weights were used for the predictions. It is marked in each panel.
        monitor: Column by which this epoch was selected.

    Returns:
        - `panels`: title and SVG of each panel
        - `legend`: the curves that are present: train, val, best
        - `notes`: sentences about values that are not drawn

        All are empty if nothing was logged.
    """
    epochs = log.groupby("epoch").mean(numeric_only=True) if "epoch" in log else log.iloc[:0]
    series = {str(c): epochs[c].dropna() for c in epochs.columns if str(c) != "step" and epochs[c].notna().any()}
    losses, scores = _draw_losses(series, best_epoch), _draw_scores(series, best_epoch, monitor)
    weights, weight_notes = _draw_loss_weights(series, best_epoch)
    rates, rate_notes = _draw_learning_rates(log, series, best_epoch)
    drawings = [*losses, *scores, *weights, *rates]
    splits = [split for split in ("train", "val") if any(name.startswith(f"{split}/") for name in series)]
    marked = best_epoch is not None and any(best_epoch in values.index for values in series.values())
    legend = splits + ["best"] * marked if drawings else []
    return {"panels": drawings, "legend": legend, "notes": [*weight_notes, *rate_notes]}


def _draw_losses(series: dict[str, Series[float]], best_epoch: int | None) -> Drawings:
    """Draw the total loss and the loss of each target, on training and validation data."""
    names = [n for n in dict.fromkeys(n.split("/", 1)[1] for n in series if "/" in n) if n.split("/")[-1] == "loss"]
    if len(names) == 2:  # with a single target, its loss equals the total loss
        names = [name for name in names if name == "loss"]
    drawings = []
    for name in sorted(names, key=lambda name: name != "loss"):
        lines = [(series[f"{split}/{name}"], style) for split, style in (("train", TRAIN), ("val", VAL))
                 if f"{split}/{name}" in series]  # fmt: skip
        title = "loss" if name == "loss" else f"loss of {name.removesuffix('/loss')}"
        drawings.append((title, _draw_panel(lines, best_epoch, f"{title} (no unit)")))
    return drawings


def _draw_scores(series: dict[str, Series[float]], best_epoch: int | None, monitor: str | None) -> Drawings:
    """Draw the scores of each target on validation data."""
    names = [n for n in series if n.startswith("val/") and n.split("/")[-1] != "loss"]
    if monitor in series and monitor not in names and not str(monitor).endswith("loss"):
        names.append(str(monitor))
    if len([name for name in names if name != "val/score"]) == 1:  # a single score is equal to the mean score
        names = [name for name in names if name != "val/score" or len(names) == 1]
    drawings = []
    for name in sorted(names, key=lambda name: name != "val/score"):
        *target, metric = name.split("/")[1:]
        metric_name = "mean of the primary scores" if name == "val/score" else NAMES.get(metric, metric)
        title = f"{metric_name} of {'/'.join(target)}" if target else metric_name
        panel = _draw_panel([(series[name], VAL)], best_epoch, f"{title} on validation")
        drawings.append((f"{title}, validation", panel))
    return drawings


def _draw_loss_weights(series: dict[str, Series[float]], best_epoch: int | None) -> tuple[Drawings, list[str]]:
    """Draw the loss weight of each target, or describe constant weights in a sentence."""
    weights = {n.split("/")[1]: v for n, v in series.items() if n.startswith("train/") and n.endswith("/weight")}
    if weights and all(values.nunique() == 1 for values in weights.values()):
        constants = ", ".join(f"{name} {format_number(float(values.iloc[0]))}" for name, values in weights.items())
        return [], [f"The loss weights of the targets were constant: {constants}."]
    # one scale for all panels, because the weights have a constant sum
    ends = padded_range([value for values in weights.values() for value in values])
    return [
        (f"loss weight of {name}", _draw_panel([(v, TRAIN)], best_epoch, f"loss weight of {name} (no unit)", ends))
        for name, v in weights.items()
    ], []


def _draw_learning_rates(
    log: DataFrame, series: dict[str, Series[float]], best_epoch: int | None
) -> tuple[Drawings, list[str]]:
    """Draw the learning rate of each parameter group, and count the groups that are not drawn in a sentence."""
    names = [str(c) for c in log.columns if str(c) == "lr" or str(c).startswith(("lr/", "lr-"))]
    drawings = []
    for name in names[:MAX_RATES]:
        title = "learning rate" if name == "lr" else f"learning rate of group {name[3:]}"
        if name in series:
            drawings.append((title, _draw_panel([(series[name], TRAIN)], best_epoch, title)))
        elif "step" in log and log[name].notna().any():  # logged by step and not by epoch
            values = log.set_index("step")[name].dropna()
            drawings.append((title, _draw_panel([(values, TRAIN)], None, title, xlabel="step")))
    omitted = len(names) - MAX_RATES
    if omitted <= 0:
        return drawings, []
    return drawings, [f"The learning rates of {omitted} more parameter groups are in curves.csv."]


def _draw_panel(
    lines: list[tuple[Series[float], tuple[str, str, str]]],
    best_epoch: int | None,
    title: str,
    ends: tuple[float, float] | None = None,
    xlabel: str = "epoch",
) -> str:
    """Return lines over epochs or steps as SVG. Later lines are drawn over earlier ones.

    Args:
        lines: Values and style of each line.
        best_epoch: Epoch that is marked, or None.
        title: Name of the values, with their unit.
        ends: Range of y. None selects the range of the values.
        xlabel: Label of x.
    """
    steps = [float(step) for values, _ in lines for step in values.index]
    y = ends or padded_range([float(value) for values, _ in lines for value in values])
    last = lines[-1][0]
    first_value, last_value = format_number(float(last.iloc[0]), 3), format_number(float(last.iloc[-1]), 3)
    description = f"{capitalise_first(title)} by {xlabel}, from {first_value} to {last_value}"
    description += f"; the predictions use the weights of epoch {best_epoch}." if best_epoch is not None else "."
    panel = Panel(padded_range(steps, 0.03), y, description, xlabel, "", (300, 178), integer=True)
    if best_epoch is not None and min(steps) <= best_epoch <= max(steps):
        panel.line([best_epoch, best_epoch], y, "muted", "1.5 3", 1.2)
    for values, (role, dash, shape) in lines:
        xs, ys = [float(step) for step in values.index], [float(value) for value in values]
        panel.line(xs, ys, role, dash)
        if len(xs) <= MAX_MARKERS:
            panel.points(xs, ys, role, shape, 2.4)
    return panel.svg()


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
