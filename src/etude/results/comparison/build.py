"""Runs and a wish to all that is said of them: tables, tests of pairs, remarks. Nothing is written or printed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from etude.errors import UserError
from etude.results.comparison import axes
from etude.results.comparison.cell import Labels
from etude.results.comparison.layout import chosen, folded, layout
from etude.results.comparison.notes import notes
from etude.results.comparison.pair import Pair
from etude.results.comparison.pairs import pairs
from etude.results.comparison.pivot import pivot
from etude.results.comparison.run import Run, titles
from etude.results.comparison.scores import tidy
from etude.results.comparison.table import Table
from etude.results.comparison.wish import Wish
from etude.results.text import NAMES, duration, plural

if TYPE_CHECKING:
    from pandas import DataFrame

PARTS = {"test": "Test", "val": "Validation (it chose the weights: optimistic)"}


@dataclass
class Comparison:
    """What is known of some runs side by side.

    Args:
        wish: What was asked.
        runs: The runs in the tables.
        names: A title for each run's folder.
        frame: The scores behind the tables, and those of single folds that were pooled.
        tables: The tables.
        pairs: Pairs of runs, tested.
        remarks: Sentences about runs.
    """

    wish: Wish
    runs: list[Run]
    names: dict[Path, str]
    frame: DataFrame
    tables: list[Table]
    pairs: list[Pair] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from etude.results.comparison.markdown import text

        return text(self)


def build(runs: Sequence[Run], wish: Wish | None = None, tests: bool = True) -> Comparison:
    """Compare runs.

    Args:
        runs: Runs in any state.
        wish: What is asked; none: a row per run and a column per target.
        tests: Whether pairs are tested.

    Raises:
        UserError: The wish names an axis, a metric or a value that these runs do not have.
    """
    wish = wish or Wish()
    everything = chosen(runs, wish)
    shown = folded(everything, wish)
    names = titles(shown)
    rows, cols, metrics = layout(shown, wish)
    every = _only(tidy(everything, wish.part, metrics, "class" in (*rows, *cols)), wish)
    frame = every[every["folder"].isin({str(run.folder) for run in shown})]
    if frame["metric"].isna().all() and any(run.metrics for run in shown):
        asked = f"metric={','.join(metrics)}" if metrics else f"part={wish.part}"
        raise UserError(f"{asked}: no run has scores of this kind")
    tables = []
    for title, part in _split(frame, shown, (*rows, *cols)):
        tables.append(pivot(part, shown, names, rows, cols))
        tables[-1].title = f"{PARTS[wish.part]}{title}"
    if "run" in rows and "target" in (*rows, *cols) and (means := _means(frame, shown, names, rows, cols)):
        means.title = f"{PARTS[wish.part]}: means over runs of one setting"
        tables.append(means)
    for table in tables:
        table.notes = notes(table, shown, tests)
        if "run" in table.heads:
            times = {names[run.folder]: duration(run.seconds) for run in shown if run.seconds}
            table.aside = ("time", {row: times.get(row[table.heads.index("run")], "") for row in table.rows})
    remarks = [f"{names[run.folder]}: {run.remark}" for run in shown if run.remark]
    if hidden := len(everything) - len(shown):
        single = any(run.pooled for run in everything if run not in shown)
        what = "Folds stand by themselves: what was pooled" if single else "Folds are pooled: each by itself"
        remarks.append(f"{what} is in {wish.stem}.csv ({plural(hidden, 'run')}).")
    tested = [run for run in shown if run.status == "finished"] if tests else []
    found, more = pairs(tested, names, wish.part, wish.metrics[0] if len(wish.metrics) == 1 else "")
    found = [pair for pair in found if pair.target in set(frame["target"])]
    return Comparison(wish, shown, names, every, tables, found, remarks + more)


def _only(frame: DataFrame, wish: Wish) -> DataFrame:
    targets = wish.only.get("target")
    return frame[frame["target"].isin(targets)] if targets else frame


def _split(frame: DataFrame, runs: Sequence[Run], asked: Labels) -> Iterator[tuple[str, DataFrame]]:
    """A table per target where targets are no axis; per kind of target where metrics are one, as each has its own."""
    kinds = {name: target["kind"] for run in runs for name, target in run.metrics.items()}
    without = frame["target"].isna()
    if "target" not in asked:
        for name in frame["target"].dropna().unique():
            part = frame[(frame["target"] == name) | without]
            lead = "" if "metric" in asked else f", {NAMES[part['metric'].dropna().iloc[0]]}"
            yield f": {name}{lead}", part
    elif "metric" in asked and "class" not in asked:
        for kind in dict.fromkeys(kinds.values()):
            part = frame[frame["target"].map(kinds).eq(kind) | without]
            if part["metric"].notna().any():
                yield {"label": ": labels", "scalar": ": scalars"}[kind], part
    else:
        yield "", frame
    if "target" not in asked and without.all():
        yield "", frame


def _means(frame: DataFrame, runs: Sequence[Run], names: dict[Path, str], rows: Labels, cols: Labels) -> Table | None:
    """The same without what is chance, where that brings runs together."""
    settings = tuple(axis for axis in rows if axis not in ("run", *axes.REPEATS))
    if not settings or frame["metric"].isna().all():
        return None
    table = pivot(frame[frame["metric"].notna()], runs, names, settings, cols)
    return table if any(len(cell.values) > 1 for cell in table.cells.values() if cell.folders) else None
