"""A comparison in LaTeX, for booktabs: a table each, with its notes in the caption. Names from data are escaped."""

from __future__ import annotations

from etude.results.comparison.build import Comparison
from etude.results.comparison.cell import Labels
from etude.results.comparison.table import Table
from etude.results.comparison.terminal import tests

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


def text(comparison: Comparison) -> str:
    """All tables; tests of pairs and remarks are comments at the end."""
    blocks = [r"% \usepackage{booktabs} and \usepackage[T1]{fontenc} in the preamble"]
    blocks += [_table(table, i) for i, table in enumerate(comparison.tables, 1)]
    said = [*tests(comparison.pairs), *comparison.remarks]
    return "\n\n".join(blocks + ["\n".join(f"% {line}" for line in said)] * bool(said)) + "\n"


def escape(value: str) -> str:
    """A text that LaTeX sets as it is."""
    return "".join(SPECIAL.get(mark, mark) for mark in value)


def _table(table: Table, place: int) -> str:
    sizes = table.sizes()[1]
    by_row = any(row in sizes for row in table.rows)
    tail = [r"$n$"] * by_row + ([escape(table.aside[0])] if table.aside[0] else [])
    lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{_caption(table)}}}"]
    lines += [rf"  \label{{tab:compare-{place}}}"]
    lines += [rf"  \begin{{tabular}}{{{'l' * len(table.heads)}{'r' * (len(table.cols) + len(tail))}}}", r"    \toprule"]
    levels = table.levels()
    for depth, level in enumerate(levels):
        last = depth == len(levels) - 1
        heads = [escape(head) for head in table.heads] if last else [""] * len(table.heads)
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
        cells = [escape(label) for label in row] + [_cell(table, row, col) for col in table.cols]
        cells += [sizes.get(row, "")] * by_row + ([escape(table.aside[1].get(row, ""))] if table.aside[0] else [])
        lines.append(f"    {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"])


def _caption(table: Table) -> str:
    notes = [note.replace("is marked;", "is bold;") for note in table.notes]
    return escape(" ".join([f"{table.heading()}.", *notes]))


def _cell(table: Table, row: Labels, col: Labels) -> str:
    shown, cell = escape(table.text(row, col)), table.cells.get((row, col))
    return rf"\textbf{{{shown}}}" if cell and cell.best else shown


def _spanning(label: str, span: int) -> str:
    return escape(label) if span == 1 else rf"\multicolumn{{{span}}}{{c}}{{{escape(label)}}}"


def _rules(level: list[tuple[str, int]], start: int) -> list[str]:
    """Rules below the labels that go over several columns."""
    rules, first = [], start + 1
    for _, span in level:
        if span > 1:
            rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
        first += span
    return [f"    {' '.join(rules)}"] if rules else []
