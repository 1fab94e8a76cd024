"""A comparison as one page that asks nothing of any network: tables to sort and filter, pictures, tests of pairs."""

from __future__ import annotations

from typing import Any

from etude.results.comparison.build import PARTS, Comparison
from etude.results.comparison.figure import forests
from etude.results.comparison.pair import NOTHING, Pair, chance
from etude.results.comparison.statistics import LEVEL
from etude.results.comparison.table import Table
from etude.results.template import template
from etude.results.text import plural

MOST_IN_MATRIX = 16
"""Runs that fit into one matrix of pairs; the table of pairs has all."""


def page(comparison: Comparison) -> str:
    """The whole page."""
    pairs = comparison.pairs
    return template("compare.html.j2").render(
        title=f"{plural(len(comparison.runs), 'run')} side by side",
        part=PARTS[comparison.wish.part],
        tables=[_table(table) for table in comparison.tables],
        forests=forests(comparison.runs, comparison.names, comparison.wish.part, comparison.wish.metrics),
        tests=[
            _tests([pair for pair in pairs if pair.target == target])
            for target in dict.fromkeys(pair.target for pair in pairs)
        ],
        remarks=comparison.remarks,
        chance=chance,
        level=LEVEL,
    )


def _table(table: Table) -> dict[str, Any]:
    """A table with all of its cells in words and, to sort by, in numbers."""
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
    """What is said of the pairs of one target."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    by_names = {(pair.a, pair.b): pair for pair in pairs}
    told = [pair for pair in pairs if pair.better]
    sizes = sorted({(pair.n, pair.groups) for pair in pairs})
    clips = " or ".join(f"{plural(n, 'clip')} in {plural(groups, 'group')}" for n, groups in sizes)
    if len(pairs) == 1:
        words = f"{pairs[0].a} and {pairs[0].b}: {pairs[0].verdict}."
    elif told:
        rest = f"; between the others there is {NOTHING}" if len(told) < len(pairs) else ""
        words = f"{len(told)} of {len(pairs)} pairs differ{rest}."
    else:
        words = f"{len(pairs)} pairs: {NOTHING}."
    return {
        "target": pairs[0].target,
        "metric": pairs[0].metric,
        "words": words,
        "clips": clips,
        "family": max(pair.family for pair in pairs),
        "pairs": pairs,
        "label": any(pair.only for pair in pairs),
        "names": names,
        "matrix": [[_seen(by_names, a, b) for b in names] for a in names] if 2 < len(names) <= MOST_IN_MATRIX else [],
    }


def _seen(by_names: dict[tuple[str, str], Pair], a: str, b: str) -> dict[str, Any] | None:
    """A cell of the matrix, row minus column; None where there is no such pair."""
    pair, sign = (by_names[a, b], 1) if (a, b) in by_names else (by_names.get((b, a)), -1)
    if pair is None or pair.difference["value"] is None:
        return None
    side = "" if not pair.better else "better" if pair.better == a else "worse"
    return {"value": sign * pair.difference["value"], "digits": pair.digits, "side": side, "p": pair.p}
