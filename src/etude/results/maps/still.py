"""One map that stands still, for a page that has no room for more: coordinates of a table, and their drawing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.results.maps.methods import METHODS
from etude.results.maps.project import NoMap, project
from etude.results.maps.read import embeddings
from etude.results.svg import STAND_IN, svg

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MARKERS = "osD^vPXh"
MOST = 16
"""Classes that a colour and a mark tell apart on a small drawing."""
THIRDS = ("group-7", "network", "group-3")
"""Colours of the low, middle and high third of a scalar, whose marks grow with it."""


def coordinates(table: pd.DataFrame, method: str = "pca", split: str = "test", seed: int = 0) -> pd.DataFrame:
    """Where the clips of a table lie in the plane.

    Args:
        table: predictions.parquet of a run.
        method: "pca" takes milliseconds; any other key of METHODS, such as "tsne" or "umap".
        split: Which clips.
        seed: Of the method.

    Returns:
        Columns x and y; the index is that of the table's rows.

    Raises:
        NoMap: There is none; the message says why, in a sentence for a page.
    """
    import pandas as pd

    part = table[table["split"] == split]
    if part.empty:
        raise NoMap(f"There are no clips of the part {split}.")
    x = embeddings(part)
    finite = np.isfinite(x).all(1)
    made = project(x[finite], method, 2, seed)
    return pd.DataFrame(made.at, index=part.index[finite][made.rows], columns=["x", "y"])


def map_figure(at: pd.DataFrame, table: pd.DataFrame, name: str, target: dict[str, Any], method: str = "pca") -> str:
    """Draw coordinates, coloured by the truth of one target.

    Args:
        at: As `coordinates` returns them.
        table: The table that they are of.
        name: Of the target.
        target: Its kind, and classes of a label.
        method: By which they were made, for the description.

    Returns:
        An SVG for a page; clips without a truth are small and grey.
    """
    true = table.loc[at.index, f"{name}.true"]
    known = true.notna().to_numpy()
    x, y = at["x"].to_numpy(), at["y"].to_numpy()

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(x[~known], y[~known], "o", color=STAND_IN["constant"], markersize=2.5)
        for here, label, look in _series(true, known, target):
            style: dict[str, Any] = {"linestyle": "", "markersize": 5, "markeredgewidth": 0, "alpha": 0.85} | look
            axes.plot(x[here], y[here], label=label, **style)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        for side in axes.spines.values():
            side.set(visible=True, color=STAND_IN["rule"])
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.02),
            ncols=3,
            frameon=False,
            labelcolor=STAND_IN["ink"],
            handletextpad=0.1,
            columnspacing=1,
            fontsize=10,
        )

    about = f"{METHODS[method].title} of the embeddings of {len(at)} clips, coloured by {name}."
    return svg(draw, f"map-{name}", (4.2, 3.8), about)


def _series(true: pd.Series, known: np.ndarray, target: dict[str, Any]) -> list[tuple[np.ndarray, str, dict[str, Any]]]:
    """Which clips, what they are called, how they look: classes (the rarest of many together), thirds of a scalar."""
    from etude.results.figures import short

    if target["kind"] == "scalar":
        values = true.to_numpy(dtype=np.float64)
        ends = np.nanquantile(values, [0, 1 / 3, 2 / 3, 1])
        third = np.where(known, np.searchsorted(ends[1:3], np.where(known, values, 0), side="right"), -1)
        names = [f"{low:.2f} to {high:.2f}" for low, high in pairwise(ends)]
        look: list[dict[str, Any]] = [
            {"marker": "o", "color": STAND_IN[role], "markersize": 3 + 1.5 * i} for i, role in enumerate(THIRDS)
        ]
        return [(third == i, names[i], look[i]) for i in range(3) if (third == i).any()]
    text = true.astype(object).to_numpy()
    counts = true.value_counts()
    classes = [name for name in target["classes"] if name in counts.index]
    kept = classes if len(classes) <= MOST else sorted(counts.index[: MOST - 1])
    series: list[tuple[np.ndarray, str, dict[str, Any]]] = [
        (text == name, short(name), {"marker": MARKERS[(i + i // 8) % 8], "color": STAND_IN[f"group-{i % 8 + 1}"]})
        for i, name in enumerate(kept)
    ]
    rest = known & ~np.isin(text.astype(str), kept)
    if rest.any():
        label = f"{len(classes) - len(kept)} others"
        series.append((rest, label, {"marker": "o", "color": STAND_IN["constant"], "markersize": 3}))
    return series
