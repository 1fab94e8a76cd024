"""The result of a comparison, and its forms as terminal text, Markdown and LaTeX."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from etude.evaluation.formatting import format_count
from etude.evaluation.paired_tests import NOTHING, Pair
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.runs import ComparedRun
from etude.reports.comparison.table import Labels, Table

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table as RichTable


FEW_PAIRS = 6
"""Up to so many pairs are all listed; of more, only those that differ."""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": "$-$",
    "ρ": r"$\rho$",
    "²": "$^2$",
    "–": "--",
    "’": "'",
    "…": r"\dots{}",
    "�": "?",
} | {mark: f"\\{mark}" for mark in "&%_$#"}


@dataclass
class Comparison:
    """Result of a comparison.

    Args:
        wish: The options.
        runs: The runs in the tables.
        names: Title of each run by its folder.
        frame: The scores behind the tables, and those of single folds that were pooled.
        tables: The tables.
        pairs: Tested pairs of runs.
        remarks: Sentences about runs.
    """

    wish: CompareOptions
    runs: list[ComparedRun]
    names: dict[Path, str]
    frame: DataFrame
    tables: list[Table]
    pairs: list[Pair] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows."""
        return to_markdown(self)


def print_comparison(comparison: Comparison) -> None:
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
        console.print(_terminal_table(table, plain))
        mark = "is marked *;" if plain else "is bold;"
        for note in table.notes:
            console.print(note.replace("is marked;", mark), soft_wrap=True, markup=False)
    for line in (*test_lines(comparison.pairs), *comparison.remarks):
        console.print(line, soft_wrap=True, markup=False)


def to_markdown(comparison: Comparison) -> str:
    """Return the tables with their notes, the tests of pairs, and remarks."""
    blocks = [block for table in comparison.tables for block in _markdown_table(table)]
    if found := test_lines(comparison.pairs):
        blocks += ["### Tests of pairs", "\n".join(_markdown_line(line) for line in found)]
    if comparison.remarks:
        blocks += ["### Remarks", "\n".join(f"- {escape_markdown(remark)}" for remark in comparison.remarks)]
    return "\n\n".join(blocks) + "\n"


def to_latex(comparison: Comparison) -> str:
    """Return all tables; tests of pairs and remarks are comments at the end."""
    blocks = [r"% \usepackage{booktabs} and \usepackage[T1]{fontenc} in the preamble"]
    blocks += [_latex_table(table, i) for i, table in enumerate(comparison.tables, 1)]
    said = [*test_lines(comparison.pairs), *comparison.remarks]
    return "\n\n".join(blocks + ["\n".join(f"% {line}" for line in said)] * bool(said)) + "\n"


def test_lines(pairs: list[Pair]) -> list[str]:
    """Return the tests of pairs in sentences, target by target."""
    lines = []
    for target in dict.fromkeys(pair.target for pair in pairs):
        here = [pair for pair in pairs if pair.target == target]
        shown = here if len(here) <= FEW_PAIRS else [pair for pair in here if pair.better]
        head = f"{target}, {format_count(len(here), 'pair')} of runs on the same clips"
        head += ", p values corrected by Holm" if len(here) > 1 else ""
        if not shown:
            lines.append(f"{head}: {NOTHING}.")
            continue
        rest = len(here) - len(shown)
        lines.append(f"{head}{f'; in {rest} of them {NOTHING}; in the others' if rest else ''}:")
        lines += [f"  {pair.summary}" for pair in shown]
    return lines


def escape_markdown(value: str) -> str:
    """Return a text that Markdown shows as it is, in a cell or a line."""
    return re.sub(r"([\\`*_|\[\]~$#])", r"\\\1", html.escape(value, quote=False))


def escape_latex(value: str) -> str:
    """Return a text that LaTeX sets as it is."""
    return "".join(SPECIAL.get(mark, mark) for mark in value)


def _terminal_table(table: Table, plain: bool) -> RichTable:
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


