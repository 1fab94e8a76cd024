"""Tests of a run report in a browser without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from tests.browsing import open_page
from tests.synthetic_runs import write_run

from etude.audio.log_mel import LogMelChroma
from etude.data.collection import Collection
from etude.reports.run_report import write_report
from etude.reports.worst_errors import save_worst_errors
from etude.runs.folder import RunFolder, write_metrics

SCHEMES = [(width, scheme) for width in (1440, 390) for scheme in ("light", "dark")]
FIND_LOW_CONTRAST = """() => {
  const parse = text => {
    const n = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    return text.startsWith('color(') ? [...n.slice(0, 3).map(x => 255 * x), n[3] ?? 1] : [...n.slice(0, 3), n[3] ?? 1];
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(x => x / 255).map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = node => {
    for (let parent = node; parent; parent = parent.parentElement) {
      const colour = parse(getComputedStyle(parent).backgroundColor);
      if (colour[3] > 0) return colour;
    }
    return parse(getComputedStyle(document.body).backgroundColor);
  };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    const hasText = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!hasText || node.closest('.hidden, .skip, audio') || !node.getClientRects().length) continue;
    const style = getComputedStyle(node), isSvg = node instanceof SVGElement;
    const [a, b] = [parse(isSvg ? style.fill : style.color), background(node)].map(c => luminance(c.slice(0, 3)));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([node.tagName, node.textContent.trim().slice(0, 40), ratio]);
  }
  return low;
}"""
FIND_UNNAMED = """() =>
[...document.querySelectorAll('svg, img, audio, input, table, [role=region], pre')].filter(node =>
  !(node.getAttribute('aria-label') || node.getAttribute('alt') || node.closest('label') || node.ariaHidden)
).map(node => node.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame) -> Path:
    """Run folder with saved errors and a report."""
    parent = tmp_path_factory.mktemp("browser")
    run = write_run(parent / "a-run", table)
    seconds = np.arange(3 * 22050) / 22050
    soundfile.write(parent / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * seconds), 22050)
    clips = pd.DataFrame({"id": table["id"], "title": "A <b>title</b>", "artist": "Somebody", "licence": "CC-BY-4.0"})
    rng, front = np.random.default_rng(0), LogMelChroma()
    pack = SimpleNamespace(
        index=clips,
        lengths=np.full(len(clips), 130),
        clip=lambda row: (-80 * rng.random((130, front.bins))).astype(np.float16),
    )
    source = Collection("clips", "Clips", clips.assign(path=str(parent / "tone.wav"), group=None), {})
    data: Any = SimpleNamespace(pack=pack, feature=SimpleNamespace(front=front), source=source)
    save_worst_errors(RunFolder(run), table, data, {"genre": {"kind": "label"}, "energy": {"kind": "scalar"}})
    write_metrics(RunFolder(run))
    write_report(RunFolder(run))
    return run


@pytest.fixture
def page(browser: Any, folder: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with open_page(browser, (folder / "report.html").as_uri(), *getattr(request, "param", (1440, "light"))) as visited:
        yield visited


@pytest.mark.parametrize("page", SCHEMES, indirect=True, ids=lambda p: f"{p[0]} px {p[1]}")
def test_page_fits_has_contrast_and_loads_nothing(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(node => node.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(FIND_LOW_CONTRAST) == []
    assert page.evaluate(FIND_UNNAMED) == []
    assert page.messages == []


def test_all_audio_can_be_played(page: Any) -> None:
    players = page.locator("audio")
    assert players.count() > 3
    for index in range(players.count()):
        players.nth(index).evaluate("player => player.load()")
        page.wait_for_function(f"document.querySelectorAll('audio')[{index}].duration > 2.9")
    heading = page.locator(".clip h4", has_text="<script>")
    if heading.count():
        assert "<script>" in heading.first.inner_text()


def test_images_can_be_decoded(page: Any) -> None:
    sizes = page.evaluate(
        "Promise.all([...document.querySelectorAll('svg image')].map(async node => {"
        "const image = new Image(); image.src = node.href.baseVal; await image.decode();"
        "return [image.naturalWidth, image.naturalHeight]}))"
    )
    assert len(sizes) > 3 and all(size == [130, 128] for size in sizes)


def test_confusion_matrix_changes_by_keyboard(page: Any) -> None:
    count, share = (page.locator(f".confusion .diagonal .{name}").first for name in ("count", "share"))
    assert count.is_visible() and share.is_visible()
    page.locator("input[value=both]").first.focus()
    page.keyboard.press("ArrowRight")
    assert count.is_visible() and not share.is_visible()
    page.keyboard.press("ArrowRight")
    assert share.is_visible() and not count.is_visible()
    page.keyboard.press("ArrowRight")
    assert count.is_visible() and share.is_visible()


def test_first_tab_stop_skips_to_content(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_page_works_without_scripts(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator(".confusion .diagonal .count").first.is_visible()
    assert page.locator(".confusion .diagonal .share").first.is_visible()
    page.locator("input[value=counts]").first.check()
    assert not page.locator(".confusion .diagonal .share").first.is_visible()
    context.close()
