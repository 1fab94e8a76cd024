"""Tables of a comparison and their cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean, stdev

from etude.evaluation.formatting import LOWER_IS_BETTER, UNDEFINED, format_count, format_interval, format_number

Labels = tuple[str, ...]
SCORE_AXES = ("target", "metric", "class")
"""Axes along which one run has several scores."""
REPEAT_AXES = ("seed", "fold", "data.split.seed")
"""Axes of random variation. Runs that differ only along these axes repeat one experiment."""
MOST_LISTED_LABELS = 6
"""Maximum number of labels with which the values of a setting are listed. With more, only their number is stated."""


@dataclass(frozen=True)
class Cell:
    """Scores of one cell of a table.

    Args:
        values: One score per run, or per split for a baseline. None is an undefined score.
        low: Lower end of the 95 % confidence interval of a single run. None for a mean over runs.
        high: Upper end.
        n: Number of scored clips, or several numbers if runs were scored on different clips.
        groups: Number of resampled groups of these clips. A clip with an unknown group is counted as a group.
        ungrouped: Number of clips with an unknown group.
        scored_on: Data and split of the runs.
        status: Text that replaces the score, such as the status of a run without scores.
        measure: Target, metric and class. Cells of the same measure can be ranked.
        folders: Folders of the runs.
        best: Whether no cell of the same measure has a better score.
        repeats: Number of runs of a mean and what varies between them, such as "3 seeds, same split".
    """

    values: tuple[float | None, ...]
    low: float | None = None
    high: float | None = None
    n: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    ungrouped: frozenset[int] = frozenset()
    scored_on: frozenset[str] = frozenset()
    status: str = ""
    measure: Labels = ()
    folders: tuple[str, ...] = ()
    best: bool = False
    repeats: str = ""

    @property
    def defined(self) -> list[float]:
        """Defined scores."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Mean of the defined scores, or None if there are none."""
        return fmean(self.defined) if self.defined else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over runs (n - 1 in the denominator), or None for fewer than two."""
        return stdev(self.defined) if len(self.defined) > 1 else None

    @property
    def digits(self) -> int:
        """Number of printed decimals. Error metrics have small values and therefore one decimal more."""
        return 3 if self.measure[1:2] and self.measure[1] in LOWER_IS_BETTER else 2

    @property
    def score(self) -> str:
        """Score as text, such as "0.62" or "0.62 ± 0.04", or the status."""
        if self.status:
            return self.status
        mean = format_number(self.mean, self.digits)
        return mean if self.sd is None else f"{mean} ± {format_number(self.sd, self.digits)}"

    @property
    def uncertainty(self) -> str:
        """Confidence interval of a single run, or number of runs of a mean, as text."""
        if self.status or not self.folders:
            return ""
        if len(self.values) > 1:
            undefined = len(self.values) - len(self.defined)
            repeats = self.repeats or format_count(len(self.values), "run")
            return f"({repeats}{f', {undefined} {UNDEFINED}' if undefined else ''})"
        return format_interval({"low": self.low, "high": self.high}, self.digits)

    @property
    def clips(self) -> str:
        """Number of clips as text, such as "52" or "40 or 52", or "" if it is unknown."""
        return " or ".join(str(n) for n in sorted(self.n))


@dataclass
class Table:
    """Table of scores with its notes.

    Args:
        title: Split and measure of the scores.
        row_axes: Axes in rows.
        rows: Labels of the rows, with a label for each of `row_axes`.
        cols: Labels of the columns.
        cells: Cells by row and column. A combination without scores is missing.
        baselines: Rows and columns that are baselines.
        text_column: Title of an additional last column of text, and its text by row.
        notes: Sentences below the table.
        col_axes: Axes in columns.
    """

    title: str
    row_axes: Labels
    rows: list[Labels]
    cols: list[Labels]
    cells: dict[tuple[Labels, Labels], Cell]
    baselines: set[Labels] = field(default_factory=set)
    text_column: tuple[str, dict[Labels, str]] = ("", {})
    notes: list[str] = field(default_factory=list)
    col_axes: Labels = ()

    def first_axis(self) -> Table:
        """Return the table with only the first axis in rows, whose labels must be different."""
        title, texts = self.text_column
        return replace(
            self,
            row_axes=self.row_axes[:1],
            rows=[row[:1] for row in self.rows],
            cells={(row[:1], col): cell for (row, col), cell in self.cells.items()},
            baselines={label[:1] if label in self.rows else label for label in self.baselines},
            text_column=(title, {row[:1]: text for row, text in texts.items()}),
        )

    def clip_counts(self) -> tuple[str, dict[Labels, str], bool]:
        """Return the number of clips n for the whole table, or per column or row, or mark it as different in each cell.

        Returns:
            n of all cells or "", n by label of columns or rows, and whether each cell must show its own n.
        """
        known = {position: cell.clips for position, cell in self.cells.items() if cell.clips}
        if len(set(known.values())) < 2:
            return next(iter(known.values()), ""), {}, False
        for side in (1, 0):
            by_label: dict[Labels, set[str]] = {}
            for position, n in known.items():
                by_label.setdefault(position[side], set()).add(n)
            if all(len(counts) == 1 for counts in by_label.values()):
                return "", {label: counts.pop() for label, counts in by_label.items()}, False
        return "", {}, True

    def common_repeats(self) -> str:
        """Return what varies between the runs of each mean if it is the same for all cells, else ""."""
        texts = {cell.repeats if len(cell.values) > 1 else "" for cell in self.cells.values() if cell.folders}
        return texts.pop() if len(texts) == 1 else ""

    def heading(self) -> str:
        """Return the title. It includes the number of clips and what is averaged if these are equal in all cells."""
        n, repeats = self.clip_counts()[0], self.common_repeats()
        items = [self.title, f"n = {n}" if n else "", f"mean ± sd over {repeats}" if repeats else ""]
        return ", ".join(item for item in items if item)

    def cell_text(self, row: Labels, col: Labels) -> str:
        """Return the text of a cell, or "–" for a missing cell."""
        return " ".join(text for text in self.cell_texts(row, col) if text)

    def cell_texts(self, row: Labels, col: Labels) -> tuple[str, str]:
        """Return the score of a cell, and its uncertainty and number of clips, as text."""
        cell = self.cells.get((row, col))
        if cell is None:
            return "–", ""
        undefined = len(cell.values) - len(cell.defined)
        uncertainty = "" if self.common_repeats() and not undefined else cell.uncertainty
        n = f"(n = {cell.clips})" if self.clip_counts()[2] and cell.clips else ""
        return cell.score, " ".join(text for text in (uncertainty, n) if text)

    def header_levels(self) -> list[list[tuple[str, int]]]:
        """Return the levels of the column header, each with its labels and the number of columns that they span."""
        levels = []
        for level in range(len(self.cols[0]) if self.cols else 0):
            spans: list[tuple[Labels, int]] = []
            for col in self.cols:
                prefix = col[: level + 1]
                if spans and spans[-1][0] == prefix and level < len(col) - 1:
                    spans[-1] = prefix, spans[-1][1] + 1
                else:
                    spans.append((prefix, 1))
            levels.append([(prefix[-1], span) for prefix, span in spans])
        return levels

    def has_best(self) -> bool:
        """Return whether a cell is marked as the best."""
        return any(cell.best for cell in self.cells.values())


Settings = Mapping[str, tuple[str, Labels]]
"""Values of settings as text, and the axes that show each setting."""


def difference_notes(table: Table, settings: Mapping[str, Settings]) -> list[str]:
    """Return notes on the settings in which runs of one target differ although no axis of the table shows them.

    Args:
        table: A table.
        settings: Settings of the runs by folder.
    """
    all_axes = (*table.row_axes, *table.col_axes)
    by_target: dict[str, list[tuple[dict[str, str], Settings]]] = defaultdict(list)
    for (row, col), cell in table.cells.items():
        labels = dict(zip(all_axes, (*row, *col), strict=True))
        for folder in cell.folders:
            by_target[cell.measure[0]].append((labels, settings[folder]))
    targets: dict[str, list[str]] = defaultdict(list)
    for target, runs in by_target.items():
        axes = [axis for axis in all_axes if axis not in (*SCORE_AXES, *REPEAT_AXES)]
        axes = sorted((axis for axis in axes if len({labels[axis] for labels, _ in runs}) > 1), key="run".__eq__)
        texts = []
        for name in runs[0][1]:
            shown = [shown for _, values in runs for shown in values[name][1]]
            if any(axis == key or ("." in key and axis.startswith(f"{key}.")) for axis in all_axes for key in shown):
                continue
            if text := _describe_values([(labels, values[name][0]) for labels, values in runs], axes):
                texts.append(f"{name} {text}")
        shown_axes = ", ".join(axis for axis in axes if axis != "run")
        head = f"Runs differ in more than {shown_axes}" if shown_axes else "Runs differ in other settings"
        if texts:
            targets[f"{head}: {'; '.join(texts)}."].append(target)
    everywhere = len(targets) == 1 and len(next(iter(targets.values()))) == len(by_target)
    return [
        note if everywhere else f"{', '.join(names)}: {note[0].lower()}{note[1:]}" for note, names in targets.items()
    ]


def _describe_values(runs: Sequence[tuple[Mapping[str, str], str]], axes: Sequence[str]) -> str:
    """Return each value of a setting with the labels of its runs, such as "32 (lstm), 8 (cnn, ast)".

    The labels are those of the fewest axes that determine the values. The result is "" if the values do not differ
    between labels.

    Args:
        runs: Labels by axis, and value of the setting.
        axes: Axes on which the runs differ.
    """
    values = _values_by_label(runs, axes)
    if len(set(values.values())) < 2:
        return ""
    for count in range(1, len(axes)):
        for some in combinations(axes, count):
            if all(values[tuple(labels[axis] for axis in axes)] == of_some[tuple(labels[axis] for axis in some)]
                   for of_some in [_values_by_label(runs, some)] for labels, _ in runs):  # fmt: skip
                return _join_values(_values_by_label(runs, some))
    return _join_values(values)


def _values_by_label(
    runs: Sequence[tuple[Mapping[str, str], str]], axes: Sequence[str]
) -> dict[Labels, frozenset[str]]:
    """Return the set of values of a setting by the labels of some axes."""
    sets: dict[Labels, set[str]] = defaultdict(set)
    for labels, value in runs:
        sets[tuple(labels[axis] for axis in axes)].add(value)
    return {labels: frozenset(values) for labels, values in sets.items()}


def _join_values(values: Mapping[Labels, frozenset[str]]) -> str:
    """Return values with their labels as text, or only the number of values if there are many labels."""
    if len(values) > MOST_LISTED_LABELS:
        n_values = len(set().union(*values.values()))
        return f"({n_values} values)"
    by_value: dict[str, list[str]] = defaultdict(list)
    for labels, of_labels in values.items():
        by_value[" or ".join(sorted(of_labels))].append(" ".join(labels))
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())
