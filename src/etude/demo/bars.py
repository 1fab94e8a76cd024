"""What is said of a whole sound, as bars."""

from __future__ import annotations

from typing import Any

from etude.prediction.columns import Columns
from etude.prediction.engine import Said
from etude.results.text import capital

CLASSES = 10  # of a label that have a bar


def bars(said: Said, columns: Columns) -> list[dict[str, Any]]:
    """A bar for each class of a label, the most probable first, and for each scalar in its range.

    Returns:
        Groups with `title`; `rows` of `name`, `value`, `share` of the bar, and of a scalar the `ends` of its range; and
        `rest`, how many classes have no bar, with the sum of their probabilities.
    """
    values = columns.split(said.values or [])
    found: list[dict[str, Any]] = []
    scalars: list[dict[str, Any]] = []
    for name, spec in columns.targets.items():
        if spec["kind"] == "scalar":
            low, high, value = float(spec["low"]), float(spec["high"]), float(values[name][0])
            share = (min(max(value, low), high) - low) / ((high - low) or 1.0)
            scalars.append({"name": name, "value": value, "share": share, "ends": (low, high)})
            continue
        ranked = sorted(zip(spec["classes"], values[name], strict=True), key=lambda pair: -pair[1])
        rows = [{"name": one, "value": share, "share": share} for one, share in ranked[:CLASSES]]
        rest = [share for _, share in ranked[CLASSES:]]
        found.append(
            {"title": f"{capital(name)}: probability of each class", "rows": rows, "rest": (len(rest), sum(rest))}
        )
    if scalars:
        found.append({"title": "On its scale", "rows": scalars, "rest": (0, 0.0)})
    return found
