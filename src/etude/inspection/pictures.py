"""Arrays as drawings: signed values in orange and blue about a white 0, others from dark to light; with scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from etude.inspection.scale import SHADES, Scale
from etude.inspection.scene import Ends, Scene
from etude.results.exploration.canvas import plain
from etude.results.svg import STAND_IN, svg

WIDTH = 3.9  # inches
MOST = 450  # columns of a large picture


def large(name: str, about: str, scene: Scene, grid: np.ndarray, unit: str = "", magma: bool = False) -> str:
    """One picture of a clip (T, F), with its axes and its scale; `magma` for what goes in, as on every page."""
    scene, grid = scene.shrunk(grid, MOST)
    scale = Scale.of([grid], None)

    def draw(figure: Any) -> None:
        from matplotlib import colormaps

        axes = figure.add_subplot()
        colours = colormaps["magma"].resampled(SHADES) if magma else scale.colours
        extent = scene.dress(axes)
        ends = (float(grid.min()), float(grid.max())) if magma else (scale.low, scale.high)
        look: dict[str, Any] = {"cmap": colours, "vmin": ends[0], "vmax": ends[1], "interpolation": "none"}
        shown = axes.imshow(scene.upright(grid), extent=extent, aspect="auto" if scene.sound else "equal", **look)
        (Scale(*ends, False) if magma else scale).bar(axes, shown, unit)

    return svg(draw, name, (WIDTH, 2.2 if scene.sound else 3.2), about)


def over(name: str, about: str, scene: Scene, base: np.ndarray, layer: np.ndarray, unit: str = "") -> str:
    """Values (T, F) laid over the frames (T, F) that they belong to, which are grey; 0 is left transparent."""
    small, ground = scene.shrunk(base, MOST)
    _, layer = scene.shrunk(layer, MOST)
    scale = Scale.of([layer], 0.0)

    def draw(figure: Any) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        axes = figure.add_subplot()
        norm = Normalize(scale.low, scale.high, clip=True)
        low, high = np.percentile(ground, 1), np.percentile(ground, 99)
        grey = 0.25 + 0.6 * np.clip((ground - low) / ((high - low) or 1), 0, 1)[..., None]
        colours, strength = scale.colours, np.clip(np.abs(layer) / (scale.high or 1), 0, 1)[..., None] ** 0.6
        hue = colours(norm(layer))[..., :3]
        mixed = (
            np.round(((1 - 0.92 * strength) * grey + 0.92 * strength * hue) * 48) / 48
        )  # fewer colours, less to send
        extent = small.dress(axes)
        picture = np.stack([small.upright(mixed[..., k]) for k in range(3)], -1)
        axes.imshow(picture, extent=extent, aspect="auto" if small.sound else "equal", interpolation="none")
        scale.bar(axes, ScalarMappable(norm, colours), unit)

    return svg(draw, name, (WIDTH, 2.2 if scene.sound else 3.2), about)


def tiles(
    name: str, about: str, grids: Sequence[np.ndarray], across: int, x: Ends, y: Ends,
    labels: Sequence[str] = (), shape: float = 0.7, scale: Scale | None = None,
) -> str:  # fmt: skip
    """Pictures of one size, side by side on one scale.

    Args:
        name: Of the drawing.
        about: What it shows, for those who do not see it.
        grids: Rows from the top (h, w) each.
        across: How many stand in a row.
        x: What the horizontal axis of each is called, and what stands at its ends.
        y: The same of the vertical one, from below.
        labels: Above each.
        shape: Height of a picture for its width, as drawn.
        scale: None: that of these values.
    """
    scale = scale or Scale.of(grids)
    height, width = grids[0].shape
    room = WIDTH - 0.95
    above = 0.16 * 1.06 * across / (room * shape) if labels else 0.08  # room for a label, as a share of a picture
    gap_y, gap_x = max(1, round(above * height)), max(1, round(0.06 * width))
    down = -(-len(grids) // across)
    sheet = np.full((down * (height + gap_y), across * (width + gap_x) - gap_x), np.nan)
    corners = [((k // across) * (height + gap_y) + gap_y, (k % across) * (width + gap_x)) for k in range(len(grids))]
    for (top, left), grid in zip(corners, grids, strict=True):
        sheet[top : top + height, left : left + width] = grid
    tall = room * shape * width / sheet.shape[1] * sheet.shape[0] / height

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        look: dict[str, Any] = {"cmap": scale.colours, "vmin": scale.low, "vmax": scale.high, "interpolation": "none"}
        shown = axes.imshow(np.ma.masked_invalid(sheet), aspect="auto", **look)
        for (top, left), label in zip(corners, labels, strict=False):
            axes.text(left - 0.5, top - 0.8, plain(label, 14), fontsize=8, va="bottom", color=STAND_IN["muted"])
        lefts, tops = sorted({left for _, left in corners}), sorted({top for top, _ in corners})
        ends = (lefts[0] - 0.5, lefts[0] + width - 0.5) if any(x[1:]) else ()  # of the first column, for all
        axes.set_xticks(ends, x[1:] if ends else (), fontsize=8.5)
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=False):
            label.set_ha(side)
        marks = [(top + height - 0.5, y[1]) for top in tops] + [(top - 0.5, y[2]) for top in tops] if any(y[1:]) else []
        axes.set_yticks([at for at, _ in marks], [text for _, text in marks], fontsize=8.5)
        for label, side in zip(axes.get_yticklabels(), ["bottom"] * len(tops) + ["top"] * len(tops), strict=False):
            label.set_va(side)
        axes.set(xlabel=x[0], ylabel=y[0])
        axes.tick_params(length=2)
        axes.spines[:].set_visible(False)
        scale.bar(axes, shown)

    return svg(draw, name, (WIDTH, min(9.0, max(1.2, tall)) + 0.55), about)
