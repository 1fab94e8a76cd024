"""A comparison on a terminal, and in plain text when nobody sits at one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.results.comparison.build import Comparison
from etude.results.comparison.pair import NOTHING, Pair
from etude.results.comparison.table import Table
from etude.results.text import plural

if TYPE_CHECKING:
    from rich.table import Table as RichTable

FEW_PAIRS = 6
"""So many pairs are said one by one; of more only those that differ."""


def show(comparison: Comparison) -> None:
    """Print tables, the tests of pairs, and remarks."""
    from rich.console import Console

    console = Console(highlight=False)
    plain = not console.is_terminal
    if plain:
        console = Console(highlight=False, width=400, color_system=None)
    if not comparison.runs:
        console.print("No runs.")
        return
    for i, table in enumerate(comparison.tables):
        if i:
            console.print()
        console.print(table.heading(), soft_wrap=True, markup=False, style="" if plain else "bold")
        console.print(_table(table, plain))
        mark = "is marked *;" if plain else "is bold;"
        for note in table.notes:
            console.print(note.replace("is marked;", mark), soft_wrap=True, markup=False)
    for line in (*tests(comparison.pairs), *comparison.remarks):
        console.print(line, soft_wrap=True, markup=False)


def tests(pairs: list[Pair]) -> list[str]:
    """The tests of pairs in sentences, target by target."""
    lines = []
    for target in dict.fromkeys(pair.target for pair in pairs):
        here = [pair for pair in pairs if pair.target == target]
        told = here if len(here) <= FEW_PAIRS else [pair for pair in here if pair.better]
        head = f"{target}, {plural(len(here), 'pair')} of runs on the same clips"
        head += ", p values corrected by Holm" if len(here) > 1 else ""
        if not told:
            lines.append(f"{head}: {NOTHING}.")
            continue
        rest = len(here) - len(told)
        lines.append(f"{head}{f'; in {rest} of them {NOTHING}; in the others' if rest else ''}:")
        lines += [f"  {pair.words}" for pair in told]
    return lines


def _table(table: Table, plain: bool) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    _, sizes, _ = table.sizes()
    for head in table.heads:
        shown.add_column(Text(head), overflow="fold")
    for col in table.cols:
        shown.add_column(Text("\n".join([*col, *([f"n = {sizes[col]}"] if col in sizes else [])])), justify="right")
    by_row = any(row in sizes for row in table.rows)
    if by_row:
        shown.add_column("n", justify="right")
    if table.aside[0]:
        shown.add_column(Text(table.aside[0]), justify="right")
    for row in table.rows:
        cells = [Text(label) for label in row]
        for col in table.cols:
            cell = table.cells.get((row, col))
            bold = cell is not None and cell.best
            cells.append(Text(table.text(row, col) + (" *" if bold and plain else ""), style="bold" if bold else ""))
        cells += [Text(sizes.get(row, ""))] if by_row else []
        cells += [Text(table.aside[1].get(row, ""))] if table.aside[0] else []
        shown.add_row(*cells, style="dim" if row in table.references and not plain else "")
    return shown
