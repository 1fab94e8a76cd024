"""Pictures and statistics of layers: activations, gradients and filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.inspection import clip_axes
from etude.inspection.clip_axes import Scene
from etude.inspection.hooks import Point
from etude.reports.spectrogram import average_frames

UNITS, INPUTS = 16, 8  # shown of a part; of the channels that go into a filter
PARTS = 24  # that are drawn; the table has all
BUDGET = 1_400_000  # values in all tiles of a page together


@dataclass(frozen=True)
class LayerFigures:
    """Drawings of a module with their captions."""

    title: str
    note: str
    figures: list[tuple[str, str]]


def statistics(point: Point) -> dict[str, Any]:
    """Return the statistics of one module.

    Returns:
        `name`, `module`, `shape` without the batch, `weights` (how many), `layer`; `activation`, `gradient`, `weight`
        and `weight_gradient`, each with min, max, mean and norm, or none; `units` and `dead`, how many of these have
        one value everywhere; None for the input.
    """
    return {
        "name": point.name,
        "module": point.module,
        "shape": list(point.value.shape[1:]),
        "weights": point.weights,
        "layer": point.layer,
        "activation": spread(point.value),
        "gradient": spread(point.gradient),
        "weight": spread(point.weight),
        "weight_gradient": spread(point.weight_gradient),
        "units": units(point.value).shape[0],
        "dead": None if point.name == "input" else int(dead(point.value).sum()),
    }


def draw(points: Sequence[Point], scene: Scene) -> list[LayerFigures]:
    """Draw the modules of a network, from input to output; of large networks those of the layers alone."""
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
    for number, point in enumerate(chosen):
        if kinds[id(point)] == "tokens":
            if point is blocks[0]:
                assert grid is not None
                found.append(_tokens(blocks, grid, scene))
            continue
        made = _states(point, scene, number) if kinds[id(point)] == "states" else _maps(point, scene, most, number)
        found.append(made)
    return found


def kind(point: Point, grid: tuple[int, int] | None) -> str:
    """Return the kind of values: `maps` (1, C, ., .), `states` over time, `tokens` of patches, or a `vector`."""
    if point.value.ndim == 4:
        return "maps" if point.value.shape[2] * point.value.shape[3] > 1 else "vector"
    if point.value.ndim != 3 or point.name == "input":
        return "vector"
    if grid is None or point.recurrent:
        return "states"
    return "tokens" if point.value.shape[1] >= grid[0] * grid[1] else "vector"  # of the few tokens that are read


def patches(points: Sequence[Point]) -> tuple[int, int] | None:
    """Return columns and rows of the patches of the tokens: the last pictures before the first tokens."""
    shape = None
    for point in points:
        if point.value.ndim == 4:
            shape = (int(point.value.shape[2]), int(point.value.shape[3]))
        elif point.value.ndim == 3 and shape is not None and not point.recurrent:
            return shape
    return None


def varied(point: Point, count: int = UNITS) -> list[int]:
    """Return the units that vary most over the clip, in their own order; all when there are no more than that."""
    spread = units(point.value).std(1, correction=0)
    return sorted(spread.argsort(descending=True, stable=True)[:count].tolist())


def units(value: Tensor) -> Tensor:
    """Return values by unit (U, places): channels of pictures (1, C, ., .), else the last axis."""
    return value[0].flatten(1) if value.ndim == 4 else value.movedim(-1, 0).flatten(1)


def dead(value: Tensor) -> Tensor:
    """Return which units (U,) do not depend on the clip: one value at all places, or 0 where there is one place."""
    by_unit = units(value)
    if by_unit.shape[1] == 1:
        return by_unit[:, 0] == 0
    return by_unit.amin(1) == by_unit.amax(1)


def spread(values: Tensor | None) -> dict[str, float] | None:
    """Return smallest, largest and mean value of a tensor, and its Euclidean norm."""
    if values is None:
        return None
    values = values.double()
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "norm": float(values.norm()),
    }


def fit(grid: np.ndarray, most: int) -> np.ndarray:
    """Return a grid (T', F') of at most so many values, means of neighbours where it has more."""
    shape = np.array(grid.shape, float)
    while shape.prod() > most:
        shape[shape.argmax()] /= 2
    return average_frames(average_frames(grid, max(1, round(shape[0]))).T, max(1, round(shape[1]))).T


def time_first(picture: Tensor, time: int) -> np.ndarray:
    """Return a feature map (., .) with time along its first axis (T', F')."""
    return (picture if time == 2 else picture.T).detach().double().numpy()


def lengths(value: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Return the Euclidean length of the token of each patch (columns, rows), of tokens (1, N, D)."""
    return value[0, -grid[0] * grid[1] :].double().norm(dim=1).unflatten(0, grid).numpy()


