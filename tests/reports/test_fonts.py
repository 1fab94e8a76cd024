"""Names in letters that a figure cannot draw become numbers; a page leaves them to the browser."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from etude.reports import fonts
from etude.reports.fonts import draws, families, number_names
from etude.reports.svg import picture, svg

NAMES = ["rock", "Café – ünï", "古典音乐", "🎸 rock", "ロック"]


def bars(figure: Figure) -> None:
    axes = figure.add_subplot()
    axes.barh(range(len(NAMES)), range(len(NAMES)), label=NAMES[2])
    axes.set_yticks(range(len(NAMES)), NAMES)
    axes.legend()


@pytest.fixture(autouse=True)
def no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has no font but matplotlib's own."""
    monkeypatch.setattr(fonts, "WIDE", ())
    families.cache_clear()
    draws.cache_clear()


def test_names_that_cannot_be_drawn_become_numbers() -> None:
    figure = Figure()
    bars(figure)
    assert number_names(figure) == {"#1": "古典音乐", "#2": "🎸 rock", "#3": "ロック"}
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rock", "Café – ünï", "#1", "#2 rock", "#3"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["#1"]
    assert figure.get_supxlabel().startswith("#: a name in letters that no font of this machine draws")


def test_figure_of_drawable_names_is_left_as_it_is() -> None:
    figure = Figure()
    figure.add_subplot().set_title("Größe ≥ 2")
    assert number_names(figure) == {}
    assert figure.get_supxlabel() == ""


def test_page_keeps_names_and_picture_says_what_numbers_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each letter that it cannot draw
        drawing = picture(lambda figure, colours: bars(figure), path, (4, 3), "Bars.", "古典")
        page = svg(bars, "bars", (4, 3), "Bars.")
        page.png()
    assert all(name in drawing and name in page for name in NAMES)
    assert "#1: 古典音乐." in Image.open(path).text["Description"]  # type: ignore[attr-defined]


def test_scripts_that_need_layout_are_numbered_without_raqm(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import ft2font

    monkeypatch.setattr(ft2font, "__libraqm_version__", None, raising=False)
    assert not draws("\N{ARABIC LETTER MEEM}") and not draws("\N{HEBREW LETTER ALEF}")
    assert draws("é") and draws("a") and draws("Ж")
