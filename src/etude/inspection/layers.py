"""The parts of a network as pictures: what each gave and its gradient; filters and theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from etude.inspection import pictures
from etude.inspection.filters import UNITS, extremes, filters, fit, time_first, varied
from etude.inspection.scene import Scene
from etude.inspection.trace import Point
from etude.results.exploration.spectra import shrink

PARTS = 24  # that are drawn; the table has all
BUDGET = 1_400_000  # values in all tiles of a page together


@dataclass(frozen=True)
class Drawn:
    """A part with its pictures: each a caption and a drawing."""

    title: str
    note: str
    figures: list[tuple[str, str]]


def kind(point: Point, grid: tuple[int, int] | None) -> str:
    """What a part's values are: `maps` (1, C, ., .), `states` over time, `tokens` of patches, or a `vector`."""
    if point.value.ndim == 4:
        return "maps" if point.value.shape[2] * point.value.shape[3] > 1 else "vector"
    if point.value.ndim != 3 or point.name == "input":
        return "vector"
    if grid is None or point.recurrent:
        return "states"
    return "tokens" if point.value.shape[1] >= grid[0] * grid[1] else "vector"  # of the few tokens that are read


def patches(points: Sequence[Point]) -> tuple[int, int] | None:
    """Columns and rows of the patches that tokens are of: the last pictures before the first tokens."""
    shape = None
    for point in points:
        if point.value.ndim == 4:
            shape = (int(point.value.shape[2]), int(point.value.shape[3]))
        elif point.value.ndim == 3 and shape is not None and not point.recurrent:
            return shape
    return None


def draw(points: Sequence[Point], scene: Scene) -> list[Drawn]:
    """Pictures of the parts of a network, from input to output; of large networks those of the layers alone."""
    grid = patches(points)
    kinds = {id(point): kind(point, grid) for point in points}
    chosen = [point for point in points if kinds[id(point)] != "vector"]
    # a block that ends in a rectifier gives what this gives, and is not drawn twice
    chosen = [point for k, point in enumerate(chosen) if not k or not torch.equal(point.value, chosen[k - 1].value)]
    if len(chosen) > PARTS:
        chosen = [point for k, point in enumerate(chosen) if point.layer or not k]
    if len(chosen) > PARTS:
        chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, PARTS).round().astype(int)]
    blocks = [point for point in chosen if kinds[id(point)] == "tokens"]
    most = max(1200, BUDGET // (2 * UNITS * max(1, len(chosen))))
    found = []
    for place, point in enumerate(chosen):
        if kinds[id(point)] == "tokens":
            if point is blocks[0]:
                assert grid is not None
                found.append(_tokens(blocks, grid, scene))
            continue
        made = _states(point, scene, place) if kinds[id(point)] == "states" else _maps(point, scene, most, place)
        found.append(made)
    return found


def _maps(point: Point, scene: Scene, most: int, place: int) -> Drawn:
    """Feature maps, and for a convolution its filters."""
    which, (x, y) = varied(point), scene.ends()
    pairs = [("Activations", point.value), ("Gradient of the loss by the activations", point.gradient)]
    figures = []
    for k, (caption, values) in enumerate(pairs):
        if values is None:
            continue
        grids = [scene.upright(fit(time_first(values[0, unit], point.time), most)) for unit in which]
        shape = 0.72 if scene.sound else grids[0].shape[0] / grids[0].shape[1]
        about = f"{caption} of {point.name}: {len(which)} of {values.shape[1]} units, on one scale."
        drawn = pictures.tiles(f"maps-{place}-{k}", about, grids, 4, x, y, [str(unit) for unit in which], shape)
        figures.append((f"{caption}.{extremes(values)}", drawn))
    figures += filters(point, which, f"filters-{place}", scene)
    some = (
        f"The {len(which)} of {point.value.shape[1]} units that vary most." if len(which) < point.value.shape[1] else ""
    )
    return Drawn(_title(point), some, figures)


def _states(point: Point, scene: Scene, place: int) -> Drawn:
    """States over time: units from below, seconds to the right."""
    pairs = [("States", point.value), ("Gradient of the loss by the states", point.gradient)]
    figures = []
    for k, (caption, values) in enumerate(pairs):
        if values is None:
            continue
        grid = shrink(values[0].detach().double().numpy(), pictures.MOST)
        about = f"{caption} of {point.name}: {values.shape[2]} units over time."
        y = ("unit", "0", str(values.shape[2] - 1))
        drawn = pictures.tiles(f"states-{place}-{k}", about, [grid.T[::-1]], 1, scene.ends()[0], y)
        figures.append((f"{caption}.{extremes(values)}", drawn))
    return Drawn(_title(point), "", figures)


def _tokens(blocks: Sequence[Point], grid: tuple[int, int], scene: Scene) -> Drawn:
    """Length of the token of each patch after every block."""
    x, y = scene.ends()
    pairs: list[tuple[str, list[Tensor | None]]] = [
        ("Length of the token of each patch", [block.value for block in blocks]),
        ("Length of the gradient of the loss by each token", [block.gradient for block in blocks]),
    ]
    figures, labels = [], [block.name.rpartition(".")[2] for block in blocks]
    for k, (caption, values) in enumerate(pairs):
        shown = [scene.upright(lengths(value, grid)) for value in values if value is not None]
        names = [label for label, value in zip(labels, values, strict=True) if value is not None]
        if shown:
            about = f"{caption} after {', '.join(names)}, at its place in the clip."
            drawn = pictures.tiles(f"tokens-{k}", about, shown, 3, x, y, names)
            figures.append((f"{caption}, at its place in the clip.", drawn))
    note = "After the last block only the tokens that are read count, so that no patch has a gradient there."
    return Drawn(f"Patches and blocks · {grid[0]} x {grid[1]} patches (time x frequency)", note, figures)


def lengths(value: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Euclidean length of the token of each patch (columns, rows), of tokens (1, N, D)."""
    return value[0, -grid[0] * grid[1] :].double().norm(dim=1).unflatten(0, grid).numpy()


def _title(point: Point) -> str:
    return f"{point.name} · {point.module} · {' x '.join(map(str, point.value.shape[1:]))}"
