"""Tests of the page of predictions, its plots over time and its playhead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browsing import open_page
from tests.commands import predict as main
from tests.inference.conftest import UNUSUAL_NAME
from tests.reports.test_run_report_browser import FIND_LOW_CONTRAST, FIND_UNNAMED

from etude.inference.engine import FilePrediction
from etude.inference.figure import build_plots, format_clock, time_ticks
from etude.inference.model import PredictionColumns


@pytest.fixture(scope="module")
def page(checkpoint: Path, audio_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    files = [str(audio_folder / name) for name in ("song.mp3", UNUSUAL_NAME, "broken.mp3")]
    assert main([str(checkpoint), *files, f"--out={folder}"]) == 1
    return folder / "predict.html"


def test_names_are_escaped_and_nothing_is_fetched(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<b>loud" not in text and "&lt;b&gt;loud" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']""", text)
    assert text.count("<audio ") == text.count('alt="Log-mel spectrogram') == 2
    assert [path.name[:7] for path in sorted((page.parent / "predict_figures").iterdir())] == ["01_song", "02_img-"]
    assert "could not be decoded" in text and "it contains no audio in a format that libsndfile supports" in text
    assert "windows of 9.98 s, the length of the clips in evaluation" in text


def test_lines_have_gaps_at_silent_windows_and_reach_both_ends() -> None:
    columns = PredictionColumns({
        "genre": {"kind": "label", "classes": list("abcdefgh")}, "tempo": {"kind": "scalar", "low": 40, "high": 240},
        "energy": {"kind": "scalar", "low": 0, "high": 1}, "valence": {"kind": "scalar", "low": 0, "high": 1},
    })  # fmt: skip
    values = [0.0, 0.2, 0.15, 0.1, 0.3, 0.11, 0.09, 0.05, 140.0, 0.25, 1.5]
    windows = [(0.0, 4.0, values), (2.0, 6.0, values), (4.0, 8.0, None), (6.0, 10.0, values)]
    plots = build_plots(FilePrediction(Path("x"), 1, 1, 10.0, values, windows), columns)
    assert [plot.title for plot in plots] == [
        "genre: probability, 0 to 1; 5 of 8 classes", "tempo: 40 to 240", "energy, valence: 0 to 1",
    ]  # fmt: skip
    assert [line.name for line in plots[0].lines] == list("ebcfd") and "the highest first" in plots[0].note
    assert plots[1].lines[0].path == "M0.0 50.00L200.0 50.00L400.0 50.00M800.0 50.00L1000.0 50.00"
    assert "0.00" in plots[2].lines[1].path  # a value outside the range is drawn at its end
    assert [line.colour for line in plots[0].lines] == [f"group-{n}" for n in range(1, 6)]  # group-6 is a second blue
    assert len({line.dash for line in plots[0].lines}) == 5  # distinguishable without colours


def test_time_ticks_are_round_and_few() -> None:
    assert (format_clock(7.9), format_clock(205), format_clock(3723)) == ("0:08", "3:25", "1:02:03")
    assert time_ticks(10) == [(0, "0:00"), (0.2, "0:02"), (0.4, "0:04"), (0.6, "0:06"), (0.8, "0:08"), (1, "0:10")]
    assert all(2 <= len(time_ticks(seconds)) <= 6 for seconds in (1.2, 29, 200, 1000, 7000, 30000))


@pytest.fixture
def opened(browser: Any, page: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with open_page(browser, page.as_uri(), *getattr(request, "param", (1280, "light"))) as opened_page:
        yield opened_page


@pytest.mark.parametrize("opened", [(1280, "light"), (390, "dark")], indirect=True, ids=str)
def test_page_fits_the_window_and_is_legible(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate(FIND_LOW_CONTRAST) == []
    assert opened.evaluate(FIND_UNNAMED) == []
    assert opened.messages == []


def test_playhead_follows_player_click_and_keys(opened: Any) -> None:
    plots, audio = opened.locator(".file-plots").first, opened.locator("audio").first
    position = "document.querySelector('.file-plots').style.getPropertyValue('--position')"
    assert opened.locator(".playhead-time").first.inner_text() == "whole file"
    opened.wait_for_function("document.querySelector('audio').readyState > 0")

    plots.locator(".area").nth(1).scroll_into_view_if_needed()
    box = plots.locator(".area").nth(1).bounding_box()
    opened.mouse.click(box["x"] + 0.62 * box["width"], box["y"] + 20)
    assert float(opened.evaluate(position)) == pytest.approx(0.62, abs=0.01)
    assert audio.evaluate("audio => audio.currentTime") == pytest.approx(15.5, abs=0.2)
    playhead = plots.locator(".playhead").first.bounding_box()
    assert playhead["x"] + 1 == pytest.approx(box["x"] + 0.62 * box["width"], abs=2)
    assert opened.locator(".playhead-time").first.inner_text() == "at 0:15"
    assert float(plots.get_attribute("aria-valuenow")) == pytest.approx(15.5, abs=0.2)

    plots.focus()
    opened.keyboard.press("Home")
    assert float(opened.evaluate(position)) == 0
    opened.keyboard.press("ArrowRight")
    assert audio.evaluate("audio => audio.currentTime") == pytest.approx(1.25, abs=0.05)  # a twentieth of 25 s
    assert "0:01 of 0:25" in plots.get_attribute("aria-valuetext")

    opened.keyboard.press(" ")
    opened.wait_for_function(f"{position} > 0.07")  # it moves during playback
    assert float(opened.evaluate(position)) == pytest.approx(
        audio.evaluate("audio => audio.currentTime") / 25, abs=0.02
    )
    opened.keyboard.press(" ")
    assert audio.evaluate("audio => audio.paused")
    assert opened.messages == []
