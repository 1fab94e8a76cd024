"""Result of a comparison, and its output as terminal text, Markdown and LaTeX."""

from __future__ import annotations

import html
import logging
import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etude.evaluation.formatting import format_count
from etude.evaluation.paired_tests import NO_DIFFERENCE, Pair
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.runs import ComparedRun
from etude.reports.comparison.table import Labels, Table
from etude.runs.folder import RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console
    from rich.table import Table as RichTable


log = logging.getLogger(__name__)
MOST_LISTED_PAIRS = 6
"""Maximum number of pairs that are all listed. If there are more, only significant differences are listed."""
MAX_WORD = 24  # characters; longer words of labels are folded in a narrow terminal
LATEX_ESCAPES = {
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
} | {character: f"\\{character}" for character in "&%_$#"}


@dataclass
class Comparison:
    """Result of a comparison.

    Args:
        options: Options of the comparison.
        runs: Runs in the tables.
        names: Titles of the runs by folder.
        frame: Scores shown in the tables, and scores of the single folds of pooled results.
        tables: Tables.
        pairs: Tested pairs of runs.
        remarks: Remarks about runs.
        selected: All selected runs, including the single folds of pooled results.
    """

    options: CompareOptions
    runs: list[ComparedRun]
    names: dict[Path, str]
    frame: DataFrame
    tables: list[Table]
    pairs: list[Pair] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    selected: list[ComparedRun] = field(default_factory=list)

    def _repr_markdown_(self) -> str:
        """Return the Markdown for a notebook."""
        return to_markdown(self)


def print_comparison(comparison: Comparison) -> None:
    """Print tables, paired tests and remarks."""
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
        for part in _fitting_parts(table, console):
            console.print(_terminal_table(part, plain))
        mark = "is marked *;" if plain else "is bold;"
        for note in table.notes:
            console.print(note.replace("is marked;", mark), soft_wrap=True, markup=False)
    for line in (*test_lines(comparison.pairs), *comparison.remarks):
        console.print(line, soft_wrap=True, markup=False)


def to_markdown(comparison: Comparison) -> str:
    """Return tables with their notes, paired tests and remarks as Markdown."""
    blocks = [block for table in comparison.tables for block in _markdown_table(table)]
    if lines := test_lines(comparison.pairs):
        blocks += ["### Paired tests", "\n".join(_markdown_list_item(line) for line in lines)]
    if comparison.remarks:
        blocks += ["### Remarks", "\n".join(f"- {escape_markdown(remark)}" for remark in comparison.remarks)]
    return "\n\n".join(blocks) + "\n"


def to_latex(comparison: Comparison) -> str:
    """Return tables as LaTeX, with paired tests and remarks as comments at the end."""
    blocks = [r"% \usepackage{booktabs} and \usepackage[T1]{fontenc} in the preamble"]
    blocks += [_latex_table(table, i) for i, table in enumerate(comparison.tables, 1)]
    lines = [*test_lines(comparison.pairs), *comparison.remarks]
    return "\n\n".join(blocks + ["\n".join(f"% {line}" for line in lines)] * bool(lines)) + "\n"


def test_lines(pairs: list[Pair]) -> list[str]:
    """Return the results of the paired tests as lines, target by target."""
    lines = []
    for target in dict.fromkeys(pair.target for pair in pairs):
        tested = [pair for pair in pairs if pair.target == target]
        shown = tested if len(tested) <= MOST_LISTED_PAIRS else [pair for pair in tested if pair.better]
        head = f"{target}, {format_count(len(tested), 'pair')} of runs on the same clips"
        head += ", p values with Holm correction" if len(tested) > 1 else ""
        if not shown:
            lines.append(f"{head}: {NO_DIFFERENCE}.")
            continue
        rest = len(tested) - len(shown)
        lines.append(f"{head}{f'; {NO_DIFFERENCE} in {rest} of them; the others' if rest else ''}:")
        lines += [f"  {pair.summary}" for pair in shown]
    return lines


def escape_markdown(value: str) -> str:
    """Escape a text for a cell or line of Markdown."""
    return re.sub(r"([\\`*_|\[\]~$#])", r"\\\1", html.escape(value, quote=False))


def escape_latex(value: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in value)


def _fitting_parts(table: Table, console: Console) -> list[Table]:
    """Return a table in parts that fit into the terminal, each with as many columns of scores as possible.

    Parts after the first have only the first label of each row, if these are different.
    """
    parts: list[Table] = []
    plain, wide = not console.is_terminal, console.options.update(max_width=1000)
    short = table.first_axis() if len({row[0] for row in table.rows}) == len(table.rows) else table
    start = 0
    while start < len(table.cols) or not parts:
        for end in range(len(table.cols), start, -1):
            part = replace(short if start else table, cols=table.cols[start:end])
            if end < len(table.cols):
                part.text_column = ("", {})  # only in the last part
            if console.measure(_terminal_table(part, plain), options=wide).minimum <= console.width:
                break
        else:
            part = replace(short, cols=table.cols[start : start + 1], text_column=("", {})) if table.cols else table
        parts.append(part)
        start += len(part.cols) or 1
    return parts


