"""What the tables say of a file or a window, named as in a run's predictions.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """The columns of some targets.

    Args:
        targets: By name, `kind`, and `classes` of a label or `low` and `high` of a scalar.
    """

    targets: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, specs: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Columns:
        """Those of a network, from what its checkpoint says of its targets."""
        kept = ("kind", "classes", "low", "high")
        return cls({name: {key: specs[name][key] for key in kept if key in specs[name]} for name in names})

    @property
    def sizes(self) -> dict[str, int]:
        """How many values each target has."""
        return {name: len(spec.get("classes", "1")) for name, spec in self.targets.items()}

    def split(self, values: Sequence[float]) -> dict[str, Sequence[float]]:
        """Values of all targets, one after the other, by target."""
        found, start = {}, 0
        for name, size in self.sizes.items():
            found[name] = values[start : start + size]
            start += size
        return found

    def row(self, values: Sequence[float] | None) -> Row:
        """Predictions as cells: `<t>.pred`, and of a label `<t>.score.<class>`; none where there are no values."""
        said = self.split(values) if values else {}
        row: Row = {}
        for name, spec in self.targets.items():
            each = said.get(name)
            if spec["kind"] == "scalar":
                row[f"{name}.pred"] = each[0] if each else None
                continue
            classes = spec["classes"]
            row[f"{name}.pred"] = classes[max(range(len(classes)), key=each.__getitem__)] if each else None
            row |= {f"{name}.score.{one}": each[i] if each else None for i, one in enumerate(classes)}
        return row

    @property
    def types(self) -> dict[str, type]:
        """The type of each cell of `row`."""
        return {
            name: str if name.endswith(".pred") and self.targets[name[:-5]]["kind"] == "label" else float
            for name in self.row(None)
        }
