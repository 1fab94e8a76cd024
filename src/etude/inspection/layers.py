"""Figures and statistics of the activations, gradients and filters of modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.inspection.clip_axes import MAX_COLUMNS, ClipAxes, draw_tiles
from etude.inspection.hooks import ModuleRecord
from etude.reports.spectrogram import average_frames

MAX_UNITS, MAX_CHANNELS = 16, 8  # units of a module, and input channels of a filter, in a figure
MAX_MODULES = 24  # with figures; the table has all modules
MAX_VALUES = 1_400_000  # in all feature maps of a page together


@dataclass(frozen=True)
class LayerFigures:
    """Figures of a module with captions."""

    title: str
    note: str
    figures: list[tuple[str, str]]


def statistics(record: ModuleRecord) -> dict[str, Any]:
    """Return the statistics of one module.

    Returns:
        - `name`, `module`, `layer`: same as in the record
        - `shape`: shape of the output, without the batch axis
        - `parameters`: number of parameters
        - `activation`, `gradient`, `weight`, `weight_gradient`: min, max, mean and norm of each, or None
        - `units`: number of units
        - `dead`: number of dead units, as defined by `dead_units`; None for the input
    """
    return {
        "name": record.name,
        "module": record.module,
        "shape": list(record.value.shape[1:]),
        "parameters": record.parameters,
        "layer": record.layer,
        "activation": summarise(record.value),
        "gradient": summarise(record.gradient),
        "weight": summarise(record.weight),
        "weight_gradient": summarise(record.weight_gradient),
        "units": values_by_unit(record.value).shape[0],
        "dead": None if record.name == "input" else int(dead_units(record.value).sum()),
    }


def draw_layers(records: Sequence[ModuleRecord], clip_axes: ClipAxes) -> list[LayerFigures]:
    """Draw the modules of a network from input to output. In a large network, only layers are drawn."""
    grid = patch_grid(records)
    kinds = {id(record): value_kind(record, grid) for record in records}
    chosen = [record for record in records if kinds[id(record)] != "vector"]
    # a block and its last activation have the same output, which is drawn once
    chosen = [record for k, record in enumerate(chosen) if not k or not torch.equal(record.value, chosen[k - 1].value)]
    if len(chosen) > MAX_MODULES:
        chosen = [record for k, record in enumerate(chosen) if record.layer or not k]
    if len(chosen) > MAX_MODULES:
        chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, MAX_MODULES).round().astype(int)]
    blocks = [record for record in chosen if kinds[id(record)] == "tokens"]
    max_values = max(1200, MAX_VALUES // (2 * MAX_UNITS * max(1, len(chosen))))
    drawn = []
    for number, record in enumerate(chosen):
        if kinds[id(record)] == "states":
            drawn.append(_draw_states(record, clip_axes, number))
        elif kinds[id(record)] == "maps":
            drawn.append(_draw_maps(record, clip_axes, max_values, number))
        elif record is blocks[0]:  # one figure for all blocks
            assert grid is not None
            drawn.append(_draw_tokens(blocks, grid, clip_axes))
    return drawn


def value_kind(record: ModuleRecord, grid: tuple[int, int] | None) -> str:
    """Return the kind of a module's output.

    Returns:
        `maps` for feature maps (1, C, ., .), `states` over time, `tokens` of patches, or `vector`.
    """
    if record.value.ndim == 4:
        return "maps" if record.value.shape[2] * record.value.shape[3] > 1 else "vector"
    if record.value.ndim != 3 or record.name == "input":
        return "vector"
    if grid is None or record.recurrent:
        return "states"
    # the last block can return only the tokens of the read-out
    return "tokens" if record.value.shape[1] >= grid[0] * grid[1] else "vector"


def patch_grid(records: Sequence[ModuleRecord]) -> tuple[int, int] | None:
    """Return numbers of columns and rows of patches, the shape of the last feature maps before the first tokens."""
    shape = None
    for record in records:
        if record.value.ndim == 4:
            shape = (int(record.value.shape[2]), int(record.value.shape[3]))
        elif record.value.ndim == 3 and shape is not None and not record.recurrent:
            return shape
    return None


def most_variable_units(record: ModuleRecord, count: int = MAX_UNITS) -> list[int]:
    """Return the sorted indices of the units with the largest standard deviation over the clip, at most `count`."""
    deviation = values_by_unit(record.value).std(1, correction=0)
    return sorted(deviation.argsort(descending=True, stable=True)[:count].tolist())


def values_by_unit(value: Tensor) -> Tensor:
    """Return values by unit (U, N). Units are the channels of a feature map (1, C, ., .), otherwise the last axis."""
    return value[0].flatten(1) if value.ndim == 4 else value.movedim(-1, 0).flatten(1)


def dead_units(value: Tensor) -> Tensor:
    """Return the mask of dead units (U,), which are constant over the clip, or 0 if they have a single value."""
    by_unit = values_by_unit(value)
    if by_unit.shape[1] == 1:
        return by_unit[:, 0] == 0
    return by_unit.amin(1) == by_unit.amax(1)


def summarise(values: Tensor | None) -> dict[str, float] | None:
    """Return minimum, maximum, mean and Euclidean norm of a tensor."""
    if values is None:
        return None
    values = values.double()
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "norm": float(values.norm()),
    }


def average_to_size(grid: np.ndarray, max_values: int) -> np.ndarray:
    """Average neighbouring values of a grid (T', F') until it has at most `max_values`."""
    shape = np.array(grid.shape, float)
    while shape.prod() > max_values:
        shape[shape.argmax()] /= 2
    return average_frames(average_frames(grid, max(1, round(shape[0]))).T, max(1, round(shape[1]))).T


def time_first(feature_map: Tensor, time_axis: int) -> np.ndarray:
    """Return a feature map (., .) with time along its first axis (T', F')."""
    return (feature_map if time_axis == 2 else feature_map.T).detach().double().numpy()


def patch_norms(value: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Return the Euclidean norm of the token of each patch (columns, rows) from tokens (1, N, D)."""
    return value[0, -grid[0] * grid[1] :].double().norm(dim=1).unflatten(0, grid).numpy()


