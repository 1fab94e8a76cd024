"""Tests of names with characters that matplotlib cannot draw."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from etude.reports import svg
from etude.reports.svg import can_draw, draw_svg, font_families, number_names, save_figure

NAMES = ["rock", "Café – ünï", "古典音乐", "🎸 rock", "ロック"]


def draw_bars(figure: Figure) -> None:
    axes = figure.add_subplot()
    axes.barh(range(len(NAMES)), range(len(NAMES)), label=NAMES[2])
    axes.set_yticks(range(len(NAMES)), NAMES)
    axes.legend()


@pytest.fixture(autouse=True)
def default_font_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all fonts except for the default font of matplotlib."""
    monkeypatch.setattr(svg, "WIDE_FONTS", ())
    font_families.cache_clear()
    can_draw.cache_clear()


def test_names_that_cannot_be_drawn_are_replaced_by_numbers() -> None:
    figure = Figure()
    draw_bars(figure)
    assert number_names(figure) == {"#1": "古典音乐", "#2": "🎸 rock", "#3": "ロック"}
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rock", "Café – ünï", "#1", "#2 rock", "#3"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["#1"]
    assert figure.get_supxlabel().startswith("#: name with characters that no font of this machine has")


def test_figure_with_drawable_names_is_unchanged() -> None:
    figure = Figure()
    figure.add_subplot().set_title("Größe ≥ 2")
    assert number_names(figure) == {}
    assert figure.get_supxlabel() == ""


def test_svg_contains_names_and_png_describes_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns about each character that it cannot draw
        drawing = save_figure(lambda figure, colours: draw_bars(figure), path, (4, 3), "Bars.", "古典")
        other = draw_svg(draw_bars, "bars", (4, 3), "Bars.")
        other.png()
    assert all(name in drawing and name in other for name in NAMES)
    assert "#1: 古典音乐." in Image.open(path).text["Description"]  # type: ignore[attr-defined]


def test_scripts_that_need_layout_are_numbered_without_raqm(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import ft2font

    monkeypatch.setattr(ft2font, "__libraqm_version__", None, raising=False)
    assert not can_draw("\N{ARABIC LETTER MEEM}") and not can_draw("\N{HEBREW LETTER ALEF}")
    assert can_draw("é") and can_draw("a") and can_draw("Ж")
