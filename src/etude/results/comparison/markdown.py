"""A comparison in Markdown: tables of pipes, the best in bold. Names stand as they are, whatever marks are in them."""

from __future__ import annotations

import html
import re

from etude.results.comparison.build import Comparison
from etude.results.comparison.table import Table
from etude.results.comparison.terminal import tests


def text(comparison: Comparison) -> str:
    """The tables with their notes, the tests of pairs, and remarks."""
    blocks = [block for table in comparison.tables for block in _table(table)]
    if found := tests(comparison.pairs):
        blocks += ["### Tests of pairs", "\n".join(_line(line) for line in found)]
    if comparison.remarks:
        blocks += ["### Remarks", "\n".join(f"- {escape(remark)}" for remark in comparison.remarks)]
    return "\n\n".join(blocks) + "\n"


def escape(value: str) -> str:
    """A text that shows as it is in a cell or a line."""
    return re.sub(r"([\\`*_|\[\]~$#])", r"\\\1", html.escape(value, quote=False))


def _table(table: Table) -> list[str]:
    sizes = table.sizes()[1]
    by_row = any(row in sizes for row in table.rows)
    heads = [*table.heads, *(" / ".join([*c, *([f"n = {sizes[c]}"] if c in sizes else [])]) for c in table.cols)]
    heads += ["n"] * by_row + ([table.aside[0]] if table.aside[0] else [])
    lines = [heads, ["---"] * len(table.heads) + ["---:"] * (len(heads) - len(table.heads))]
    lines[0] = [escape(head) for head in heads]
    for row in table.rows:
        cells = [escape(label) for label in row]
        for col in table.cols:
            shown, cell = escape(table.text(row, col)), table.cells.get((row, col))
            cells.append(f"**{shown}**" if cell and cell.best else shown)
        cells += [sizes.get(row, "")] * by_row + ([table.aside[1].get(row, "")] if table.aside[0] else [])
        lines.append(cells)
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = "\n".join(f"- {escape(note.replace('is marked;', 'is bold;'))}" for note in table.notes)
    return [f"### {escape(table.heading())}", drawn, *([said] if said else [])]


def _line(line: str) -> str:
    """A sentence about a pair as a point under its target."""
    return f"{'  - ' if line.startswith('  ') else '- '}{escape(line.strip())}"