def range_text(values: Tensor) -> str:
    """Return the range of all values as a sentence. It includes units that are not drawn."""
    return f" From {_format_value(values.min())} to {_format_value(values.max())}."


def _draw_filters(record: ModuleRecord, units: Sequence[int], name: str, clip_axes: ClipAxes) -> list[tuple[str, str]]:
    """Draw the weights of a convolution (C', C, h, w) and their gradients. Filters of 1 x 1 are not drawn."""
    if record.weight is None or record.weight.ndim != 4 or record.weight[0, 0].numel() == 1:
        return []
    shape = record.weight.shape
    largest = record.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)[:MAX_CHANNELS]
    channels = sorted(largest.tolist())
    columns = len(channels) if len(channels) > 1 else 4
    selection = ""
    if shape[1] > 1:
        selection = f": {len(units)} of {shape[0]} filters (rows) for {len(channels)} of {shape[1]} channels (columns)"
    x, y = (("time", "", ""), ("frequency", "", "")) if clip_axes.is_audio else (("column", "", ""), ("row", "", ""))
    figures = []
    pairs = [("Weights", record.weight), ("Gradient of the loss with respect to the weights", record.weight_gradient)]
    for k, (caption, values) in enumerate(pairs):
        if values is None:
            continue
        images = [clip_axes.to_image(time_first(values[o, i], record.time_axis)) for o in units for i in channels]
        description = f"{caption} of {record.name}: filters of {shape[2]} x {shape[3]}."
        aspect = images[0].shape[0] / images[0].shape[1]
        titles = [str(unit) for unit in units] if len(channels) == 1 else ()
        drawn = draw_tiles(f"{name}-{k}", description, images, columns, x, y, titles, aspect)
        figures.append((f"{caption}{selection}.{range_text(values)}", drawn))
    return figures