def _terminal_table(table: Table, plain: bool) -> RichTable:
    """Return a table whose columns are not narrower than their scores and the words of their labels."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    counts = table.clip_counts()[1]
    text_title, texts = table.text_column
    columns = [(axis, [row[i] for row in table.rows]) for i, axis in enumerate(table.row_axes)]
    for axis, labels in columns:
        width = max((len(word) for text in (axis, *labels) for word in text.split()), default=0)
        shown.add_column(Text(axis), overflow="fold", min_width=min(MAX_WORD, width))
    n_labels = len(columns)
    best = {position for position, cell in table.cells.items() if cell is not None and cell.best}
    for col in table.cols:
        head = "\n".join([*col, *([f"n = {counts[col]}"] if col in counts else [])])
        marks = [" *" if plain and (row, col) in best else "" for row in table.rows]
        columns.append((head, [table.cell_text(row, col) + mark for row, mark in zip(table.rows, marks, strict=True)]))
    if any(row in counts for row in table.rows):
        columns.append(("n", [counts.get(row, "") for row in table.rows]))
    if text_title:
        columns.append((text_title, [texts.get(row, "") for row in table.rows]))
    for head, cells in columns[n_labels:]:
        width = max(len(line) for text in (head, *cells) for line in text.split("\n"))
        shown.add_column(Text(head), justify="right", min_width=width, no_wrap=True)
    for i, row in enumerate(table.rows):
        bold = {n_labels + j for j, col in enumerate(table.cols) if (row, col) in best}
        texts_of_row = [Text(cells[i], style="bold" if j in bold else "") for j, (_, cells) in enumerate(columns)]
        shown.add_row(*texts_of_row, style="dim" if row in table.baselines and not plain else "")
    return shown


def _markdown_table(table: Table) -> list[str]:
    counts = table.clip_counts()[1]
    text_title, texts = table.text_column
    by_row = any(row in counts for row in table.rows)
    heads = [*table.row_axes, *(" / ".join([*c, *([f"n = {counts[c]}"] if c in counts else [])]) for c in table.cols)]
    heads += ["n"] * by_row + ([text_title] if text_title else [])
    lines = [heads, ["---"] * len(table.row_axes) + ["---:"] * (len(heads) - len(table.row_axes))]
    lines[0] = [escape_markdown(head) for head in heads]
    for row in table.rows:
        cells = [escape_markdown(label) for label in row]
        for col in table.cols:
            shown, cell = escape_markdown(table.cell_text(row, col)), table.cells.get((row, col))
            cells.append(f"**{shown}**" if cell and cell.best else shown)
        cells += [counts.get(row, "")] * by_row + ([texts.get(row, "")] if text_title else [])
        lines.append(cells)
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {escape_markdown(note.replace('is marked;', 'is bold;'))}" for note in table.notes)
    return [f"### {escape_markdown(table.heading())}", text, *([notes] if notes else [])]


def _markdown_list_item(line: str) -> str:
    """Return a line as a list item. An indented line is a nested item."""
    return f"{'  - ' if line.startswith('  ') else '- '}{escape_markdown(line.strip())}"


def _latex_table(table: Table, number: int) -> str:
    counts = table.clip_counts()[1]
    text_title, texts = table.text_column
    by_row = any(row in counts for row in table.rows)
    tail = [r"$n$"] * by_row + ([escape_latex(text_title)] if text_title else [])
    lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{_latex_caption(table)}}}"]
    lines += [rf"  \label{{tab:compare-{number}}}"]
    lines += [
        rf"  \begin{{tabular}}{{{'l' * len(table.row_axes)}{'r' * (len(table.cols) + len(tail))}}}",
        r"    \toprule",
    ]
    levels = table.header_levels()
    for i, level in enumerate(levels):
        last = i == len(levels) - 1
        heads = [escape_latex(head) for head in table.row_axes] if last else [""] * len(table.row_axes)
        heads += [_latex_header_cell(label, span) for label, span in level] + (tail if last else [""] * len(tail))
        lines.append(f"    {' & '.join(heads)} \\\\")
        lines += _latex_header_rules(level, len(table.row_axes)) if not last else []
    if any(col in counts for col in table.cols):
        numbers = [f"$n$ = {counts[col]}" if col in counts else "" for col in table.cols]
        lines.append(f"    {' & '.join([''] * len(table.row_axes) + numbers + [''] * len(tail))} \\\\")
    lines.append(r"    \midrule")
    has_rule = False
    for row in table.rows:
        if row in table.baselines and not has_rule:
            lines, has_rule = [*lines, r"    \midrule"], True
        cells = [escape_latex(label) for label in row] + [_latex_cell(table, row, col) for col in table.cols]
        cells += [counts.get(row, "")] * by_row + ([escape_latex(texts.get(row, ""))] if text_title else [])
        lines.append(f"    {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"])


def _latex_caption(table: Table) -> str:
    notes = [note.replace("is marked;", "is bold;") for note in table.notes]
    return escape_latex(" ".join([f"{table.heading()}.", *notes]))


def _latex_cell(table: Table, row: Labels, col: Labels) -> str:
    shown, cell = escape_latex(table.cell_text(row, col)), table.cells.get((row, col))
    return rf"\textbf{{{shown}}}" if cell and cell.best else shown


def _latex_header_cell(label: str, span: int) -> str:
    return escape_latex(label) if span == 1 else rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(label)}}}"


def _latex_header_rules(level: list[tuple[str, int]], start: int) -> list[str]:
    """Return the rules below the labels that span several columns."""
    rules, first = [], start + 1
    for _, span in level:
        if span > 1:
            rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
        first += span
    return [f"    {' '.join(rules)}"] if rules else []


def log_next_steps(folder: Path) -> None:
    """Log the last lines of a run: what can be done with it, and the path of its report."""
    run = shlex.quote(os.path.relpath(folder))
    log.info("predict your files: etude predict %s song.mp3", run)
    log.info("explain a prediction: etude inspect %s", run)
    log.info("report: %s", os.path.relpath(RunFolder(folder).report_path))
