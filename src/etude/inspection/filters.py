"""Filters of convolutions as pictures, and which units of a part are worth a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from etude.inspection import pictures
from etude.inspection.scene import Scene
from etude.inspection.statistics import units
from etude.inspection.trace import Point
from etude.results.exploration.spectra import shrink

UNITS, INPUTS = 16, 8  # shown of a part; of the channels that go into a filter


def filters(point: Point, which: Sequence[int], name: str, scene: Scene) -> list[tuple[str, str]]:
    """Weights of a convolution (C', C, h, w) and the gradient of the loss by them; none where filters are 1 x 1."""
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
        drawn = pictures.tiles(f"{name}-{k}", about, grids, across, (time, "", ""), (bins, "", ""), labels, ratio)
        found.append((f"{caption}{f': {len(which)}' + some if some else ''}.{extremes(values)}", drawn))
    return found


def varied(point: Point, count: int = UNITS) -> list[int]:
    """The units that vary most over the clip, in their own order; all when there are no more than that."""
    spread = units(point.value).std(1, correction=0)
    return sorted(spread.argsort(descending=True, stable=True)[:count].tolist())


def time_first(picture: Tensor, time: int) -> np.ndarray:
    """A picture (., .) with time along its first axis (T', F')."""
    return (picture if time == 2 else picture.T).detach().double().numpy()


def fit(grid: np.ndarray, most: int) -> np.ndarray:
    """A grid (T', F') of at most so many values, means of neighbours where it has more."""
    shape = np.array(grid.shape, float)
    while shape.prod() > most:
        shape[shape.argmax()] /= 2
    return shrink(shrink(grid, max(1, round(shape[0]))).T, max(1, round(shape[1]))).T


def extremes(values: Tensor) -> str:
    """Both ends of all values, those of units that are not drawn as well."""
    return f" From {_short(values.min())} to {_short(values.max())}."


def _short(value: Any) -> str:
    return f"{float(value):.3g}".replace("-", "−")
