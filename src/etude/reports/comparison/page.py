"""Page of a comparison, with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import NAMES, format_count
from etude.evaluation.paired_tests import LEVEL, NOTHING, Pair, chance
from etude.reports.comparison.runs import ComparedRun
from etude.reports.comparison.scores import number, tidy
from etude.reports.comparison.table import Labels, Table
from etude.reports.comparison.text import Comparison
from etude.reports.figures import shorten_label
from etude.reports.html import load_template
from etude.reports.svg import STAND_IN, draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST = 40  # runs in one picture
MOST_IN_MATRIX = 16
"""Runs that fit into one matrix of pairs; the table of pairs has all."""
SPLIT_TITLES = {"test": "Test", "val": "Validation (it chose the weights: optimistic)"}


def page(comparison: Comparison) -> str:
    """Return the page of a comparison."""
    pairs = comparison.pairs
    return load_template("compare.html.j2").render(
        title=f"{format_count(len(comparison.runs), 'run')} side by side",
        part=SPLIT_TITLES[comparison.wish.part],
        tables=[_table(table) for table in comparison.tables],
        forests=forest_figures(comparison.runs, comparison.names, comparison.wish.part, comparison.wish.metrics),
        tests=[
            _tests([pair for pair in pairs if pair.target == target])
            for target in dict.fromkeys(pair.target for pair in pairs)
        ],
        remarks=comparison.remarks,
        chance=chance,
        level=LEVEL,
    )


def forest_figures(
    runs: Sequence[ComparedRun], names: Mapping[Path, str], part: str, metrics: Labels = ()
) -> list[dict[str, Any]]:
    """Return one picture per target.

    Args:
        runs: Runs in any state.
        names: Their titles.
        part: test or val.
        metrics: A single metric is drawn; otherwise the one that leads each target.

    Returns:
        SVG, and how many runs were left out, of each target that has scores.
    """
    frame = tidy(runs, part, metrics if len(metrics) == 1 else ())
    scores = [row for row in frame.to_dict("records") if number(row["value"]) is not None]
    found = []
    for i, target in enumerate(dict.fromkeys(row["target"] for row in scores)):
        here = [row for row in scores if row["target"] == target]
        drawing = _forest(here[:MOST], names, f"compare-{i}", f"{target}: {NAMES[here[0]['metric']]}")
        found.append({"svg": drawing, "left_out": max(0, len(here) - MOST)})
    return found


def _forest(scores: list[dict[Any, Any]], names: Mapping[Path, str], name: str, title: str) -> str:
    linear = {round(value, 6) for row in scores if (value := number(row["linear"])) is not None}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for y, row in enumerate(scores):
            low, high = number(row["low"]), number(row["high"])
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=STAND_IN["network"], linewidth=2)
            axes.plot(row["value"], y, "o", color=STAND_IN["network"], markersize=6.5)
        if len(linear) == 1:
            axes.axvline(linear.pop(), color=STAND_IN["linear"], linestyle="--", linewidth=1.4)
        axes.set_yticks(range(len(scores)), [shorten_label(names[Path(row["folder"])], 30) for row in scores])
        axes.set_ylim(len(scores) - 0.4, -0.6)
        axes.grid(axis="x", color=STAND_IN["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{title} (no unit), 95 % interval".replace("$", r"\$"))

    about = f"{title} of {len(scores)} runs with 95 % intervals; the numbers are in the tables."
    return draw_svg(draw, name, (5.6, 0.7 + 0.27 * len(scores)), about)


def _table(table: Table) -> dict[str, Any]:
    """Return a table with all of its cells as text and, to sort by, as numbers."""
    sizes = table.sizes()[1]
    rows = []
    for row in table.rows:
        cells = []
        for col in table.cols:
            cell = table.cells.get((row, col))
            number, doubt = table.parts(row, col)
            cells.append({"number": number, "doubt": doubt, "value": cell.mean if cell else None,
                          "best": bool(cell and cell.best), "none": bool(cell and cell.status)})  # fmt: skip
        rows.append({"labels": row, "cells": cells, "n": sizes.get(row, ""), "aside": table.aside[1].get(row, "")})
    return {
        "title": table.heading(),
        "heads": table.heads,
        "levels": table.levels(),
        "sizes": [sizes.get(col, "") for col in table.cols],
        "by_row": any(row in sizes for row in table.rows),
        "aside": table.aside[0],
        "rows": [row for row in rows if row["labels"] not in table.references],
        "baselines": [row for row in rows if row["labels"] in table.references],
        "notes": [note.replace("is marked;", "is marked with a dot;") for note in table.notes],
    }


def _tests(pairs: list[Pair]) -> dict[str, Any]:
    """Return the tests of the pairs of one target."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    by_names = {(pair.a, pair.b): pair for pair in pairs}
    different = [pair for pair in pairs if pair.better]
    sizes = sorted({(pair.n, pair.groups) for pair in pairs})
    clips = " or ".join(f"{format_count(n, 'clip')} in {format_count(groups, 'group')}" for n, groups in sizes)
    if len(pairs) == 1:
        words = f"{pairs[0].a} and {pairs[0].b}: {pairs[0].conclusion}."
    elif different:
        rest = f"; between the others there is {NOTHING}" if len(different) < len(pairs) else ""
        words = f"{len(different)} of {len(pairs)} pairs differ{rest}."
    else:
        words = f"{len(pairs)} pairs: {NOTHING}."
    complete = 2 < len(names) <= MOST_IN_MATRIX
    return {
        "target": pairs[0].target,
        "metric": pairs[0].metric,
        "words": words,
        "clips": clips,
        "family": max(pair.family for pair in pairs),
        "pairs": pairs,
        "label": any(pair.only for pair in pairs),
        "names": names,
        "matrix": [[_matrix_cell(by_names, a, b) for b in names] for a in names] if complete else [],
    }


def _matrix_cell(by_names: dict[tuple[str, str], Pair], a: str, b: str) -> dict[str, Any] | None:
    """Return a cell of the matrix, row minus column; None where there is no such pair."""
    pair, sign = (by_names[a, b], 1) if (a, b) in by_names else (by_names.get((b, a)), -1)
    if pair is None or pair.difference["value"] is None:
        return None
    side = "" if not pair.better else "better" if pair.better == a else "worse"
    return {"value": sign * pair.difference["value"], "digits": pair.digits, "side": side, "p": pair.p}