def extremes(values: Tensor) -> str:
    """Return a sentence with both ends of all values, also of units that are not drawn."""
    return f" From {_short(values.min())} to {_short(values.max())}."


def _filters(point: Point, which: Sequence[int], name: str, scene: Scene) -> list[tuple[str, str]]:
    """Draw weights of a convolution (C', C, h, w) and the gradient of the loss by them; no filters of 1 x 1."""
    if point.weight is None or point.weight.ndim != 4 or point.weight[0, 0].numel() == 1:
        return []
    shape = point.weight.shape
    loud = point.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)[:INPUTS]
    inputs = sorted(loud.tolist())
    across = len(inputs) if len(inputs) > 1 else 4
    some = f" of {shape[0]} filters, rows, for {len(inputs)} of {shape[1]} channels, columns" if shape[1] > 1 else ""
    time, bins = ("time", "frequency") if scene.sound else ("column", "row")
    found = []
    for k, (caption, values) in enumerate((("Weights", point.weight), ("Gradient of the loss by the weights",
                                            point.weight_gradient))):  # fmt: skip
        if values is None:
            continue
        grids = [scene.upright(time_first(values[o, i], point.time)) for o in which for i in inputs]
        about = f"{caption} of {point.name}: filters of {shape[2]} x {shape[3]}."
        ratio = grids[0].shape[0] / grids[0].shape[1]
        labels = [str(unit) for unit in which] if len(inputs) == 1 else ()
        drawn = clip_axes.tiles(f"{name}-{k}", about, grids, across, (time, "", ""), (bins, "", ""), labels, ratio)
        found.append((f"{caption}{f': {len(which)}' + some if some else ''}.{extremes(values)}", drawn))
    return found


def _maps(point: Point, scene: Scene, most: int, number: int) -> LayerFigures:
    """Draw feature maps, and for a convolution its filters."""
    which, (x, y) = varied(point), scene.ends()
    pairs = [("Activations", point.value), ("Gradient of the loss by the activations", point.gradient)]
    figures = []
    for k, (caption, values) in enumerate(pairs):
        if values is None:
            continue
        grids = [scene.upright(fit(time_first(values[0, unit], point.time), most)) for unit in which]
        shape = 0.72 if scene.sound else grids[0].shape[0] / grids[0].shape[1]
        about = f"{caption} of {point.name}: {len(which)} of {values.shape[1]} units, on one scale."
        drawn = clip_axes.tiles(f"maps-{number}-{k}", about, grids, 4, x, y, [str(unit) for unit in which], shape)
        figures.append((f"{caption}.{extremes(values)}", drawn))
    figures += _filters(point, which, f"filters-{number}", scene)
    some = (
        f"The {len(which)} of {point.value.shape[1]} units that vary most." if len(which) < point.value.shape[1] else ""
    )
    return LayerFigures(_title(point), some, figures)


def _states(point: Point, scene: Scene, number: int) -> LayerFigures:
    """Draw states over time: units from below, seconds to the right."""
    pairs = [("States", point.value), ("Gradient of the loss by the states", point.gradient)]
    figures = []
    for k, (caption, values) in enumerate(pairs):
        if values is None:
            continue
        grid = average_frames(values[0].detach().double().numpy(), clip_axes.MOST)
        about = f"{caption} of {point.name}: {values.shape[2]} units over time."
        y = ("unit", "0", str(values.shape[2] - 1))
        drawn = clip_axes.tiles(f"states-{number}-{k}", about, [grid.T[::-1]], 1, scene.ends()[0], y)
        figures.append((f"{caption}.{extremes(values)}", drawn))
    return LayerFigures(_title(point), "", figures)


def _tokens(blocks: Sequence[Point], grid: tuple[int, int], scene: Scene) -> LayerFigures:
    """Draw the length of the token of each patch after every block."""
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
            drawn = clip_axes.tiles(f"tokens-{k}", about, shown, 3, x, y, names)
            figures.append((f"{caption}, at its place in the clip.", drawn))
    note = "After the last block only the tokens that are read count, so that no patch has a gradient there."
    return LayerFigures(f"Patches and blocks · {grid[0]} x {grid[1]} patches (time x frequency)", note, figures)


def _title(point: Point) -> str:
    return f"{point.name} · {point.module} · {' x '.join(map(str, point.value.shape[1:]))}"


def _short(value: Any) -> str:
    return f"{float(value):.3g}".replace("-", "−")
