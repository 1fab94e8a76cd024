"""Columns of text to targets: which hold classes, which hold numbers, and in which range."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from etude.data.collection import label, scalar
from etude.errors import DataError

FEW = 20  # whole numbers of more values than this were measured or counted; of fewer, they number classes
OBSERVED = "the range {low:g} to {high:g} is that of the values in the table, not of the scale they were given on"


def number(cell: str) -> float | None:
    """A cell as a finite number, or None when it is none; `1_000` and `nan` are none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def declared(name: str, cells: Sequence[str], said: Any, where: Sequence[str]) -> dict[str, Any]:
    """The specification of a target that the user has described.

    Args:
        name: The column.
        cells: Its cells; an empty one is a missing label.
        said: `label`, `scalar` (the range is the observed one) or a range such as [40, 220].
        where: The file and row of each cell, for messages.

    Raises:
        DataError: What is said makes no sense, a scalar has a cell that is no number, or there is nothing to learn.
    """
    bounds = [number(str(bound)) for bound in said] if isinstance(said, Sequence) and not isinstance(said, str) else []
    if said not in ("label", "scalar") and (len(bounds) != 2 or None in bounds or not bounds[0] < bounds[1]):  # type: ignore[operator]
        raise DataError(f"targets: {name} must be label, scalar or a range such as [0, 1], got {said!r}")
    if len(distinct := sorted(set(filter(None, cells)))) < 2:
        raise DataError(
            f"targets: column {name} holds {f'nothing but {distinct[0]!r}' if distinct else 'nothing'}; "
            "there is nothing to learn"
        )
    if said == "label":
        return label(distinct)
    for cell, place in zip(cells, where, strict=True):
        if cell and number(cell) is None:
            raise DataError(f"{place}: {name} = {cell!r} is not a number")
    return scalar(*bounds) if bounds else _range([float(cell) for cell in distinct])  # type: ignore[arg-type]


def inferred(cells: Sequence[str]) -> dict[str, Any] | str:
    """The specification of a target that nobody has described, or the reason why the column is none.

    Numbers are a scalar: in [0, 1] if they all are, else in the range that they have. Text is a label if values repeat
    (twice on average) and none stands alone, and so are whole numbers of few values.

    Args:
        cells: The column's cells; an empty one is a missing label.
    """
    counts = Counter(filter(None, cells))
    if len(counts) < 2:
        return "all its cells are the same" if counts else "it is empty"
    odd = [cell for cell in counts if number(cell) is None]
    alone = [cell for cell in sorted(counts) if counts[cell] == 1]
    repeats = 2 * len(counts) <= counts.total()
    if not odd:
        if len({float(cell) for cell in counts}) < 2:
            return "all its cells are the same"
        numbered = len(counts) <= FEW and all(re.fullmatch(r"[+-]?\d+", cell) for cell in counts)
        return label(counts) if numbered and repeats and not alone else _range([float(cell) for cell in counts])
    if not repeats:
        hint = f", and {odd[0]!r} is not a number" if 2 * len(odd) < len(counts) else ""
        return f"it has {len(counts)} values in {counts.total()} clips, too many for classes{hint}"
    if alone:
        return f"{alone[0]!r} has a single clip, which cannot be both learned and tested"
    return label(counts)


def _range(values: list[float]) -> dict[str, Any]:
    """A scalar from 0 to 1, or over the observed range rounded outward to a tenth of its order of magnitude."""
    least, most = min(values), max(values)
    if least >= 0 and most <= 1:
        return scalar()
    if least == most:
        raise DataError(f"targets: a scalar whose values are all {least:g} cannot be learned")
    digits = 1 - math.floor(math.log10(most - least))
    step = 10.0**-digits
    # rounding to digits can take the last bit of a value away, hence min and max
    low = min(least, round(math.floor(least / step) * step, digits))
    high = max(most, round(math.ceil(most / step) * step, digits))
    return scalar(low, high, OBSERVED.format(low=low, high=high))
