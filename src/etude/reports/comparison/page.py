"""HTML page of a comparison with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.bootstrap import MIN_TEST_GROUPS
from etude.evaluation.formatting import NAMES, format_count
from etude.evaluation.paired_tests import LEVEL, NO_DIFFERENCE, Pair, format_p_value
from etude.evaluation.score_summary import describe_clips
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.curves import CURVES_PAGE, have_curves
from etude.reports.comparison.runs import ComparedRun, common_fold, mapping_or_empty
from etude.reports.comparison.scores import finite_or_none, score_frame
from etude.reports.comparison.table import Labels, Table
from etude.reports.comparison.text import Comparison
from etude.reports.figures import shorten_label
from etude.reports.html import load_template
from etude.reports.svg import STAND_IN, draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_IN_FIGURE = 40
"""Maximum number of runs in a figure."""
MOST_IN_MATRIX = 16
"""Maximum number of runs in a matrix of pairs. The table of pairs contains all pairs."""
SPLIT_TITLES = {"test": "Test split", "val": "Validation split"}
SELECTED = {
    "all": " (used to select the weights, so scores are optimistic)",
    "some": " (used to select the weights of some runs, whose scores are optimistic)",
    "none": " (not used to select the weights)",
}


def render_page(comparison: Comparison) -> str:
    """Return the page of a comparison as HTML."""
    pairs = comparison.pairs
    options = comparison.options
    return load_template("compare.html.j2").render(
        title=f"Comparison of {format_count(len(comparison.runs), 'run')}",
        split_title=split_title(comparison.runs, options.split),
        tables=[table_content(table) for table in comparison.tables],
        forest_plots=forest_plots(comparison.runs, comparison.names, options.split, options.metrics),
        tests=[
            _tests_content([pair for pair in pairs if pair.target == target])
            for target in dict.fromkeys(pair.target for pair in pairs)
        ],
        remarks=comparison.remarks,
        format_p_value=format_p_value,
        level=LEVEL,
        min_test_groups=MIN_TEST_GROUPS,
        curves=CURVES_PAGE if has_curves_page(comparison) else "",
    )


def has_curves_page(comparison: Comparison) -> bool:
    """Return whether a comparison has a page of learning curves, to which its own page links."""
    options = comparison.options
    is_page = options.out is not None and "html" in options.formats and options.stem == CompareOptions.stem
    return is_page and have_curves(comparison.selected)


def split_title(runs: Sequence[ComparedRun], split: str) -> str:
    """Return the title of a split with the fold that all runs have in common.

    For validation, it states whether the scores selected the weights of the runs.
    """
    models = [mapping_or_empty(run.record.get("model")) for run in runs if run.metrics]
    selected = {bool(model.get("monitor") or model.get("stopped_by")) for model in models}
    title = SPLIT_TITLES[split] + common_fold(runs)
    if split == "test" or not selected:
        return title
    return title + SELECTED["some" if len(selected) == 2 else "all" if selected.pop() else "none"]


def forest_plots(
    runs: Sequence[ComparedRun], names: Mapping[Path, str], split: str, metrics: Labels = ()
) -> list[dict[str, Any]]:
    """Return one forest plot per target.

    Args:
        runs: Runs in any state.
        names: Titles of the runs by folder.
        split: test or val.
        metrics: A single metric is plotted. Otherwise, the primary metric of each target is plotted.

    Returns:
        For each target with scores: `svg`, and `left_out`, the number of runs that are not in the figure.
    """
    frame = score_frame(runs, split, metrics if len(metrics) == 1 else ())
    scores = [row for row in frame.to_dict("records") if finite_or_none(row["value"]) is not None]
    plots = []
    for i, target in enumerate(dict.fromkeys(row["target"] for row in scores)):
        rows = [row for row in scores if row["target"] == target]
        title = f"{target}: {NAMES[rows[0]['metric']]}"
        figure = _forest_plot(rows[:MOST_IN_FIGURE], names, f"compare-{i}", title)
        plots.append({"svg": figure, "left_out": max(0, len(rows) - MOST_IN_FIGURE)})
    return plots


def _forest_plot(scores: list[dict[Any, Any]], names: Mapping[Path, str], name: str, title: str) -> str:
    """Return a figure with score and interval of each run, and the statistics baseline if it is equal for all runs."""
    values = [finite_or_none(row[key]) for row in scores for key in ("statistics", "linear")]
    baseline = {round(value, 6) for value in values if value is not None}

    labels = [shorten_label(names[Path(row["folder"])], 48) for row in scores]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for y, row in enumerate(scores):
            low, high = finite_or_none(row["low"]), finite_or_none(row["high"])
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=STAND_IN["network"], linewidth=2)
            axes.plot(row["value"], y, "o", color=STAND_IN["network"], markersize=6.5)
        if len(baseline) == 1:
            axes.axvline(baseline.pop(), color=STAND_IN["linear"], linestyle="--", linewidth=1.4)
        axes.set_yticks(range(len(scores)), labels)
        axes.set_ylim(len(scores) - 0.4, -0.6)
        axes.grid(axis="x", color=STAND_IN["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{title} (no unit), 95 % interval".replace("$", r"\$"))

    description = f"{title} of {len(scores)} runs with 95 % confidence intervals; the tables contain the numbers."
    return draw_svg(draw, name, (5.6 if max(map(len, labels)) <= 24 else 8.4, 0.7 + 0.27 * len(scores)), description)


def table_content(table: Table) -> dict[str, Any]:
    """Return a table for the template, with each cell as text and as a number for sorting."""
    counts = table.clip_counts()[1]
    text_title, texts = table.text_column
    rows = []
    for row in table.rows:
        cells = []
        for col in table.cols:
            cell = table.cells.get((row, col))
            score, uncertainty = table.cell_texts(row, col)
            cells.append({"score": score, "uncertainty": uncertainty, "value": cell.mean if cell else None,
                          "best": bool(cell and cell.best), "has_status": bool(cell and cell.status)})  # fmt: skip
        rows.append({"labels": row, "cells": cells, "n": counts.get(row, ""), "text": texts.get(row, "")})
    return {
        "title": table.heading(),
        "row_axes": table.row_axes,
        # scores follow the name of a run, because the columns of many settings would move them out of view
        "labels_before": 1 if table.row_axes[:1] == ("run",) else len(table.row_axes),
        "header_levels": table.header_levels(),
        "clip_counts": [counts.get(col, "") for col in table.cols],
        "has_row_counts": any(row in counts for row in table.rows),
        "text_title": text_title,
        "rows": [row for row in rows if row["labels"] not in table.baselines],
        "baselines": [row for row in rows if row["labels"] in table.baselines],
        "notes": [note.replace("is marked;", "is marked with a dot;") for note in table.notes],
    }


def _tests_content(pairs: list[Pair]) -> dict[str, Any]:
    """Return the paired tests of one target for the template."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    by_names = {(pair.a, pair.b): pair for pair in pairs}
    significant = [pair for pair in pairs if pair.better]
    sizes = sorted({(pair.n, pair.groups, pair.ungrouped) for pair in pairs})
    clips = " or ".join(
        describe_clips({"n": n, "groups": groups, "ungrouped": ungrouped}) for n, groups, ungrouped in sizes
    )
    if len(pairs) == 1:
        summary = f"{pairs[0].a} and {pairs[0].b}: {pairs[0].conclusion}."
    elif significant:
        summary = f"Significant differences in {len(significant)} of {len(pairs)} pairs."
    else:
        conclusions = {pair.conclusion for pair in pairs}
        summary = f"{len(pairs)} pairs: {conclusions.pop() if len(conclusions) == 1 else NO_DIFFERENCE}."
    has_matrix = 2 < len(names) <= MOST_IN_MATRIX
    return {
        "target": pairs[0].target,
        "metric": pairs[0].metric,
        "summary": summary,
        "clips": clips,
        "family": max(pair.family for pair in pairs),
        "pairs": pairs,
        "is_label": any(pair.only for pair in pairs),
        "names": names,
        "matrix": [[_matrix_cell(by_names, a, b) for b in names] for a in names] if has_matrix else [],
    }


def _matrix_cell(by_names: dict[tuple[str, str], Pair], a: str, b: str) -> dict[str, Any] | None:
    """Return a cell of the matrix with the difference of row minus column, or None if the pair was not tested."""
    pair, sign = (by_names[a, b], 1) if (a, b) in by_names else (by_names.get((b, a)), -1)
    if pair is None or pair.difference["value"] is None:
        return None
    side = "" if not pair.better else "better" if pair.better == a else "worse"
    return {"value": sign * pair.difference["value"], "digits": pair.digits, "side": side, "p": pair.p}
