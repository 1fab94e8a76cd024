"""What stands in a cell: one run's score with its interval, or a mean over runs that says that it is one."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev

from etude.results.metrics import LOWER_IS_BETTER
from etude.results.text import UNDEFINED, ends, number, plural

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """The scores that share a place in a table.

    Args:
        values: One score per run (of a baseline: one per split), None where it is undefined.
        low: Lower end of the 95 % interval where it is one run; a mean over runs has none.
        high: Upper end.
        n: Clips that a score is computed from: several numbers where runs were scored on different parts.
        groups: In how many groups.
        scored_on: Data and split of the runs.
        status: What stands there in place of a score: the status of a run that has none.
        measured: Target, metric and class: cells in which these are the same may be ranked.
        folders: The runs.
        best: Whether no cell beside it is better.
    """

    values: tuple[float | None, ...]
    low: float | None = None
    high: float | None = None
    n: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    scored_on: frozenset[str] = frozenset()
    status: str = ""
    measured: Labels = ()
    folders: tuple[str, ...] = ()
    best: bool = False

    @property
    def defined(self) -> list[float]:
        """The scores that are numbers."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Mean of the scores, None where none is defined."""
        return fmean(self.defined) if self.defined else None

    @property
    def sd(self) -> float | None:
        """Standard deviation between runs (n - 1 in the denominator), None for fewer than two."""
        return stdev(self.defined) if len(self.defined) > 1 else None

    @property
    def digits(self) -> int:
        """Decimals: errors, which are small, have one more."""
        return 3 if self.measured[1:2] and self.measured[1] in LOWER_IS_BETTER else 2

    @property
    def score(self) -> str:
        """The number alone: "0.62", "0.62 ± 0.04", or why there is none."""
        if self.status:
            return self.status
        mean = number(self.mean, self.digits)
        return mean if self.sd is None else f"{mean} ± {number(self.sd, self.digits)}"

    @property
    def doubt(self) -> str:
        """What belongs beside it: the interval of one run, or over how many runs it is a mean."""
        if self.status or not self.folders:
            return ""
        if len(self.values) > 1:
            lost = len(self.values) - len(self.defined)
            return f"({plural(len(self.values), 'run')}{f', {lost} {UNDEFINED}' if lost else ''})"
        return ends({"low": self.low, "high": self.high}, self.digits)

    @property
    def clips(self) -> str:
        """Its n as a text: "52", "40 or 52", "" where it is not known."""
        return " or ".join(str(n) for n in sorted(self.n))
