"""Tables of a comparison and their cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, stdev

from etude.evaluation.formatting import UNDEFINED, format_count, format_interval, format_number
from etude.evaluation.metrics import LOWER_IS_BETTER

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
        mean = format_number(self.mean, self.digits)
        return mean if self.sd is None else f"{mean} ± {format_number(self.sd, self.digits)}"

    @property
    def doubt(self) -> str:
        """What belongs beside it: the interval of one run, or over how many runs it is a mean."""
        if self.status or not self.folders:
            return ""
        if len(self.values) > 1:
            lost = len(self.values) - len(self.defined)
            return f"({format_count(len(self.values), 'run')}{f', {lost} {UNDEFINED}' if lost else ''})"
        return format_interval({"low": self.low, "high": self.high}, self.digits)

    @property
    def clips(self) -> str:
        """Its n as a text: "52", "40 or 52", "" where it is not known."""
        return " or ".join(str(n) for n in sorted(self.n))


@dataclass
class Table:
    """Rows and columns of cells, with what has to be said about them.

    Args:
        title: What is measured, on which part.
        heads: The axes in rows.
        rows: A label for each axis of `heads`.
        cols: Labels of the columns.
        cells: By row and column; a place without scores is not there.
        references: Rows and columns that are baselines.
        aside: A last column of plain text, by row, and its title.
        notes: Sentences to be read with it.
    """

    title: str
    heads: Labels
    rows: list[Labels]
    cols: list[Labels]
    cells: dict[tuple[Labels, Labels], Cell]
    references: set[Labels] = field(default_factory=set)
    aside: tuple[str, dict[Labels, str]] = ("", {})
    notes: list[str] = field(default_factory=list)

    def sizes(self) -> tuple[str, dict[Labels, str], bool]:
        """Where n has to stand: once for all, else by column or row, else in each cell.

        Returns:
            n of the whole table or "", n by label (of columns or of rows), and whether each cell has to say its own.
        """
        known = {place: cell.clips for place, cell in self.cells.items() if cell.clips}
        if len(set(known.values())) < 2:
            return next(iter(known.values()), ""), {}, False
        for side in (1, 0):
            by: dict[Labels, set[str]] = {}
            for place, n in known.items():
                by.setdefault(place[side], set()).add(n)
            if all(len(found) == 1 for found in by.values()):
                return "", {label: found.pop() for label, found in by.items()}, False
        return "", {}, True

    def repeats(self) -> int:
        """Over how many runs every cell is a mean: said once, where it is the same number throughout; else 0."""
        counts = {len(cell.values) for cell in self.cells.values() if cell.folders}
        return counts.pop() if len(counts) == 1 and max(counts) > 1 else 0

    def heading(self) -> str:
        """The title with what holds for all cells: n clips, and that each is a mean."""
        n, repeats = self.sizes()[0], self.repeats()
        parts = [self.title, f"n = {n}" if n else "", f"mean ± sd of {repeats} runs" if repeats else ""]
        return ", ".join(part for part in parts if part)

    def text(self, row: Labels, col: Labels) -> str:
        """A cell in words, "–" where there is nothing."""
        return " ".join(part for part in self.parts(row, col) if part)

    def parts(self, row: Labels, col: Labels) -> tuple[str, str]:
        """A cell's number, and what belongs beside it."""
        cell = self.cells.get((row, col))
        if cell is None:
            return "–", ""
        lost = len(cell.values) - len(cell.defined)
        doubt = "" if self.repeats() and not lost else cell.doubt
        n = f"(n = {cell.clips})" if self.sizes()[2] and cell.clips else ""
        return cell.score, " ".join(part for part in (doubt, n) if part)

    def levels(self) -> list[list[tuple[str, int]]]:
        """The head of the columns, level by level: labels and over how many columns each goes."""
        found = []
        for level in range(len(self.cols[0]) if self.cols else 0):
            runs: list[tuple[Labels, int]] = []
            for col in self.cols:
                prefix = col[: level + 1]
                if runs and runs[-1][0] == prefix and level < len(col) - 1:
                    runs[-1] = prefix, runs[-1][1] + 1
                else:
                    runs.append((prefix, 1))
            found.append([(prefix[-1], span) for prefix, span in runs])
        return found

    def best_mark(self) -> bool:
        """Whether any cell is marked as the best."""
        return any(cell.best for cell in self.cells.values())
