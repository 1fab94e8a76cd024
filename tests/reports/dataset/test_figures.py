"""Tests of histograms and class charts of the dataset page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from etude.reports.dataset import figures, statistics
from etude.reports.svg import page_colours


def test_bins_of_integers_have_integer_widths() -> None:
    result = statistics.histogram(np.array([1.0, 1, 2, 9, np.nan]), 1, 9)
    assert result["edges"] == [k - 0.5 for k in range(1, 11)]
    assert result["counts"] == [2, 1, 0, 0, 0, 0, 0, 0, 1] and (result["n"], result["missing"]) == (4, 1)
    wide = statistics.histogram(np.arange(100.0), 0, 99)
    assert set(wide["counts"]) == {5}
    assert statistics.histogram(np.array([np.nan]), 0, 1)["mean"] is None


def test_bar_lengths_are_equal_to_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    functions: list[Any] = []
    monkeypatch.setattr(figures, "save_figure", lambda draw, *_: functions.append(draw) or "")
    counts = [{"train": 3, "val": 0, "test": 2}, {"train": 7, "val": 1, "test": 4}]
    rows = [{"class": f"${k}$", "clips": sum(splits.values()), "splits": splits} for k, splits in enumerate(counts)]
    figures.class_chart("genre", {"classes": rows}, tmp_path / "a.png")
    figures.unmerged_class_chart("genre", {"few": 2, "many": 9}, tmp_path / "b.png")
    figures.histogram_chart(
        "x",
        {"counts": [1, 0, 4], "edges": [0, 1, 2, 3], "mean": 1.5, "n": 5, "min": 0, "max": 3},
        "s",
        tmp_path / "c.png",
    )
    drawn = [Figure() for _ in functions]
    for draw, figure in zip(functions, drawn, strict=True):
        draw(figure, page_colours())
    axes = [figure.axes[0] for figure in drawn]
    assert [patch.get_width() for patch in axes[0].patches] == [3, 7, 0, 1, 2, 4]
    assert [text.get_text() for text in axes[0].texts] == ["5", "12"]
    assert [patch.get_width() for patch in axes[1].patches] == [9, 2]
    assert axes[2].patches[0].get_data().values.tolist() == [1, 0, 4]


def test_unmerged_classes_show_their_new_class_and_dropped_classes_are_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    functions: list[Any] = []
    monkeypatch.setattr(figures, "save_figure", lambda draw, *_: functions.append(draw) or "")
    counts = {"Punk": 2, "Old-Time": 30, "Metal": 5, "Jazz": 6}
    merged = {"Punk": "Metal", "Metal": "Metal", "Jazz": "Jazz", "Old-Time": None}
    figures.unmerged_class_chart("genre", counts, tmp_path / "a.png", merged)
    figure = Figure()
    functions[0](figure, page_colours())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Metal", "Punk", "Jazz", "Old-Time"]
    assert [text.get_text() for text in axes.texts] == ["5", "2 → Metal", "6", "30 dropped"]
    assert [patch.get_hatch() or "" for patch in axes.patches] == ["", "", "", "////"]


def test_chart_of_many_classes_states_number_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_CLASSES", 3)  # for speed
    rows = [{"class": f"class {i:02d}", "clips": 2, "groups": 2, "splits": {}} for i in range(5)]
    drawing = figures.class_chart("style", {"classes": rows}, tmp_path / "a.png")
    assert "Clips of each class of style, the first 3 of 5; the table contains the numbers." in drawing
    assert "class 02" in drawing and "class 03" not in drawing
    unmerged = figures.unmerged_class_chart("style", {row["class"]: 2 for row in rows}, tmp_path / "b.png")
    assert "before merging, the first 3 of 5" in unmerged
    assert figures.first_classes(3) == ""
