"""Inference of targets from columns of text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from etude.data.collection import label, scalar
from etude.errors import DataError

FEW = 20  # whole numbers of more values than this were measured or counted; of fewer, they number classes
MOSTLY = 0.9  # share of cells from which on a column is one of numbers, and other cells are taken for mistakes
OBSERVED = "the range {low:g} to {high:g} is that of the values in the table, not of the scale they were given on"
FOLDS = {"fold", "folds", "cv_fold", "kfold"}
BOOLEAN = ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"})
ABSENT = {"na", "n/a", "n.a.", "#n/a", "nan", "none", "null", "nil", "-", "--", "?"}  # words for a missing value
SEVERAL = ("|", ";", ",", "/")  # marks between the values of one cell


def number(cell: str) -> float | None:
    """A cell as a finite number, or None when it is none; `1_000` and `nan` are none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def class_names(cells: Sequence[str]) -> list[str]:
    """Return the cells of a label as class names: whole numbers that were stored as 1.0 become 1.

    pandas stores whole numbers so in a column in which one is missing.
    """
    numbers = [cell for cell in set(cells) if number(cell) is not None]
    if not numbers or not all(re.fullmatch(r"[+-]?\d+(\.0+)?", cell) for cell in numbers):
        return list(cells)
    return [re.sub(r"\.0+$", "", cell) if number(cell) is not None else cell for cell in cells]


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
        return label(class_names(distinct))
    for cell, place in zip(cells, where, strict=True):
        if cell and number(cell) is None:
            hint = "; write it with a decimal point, such as 0.5" if _comma(cell) else ""
            raise DataError(f"{place}: {name} = {cell!r} is not a number{hint}")
    return scalar(*bounds) if bounds else _range([float(cell) for cell in distinct])  # type: ignore[arg-type]


def inferred(name: str, cells: Sequence[str], where: Sequence[str]) -> tuple[dict[str, Any] | str, list[str]]:
    """The specification of a target that nobody has described, or the reason why the column is none.

    Numbers are a scalar: in [0, 1] if they all are, else in the range that they have. Text is a label if values repeat
    (twice on average) and none stands alone, and so are whole numbers of few values. Folds of a cross-validation and
    columns of true and false are no targets unless somebody declares them.

    Args:
        name: The column.
        cells: Its cells; an empty one is a missing label.
        where: The file and row of each cell, for messages.

    Returns:
        The specification or the reason, and remarks on what may have been meant otherwise.

    Raises:
        DataError: Nearly all cells are numbers and some are not.
    """
    cells = class_names(cells)
    counts = Counter(filter(None, cells))
    if len(counts) < 2:
        return "all its cells are the same" if counts else "it is empty", []
    if name.lower() in FOLDS:
        return f"it numbers folds of a cross-validation; to learn it, set targets={{{name}: label}}", []
    if any({cell.lower() for cell in counts} == words for words in BOOLEAN):
        return f"it holds {' and '.join(sorted(counts))} alone; to learn it, set targets={{{name}: label}}", []
    odd = [cell for cell in counts if number(cell) is None]
    if odd and all(_comma(cell) for cell in odd):
        return f"its numbers have commas, such as {odd[0]!r}; write them with a decimal point, such as 0.5", []
    if odd and sum(counts[cell] for cell in odd) <= (1 - MOSTLY) * counts.total():
        _ask(name, cells, odd, where)
    alone = [cell for cell in sorted(counts) if counts[cell] == 1]
    repeats = 2 * len(counts) <= counts.total()
    if not odd:
        if len({float(cell) for cell in counts}) < 2:
            return "all its cells are the same", []
        numbered = len(counts) <= FEW and all(re.fullmatch(r"[+-]?\d+", cell) for cell in counts)
        if not (numbered and repeats and not alone):
            return _range([float(cell) for cell in counts]), []
        low, high = (f"{end([float(cell) for cell in counts]):g}" for end in (min, max))
        scale = f"whole numbers from {low} to {high} are taken as {len(counts)} classes"
        return label(counts), [f"{scale}; if they are a scale, set targets={{{name}: [{low}, {high}]}}"]
    several = _several(counts)
    if not repeats:
        hint = f", and {odd[0]!r} is not a number" if 2 * len(odd) < len(counts) else ""
        return f"it has {len(counts)} values in {counts.total()} clips, too many for classes{hint}{several}", []
    if alone:
        return f"{alone[0]!r} has a single clip, which cannot be both learned and tested{several}", []
    remarks = [f"{counts[cell]} cells are {cell!r}, which is taken as a class; if it stands for a missing value, set "
               f"missing=[{cell!r}]" for cell in counts if cell.lower() in ABSENT]  # fmt: skip
    return label(counts), remarks + ([several.removeprefix("; ")] if several else [])


def _comma(cell: str) -> bool:
    """Return whether a cell is a number with a decimal comma."""
    return re.fullmatch(r"[+-]?\d*,\d+", cell) is not None


def _several(counts: Counter[str]) -> str:
    """Return a hint when cells hold several values, such as `rock|pop`; "" when they do not."""
    for mark in SEVERAL:
        parts = {cell: [part.strip() for part in cell.split(mark)] for cell in counts if mark in cell.strip(mark)}
        # a mark may belong to a name, as in R&B/Soul or "Earth, Wind & Fire", unless what it parts occurs alone
        joined = [cell for cell, found in parts.items() if mark == "|" or all(part in counts for part in found)]
        if joined:
            return (
                f"; cells such as {joined[0]!r} hold several values, and each combination is a class of its own; give "
                "each value a column of 0 and 1 (tags), or merge them by classes="
            )
    return ""


def _ask(name: str, cells: Sequence[str], odd: Sequence[str], where: Sequence[str]) -> None:
    """Refuse a column of numbers in which a few cells are text, and name them."""
    rows = [(place, cell) for place, cell in zip(where, cells, strict=True) if cell in set(odd)]
    shown = ", ".join(f"{cell!r} in row {place.rpartition(' ')[2]}" for place, cell in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    raise DataError(
        f"{where[0].rpartition(', row ')[0]}: column {name} holds numbers, but {shown}{more}; correct or empty these "
        f"cells, set missing=[{odd[0]!r}], or name the columns to learn, such as targets={{{name}: label}}"
    )


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
