"""Rows and columns of cells, and how they are put into words, whatever they are written as."""

from __future__ import annotations

from dataclasses import dataclass, field

from etude.results.comparison.cell import Cell, Labels


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