def _draw_maps(record: ModuleRecord, clip_axes: ClipAxes, max_values: int, number: int) -> LayerFigures:
    """Draw feature maps, and the filters of a convolution."""
    units, (x, y) = most_variable_units(record), clip_axes.axis_labels()
    pairs = [("Activations", record.value), ("Gradient of the loss with respect to the activations", record.gradient)]
    figures = []
    for k, (caption, values) in enumerate(pairs):
        if values is None:
            continue
        maps = [average_to_size(time_first(values[0, unit], record.time_axis), max_values) for unit in units]
        images = [clip_axes.to_image(feature_map) for feature_map in maps]
        aspect = 0.72 if clip_axes.is_audio else images[0].shape[0] / images[0].shape[1]
        description = f"{caption} of {record.name}: {len(units)} of {values.shape[1]} units, on one scale."
        titles = [str(unit) for unit in units]
        drawn = draw_tiles(f"maps-{number}-{k}", description, images, 4, x, y, titles, aspect)
        figures.append((f"{caption}.{range_text(values)}", drawn))
    figures += _draw_filters(record, units, f"filters-{number}", clip_axes)
    count, note = record.value.shape[1], ""
    if len(units) < count:
        note = f"The {len(units)} of {count} units that vary most over the clip."
    return LayerFigures(_title(record), note, figures)


def _draw_states(record: ModuleRecord, clip_axes: ClipAxes, number: int) -> LayerFigures:
    """Draw states over time, unit 0 at the bottom."""
    pairs = [("States", record.value), ("Gradient of the loss with respect to the states", record.gradient)]
    figures = []
    for k, (caption, values) in enumerate(pairs):
        if values is None:
            continue
        grid = average_frames(values[0].detach().double().numpy(), MAX_COLUMNS)
        description = f"{caption} of {record.name}: {values.shape[2]} units over time."
        x, y = clip_axes.axis_labels()[0], ("unit", "0", str(values.shape[2] - 1))
        drawn = draw_tiles(f"states-{number}-{k}", description, [grid.T[::-1]], 1, x, y)
        figures.append((f"{caption}.{range_text(values)}", drawn))
    return LayerFigures(_title(record), "", figures)


def _draw_tokens(blocks: Sequence[ModuleRecord], grid: tuple[int, int], clip_axes: ClipAxes) -> LayerFigures:
    """Draw the norm of the token of each patch after every block."""
    x, y = clip_axes.axis_labels()
    pairs: list[tuple[str, list[Tensor | None]]] = [
        ("Norm of the token of each patch", [block.value for block in blocks]),
        ("Norm of the gradient of the loss with respect to each token", [block.gradient for block in blocks]),
    ]
    figures, names = [], [block.name.rpartition(".")[2] for block in blocks]
    for k, (caption, values) in enumerate(pairs):
        images = [clip_axes.to_image(patch_norms(value, grid)) for value in values if value is not None]
        titles = [name for name, value in zip(names, values, strict=True) if value is not None]
        if images:
            description = f"{caption} after {', '.join(titles)}, at the position of the patch in the clip."
            drawn = draw_tiles(f"tokens-{k}", description, images, 3, x, y, titles)
            figures.append((f"{caption}, at the position of the patch in the clip.", drawn))
    note = "After the last block, only the tokens of the read-out have a gradient."
    return LayerFigures(f"Patches and blocks · {grid[0]} x {grid[1]} patches (time x frequency)", note, figures)


def _title(record: ModuleRecord) -> str:
    return f"{record.name} · {record.module} · {' x '.join(map(str, record.value.shape[1:]))}"


def _format_value(value: Any) -> str:
    return f"{float(value):.3g}".replace("-", "−")