def _markdown_table(table: Table) -> list[str]:
    sizes = table.sizes()[1]
    by_row = any(row in sizes for row in table.rows)
    heads = [*table.heads, *(" / ".join([*c, *([f"n = {sizes[c]}"] if c in sizes else [])]) for c in table.cols)]
    heads += ["n"] * by_row + ([table.aside[0]] if table.aside[0] else [])
    lines = [heads, ["---"] * len(table.heads) + ["---:"] * (len(heads) - len(table.heads))]
    lines[0] = [escape_markdown(head) for head in heads]
    for row in table.rows:
        cells = [escape_markdown(label) for label in row]
        for col in table.cols:
            shown, cell = escape_markdown(table.text(row, col)), table.cells.get((row, col))
            cells.append(f"**{shown}**" if cell and cell.best else shown)
        cells += [sizes.get(row, "")] * by_row + ([table.aside[1].get(row, "")] if table.aside[0] else [])
        lines.append(cells)
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = "\n".join(f"- {escape_markdown(note.replace('is marked;', 'is bold;'))}" for note in table.notes)
    return [f"### {escape_markdown(table.heading())}", drawn, *([said] if said else [])]


def _markdown_line(line: str) -> str:
    """Return a sentence on a pair as a list item under its target."""
    return f"{'  - ' if line.startswith('  ') else '- '}{escape_markdown(line.strip())}"


def _latex_table(table: Table, number: int) -> str:
    sizes = table.sizes()[1]
    by_row = any(row in sizes for row in table.rows)
    tail = [r"$n$"] * by_row + ([escape_latex(table.aside[0])] if table.aside[0] else [])
    lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{_latex_caption(table)}}}"]
    lines += [rf"  \label{{tab:compare-{number}}}"]
    lines += [rf"  \begin{{tabular}}{{{'l' * len(table.heads)}{'r' * (len(table.cols) + len(tail))}}}", r"    \toprule"]
    levels = table.levels()
    for depth, level in enumerate(levels):
        last = depth == len(levels) - 1
        heads = [escape_latex(head) for head in table.heads] if last else [""] * len(table.heads)
        heads += [_spanning(label, span) for label, span in level] + (tail if last else [""] * len(tail))
        lines.append(f"    {' & '.join(heads)} \\\\")
        lines += _rules(level, len(table.heads)) if not last else []
    if any(col in sizes for col in table.cols):
        numbers = [f"$n$ = {sizes[col]}" if col in sizes else "" for col in table.cols]
        lines.append(f"    {' & '.join([''] * len(table.heads) + numbers + [''] * len(tail))} \\\\")
    lines.append(r"    \midrule")
    ruled = False
    for row in table.rows:
        if row in table.references and not ruled:
            lines, ruled = [*lines, r"    \midrule"], True
        cells = [escape_latex(label) for label in row] + [_latex_cell(table, row, col) for col in table.cols]
        cells += [sizes.get(row, "")] * by_row + ([escape_latex(table.aside[1].get(row, ""))] if table.aside[0] else [])
        lines.append(f"    {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"])


def _latex_caption(table: Table) -> str:
    notes = [note.replace("is marked;", "is bold;") for note in table.notes]
    return escape_latex(" ".join([f"{table.heading()}.", *notes]))


def _latex_cell(table: Table, row: Labels, col: Labels) -> str:
    shown, cell = escape_latex(table.text(row, col)), table.cells.get((row, col))
    return rf"\textbf{{{shown}}}" if cell and cell.best else shown


def _spanning(label: str, span: int) -> str:
    return escape_latex(label) if span == 1 else rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(label)}}}"


def _rules(level: list[tuple[str, int]], start: int) -> list[str]:
    """Return rules below the labels that span several columns."""
    rules, first = [], start + 1
    for _, span in level:
        if span > 1:
            rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
        first += span
    return [f"    {' '.join(rules)}"] if rules else []
