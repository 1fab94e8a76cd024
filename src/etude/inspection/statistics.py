"""Every part of a network in numbers: what it gave, how much of it is dead, how strong its gradients are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from etude.inspection.trace import Point


def statistics(point: Point) -> dict[str, Any]:
    """Numbers of one place.

    Returns:
        `name`, `module`, `shape` without the batch, `weights` (how many), `layer`; `activation`, `gradient`, `weight`
        and `weight_gradient`, each with min, max, mean and norm, or none; `units` and `dead`, how many of these give
        one value wherever one looks; none for what goes in.
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


def spread(values: Tensor | None) -> dict[str, float] | None:
    """Smallest, largest and mean value of a tensor, and its Euclidean norm."""
    if values is None:
        return None
    values = values.double()
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "norm": float(values.norm()),
    }


def units(value: Tensor) -> Tensor:
    """Values by unit (U, places): channels of pictures (1, C, ., .), else the last axis."""
    return value[0].flatten(1) if value.ndim == 4 else value.movedim(-1, 0).flatten(1)


def dead(value: Tensor) -> Tensor:
    """Which units (U,) tell nothing about the clip: one value at all places, or 0 where there is but one place."""
    by_unit = units(value)
    if by_unit.shape[1] == 1:
        return by_unit[:, 0] == 0
    return by_unit.amin(1) == by_unit.amax(1)
