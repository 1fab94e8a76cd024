"""Simulations of the coverage of intervals and of the false-positive rate of paired tests with few groups.

The tables of docs/explanations/evaluation.md contain these numbers, and a test compares them. A failed test prints the
new tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from etude.evaluation.bootstrap import (
    FEW_GROUPS,
    draw_resamples,
    percentile_interval,
    resampled_scores,
    scores_with_intervals,
)
from etude.evaluation.means import build_scorer
from etude.evaluation.paired_tests import ScoredTarget, compare_pairs, scored_run

PAGE = Path(__file__).parents[2] / "docs" / "explanations" / "evaluation.md"
CLASSES = 3
CLIPS = 8  # clips of a group
REPEATS = 500
GROUPS = (3, 5, 10, 30)
METRICS = ("accuracy", "macro_f1", "spearman", "mse")
TARGETS: dict[str, dict[str, Any]] = {
    "label": {"kind": "label", "classes": [str(i) for i in range(CLASSES)], "note": ""},
    "scalar": {"kind": "scalar", "low": -9.0, "high": 9.0, "note": ""},
}


def simulate_split(
    kind: str, groups: int, rng: np.random.Generator, models: int = 1
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return the group and true value of each clip, and the predictions of equally good models.

    Half of the variance of the models' errors is common to the clips of a group. Each group has one class, as artists
    usually have one genre.
    """
    group = np.repeat(np.arange(groups), CLIPS)
    n = len(group)
    if kind == "scalar":
        true = rng.normal(size=groups)[group] + rng.normal(size=n)
        errors = [0.7 * (rng.normal(size=groups)[group] + rng.normal(size=n)) for _ in range(models)]
        return group, true, [0.7 * true + error for error in errors]
    true = (np.arange(groups) % CLASSES)[group]
    correct = [0.6 + rng.normal(size=groups)[group] + rng.normal(size=n) > 0 for _ in range(models)]
    return group, true, [np.where(c, true, (true + rng.integers(1, CLASSES, n)) % CLASSES) for c in correct]


def expected_scores(kind: str, groups: int) -> dict[str, float]:
    """Return the scores on many splits with the same number of groups of each class."""
    rng = np.random.default_rng(99)
    splits = [simulate_split(kind, groups, rng) for _ in range(30_000 // groups)]
    true, pred = np.concatenate([split[1] for split in splits]), np.concatenate([split[2][0] for split in splits])
    return {metric: value.item() for metric, value in build_scorer(true, TARGETS[kind])(pred, None).items()}


def coverage(kind: str, groups: int) -> Iterator[tuple[str, float, float]]:
    """Yield each metric with the fractions of widened intervals and of plain percentiles that cover its expectation."""
    expected = expected_scores(kind, groups)
    rng = np.random.default_rng(5)
    covered: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for seed in range(REPEATS):
        group, true, (pred,) = simulate_split(kind, groups, rng)
        resamples = draw_resamples(group.tolist(), 1000, seed, true if kind == "label" else None)
        if not len(resamples):
            return
        point, drawn = resampled_scores(build_scorer(true, TARGETS[kind]), pred, resamples)
        for metric in (metric for metric in METRICS if metric in point):
            wide, mean = scores_with_intervals(point, drawn)[metric], drawn[metric].mean()
            low, high = percentile_interval(mean + (drawn[metric] - mean) / resamples.widening)
            value = expected[metric]
            covered[metric].append((wide["low"] <= value <= wide["high"], low <= value <= high))
    for metric, hits in covered.items():
        yield metric, *np.mean(hits, axis=0).tolist()


def false_positive_rate(kind: str, groups: int) -> float:
    """Return the fraction of significant differences between two equally good models."""
    rng = np.random.default_rng(3)
    significant = 0
    for _ in range(REPEATS):
        group, true, preds = simulate_split(kind, groups, rng, models=2)
        runs = []
        for i, pred in enumerate(preds):
            columns = {f"{kind}.true": true, f"{kind}.pred": pred}
            if kind == "label":
                columns = {name: values.astype(str) for name, values in columns.items()}
            table = pd.DataFrame({"id": [f"{k:03d}" for k in range(len(true))], "group": group, "split": "test"})
            runs.append(scored_run(str(i), kind, TARGETS[kind], table.assign(**columns), "test"))
        (pair,), _ = compare_pairs([ScoredTarget(kind, runs)])
        significant += bool(pair.better)
    return significant / REPEATS


def tables() -> tuple[dict[tuple[str, int], tuple[float, float]], dict[tuple[str, int], float]]:
    """Return coverages by metric and number of groups, and false-positive rates by kind and number of groups."""
    covered = {
        (metric, groups): (wide, plain)
        for kind in TARGETS
        for groups in GROUPS
        for metric, wide, plain in coverage(kind, groups)
    }
    return covered, {(kind, groups): false_positive_rate(kind, groups) for kind in TARGETS for groups in (2, *GROUPS)}


def format_tables(covered: dict[tuple[str, int], tuple[float, float]], rates: dict[tuple[str, int], float]) -> str:
    """Return the tables of the page as Markdown."""
    lines = []
    for name, i in (("coverage", 0), ("plain percentiles", 1)):
        lines.append(f"| {name} | {' | '.join(map(str, GROUPS))} |")
        for metric in METRICS:
            values = [covered.get((metric, groups)) for groups in GROUPS]
            lines.append(f"| {metric} | {' | '.join(f'{value[i]:.2f}' if value else '–' for value in values)} |")
    lines.append(f"| false positives | {' | '.join(map(str, (2, *GROUPS)))} |")
    lines += [f"| {kind} | {' | '.join(f'{rates[kind, groups]:.2f}' for groups in (2, *GROUPS))} |" for kind in TARGETS]
    return "\n".join(lines)


def read_table(heading: str) -> dict[str, list[str]]:
    """Return the rows of a table of the page by their first cell."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading}"))
    rows: dict[str, list[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[first] = cells
    return rows


@pytest.mark.full
def test_coverage_and_false_positives_are_as_documented() -> None:
    covered, rates = tables()
    shown = format_tables(covered, rates)
    for metric in METRICS:
        for groups in GROUPS:
            wide, plain = covered.get((metric, groups), (None, None))
            if wide is None:
                assert groups == CLASSES and metric in ("accuracy", "macro_f1")  # each class has one group
                continue
            assert wide > (0.9 if groups >= FEW_GROUPS else 0.86) and wide > plain - 0.01
    assert min(covered[metric, 5][0] for metric in METRICS) < 0.9  # therefore FEW_GROUPS is above 5
    limit = 0.05 + 2 * (0.05 * 0.95 / REPEATS) ** 0.5
    assert all(rate <= limit for rate in rates.values())
    assert all(rate == 0 for (_, groups), rate in rates.items() if groups < 6)
    for name, i in (("coverage", 0), ("plain percentiles", 1)):
        for row, cells in read_table(name).items():
            for groups, cell in zip(GROUPS, cells, strict=True):
                measured = covered.get((row, groups))
                assert cell == "–" if measured is None else abs(float(cell) - measured[i]) < 0.02, shown
    for row, cells in read_table("false positives").items():
        for groups, cell in zip((2, *GROUPS), cells, strict=True):
            assert abs(float(cell) - rates[row, groups]) < 0.02, shown
