"""The page in a browser without a network: it fits, it is read in both schemes, it plays, and keys are enough."""

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
from etude.runs.folder import RunFolder
from etude.runs.results import write_metrics

SCHEMES = [(width, scheme) for width in (1440, 390) for scheme in ("light", "dark")]
CONTRAST = """() => {
  const parse = text => {
    const n = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    return text.startsWith('color(') ? [...n.slice(0, 3).map(x => 255 * x), n[3] ?? 1] : [...n.slice(0, 3), n[3] ?? 1];
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(x => x / 255).map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) return colour;
    }
    return parse(getComputedStyle(document.body).backgroundColor);
  };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || node.closest('.hidden, .skip, audio') || !node.getClientRects().length) continue;
    const style = getComputedStyle(node), inside = node instanceof SVGElement;
    const [a, b] = [parse(inside ? style.fill : style.color), behind(node)].map(c => luminance(c.slice(0, 3)));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([node.tagName, node.textContent.trim().slice(0, 40), ratio]);
  }
  return low;
}"""
NAMELESS = """() => [...document.querySelectorAll('svg, img, audio, input, table, [role=region], pre')].filter(node =>
  !(node.getAttribute('aria-label') || node.getAttribute('alt') || node.closest('label') || node.ariaHidden)
).map(node => node.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame) -> Path:
    home = tmp_path_factory.mktemp("browser")
    run = write_run(home / "a-run", table)
    seconds = np.arange(3 * 22050) / 22050
    soundfile.write(home / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * seconds), 22050)
    clips = pd.DataFrame({"id": table["id"], "title": "A <b>title</b>", "artist": "Somebody", "licence": "CC-BY-4.0"})
    rng, front = np.random.default_rng(0), LogMelChroma()
    pack = SimpleNamespace(
        index=clips,
        lengths=np.full(len(clips), 130),
        clip=lambda row: (-80 * rng.random((130, front.bins))).astype(np.float16),
    )
    source = Collection("mine", "Mine", clips.assign(path=str(home / "tone.wav"), group=None), {})
    data: Any = SimpleNamespace(pack=pack, feature=SimpleNamespace(front=front), source=source)
    save_worst_errors(RunFolder(run), table, data, {"genre": {"kind": "label"}, "energy": {"kind": "scalar"}})
    write_metrics(RunFolder(run))
    write_report(RunFolder(run))
    return run


@pytest.fixture
def opened(browser: Any, folder: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with open_page(browser, (folder / "report.html").as_uri(), *getattr(request, "param", (1440, "light"))) as page:
        yield page


@pytest.mark.parametrize("opened", SCHEMES, indirect=True, ids=lambda p: f"{p[0]} px {p[1]}")
def test_it_fits_is_legible_and_asks_for_nothing(opened: Any) -> None:
    opened.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate(CONTRAST) == []
    assert opened.evaluate(NAMELESS) == []
    assert opened.messages == []


def test_every_sound_can_be_played(opened: Any) -> None:
    sounds = opened.locator("audio")
    assert sounds.count() > 3
    for place in range(sounds.count()):
        sounds.nth(place).evaluate("sound => sound.load()")
        opened.wait_for_function(f"document.querySelectorAll('audio')[{place}].duration > 2.9")
    heading = opened.locator(".clip h4", has_text="<script>")
    if heading.count():
        assert "<script>" in heading.first.inner_text()


def test_pictures_are_decoded(opened: Any) -> None:
    found = opened.evaluate(
        "Promise.all([...document.querySelectorAll('svg image')].map(async node => {"
        "const picture = new Image(); picture.src = node.href.baseVal; await picture.decode();"
        "return [picture.naturalWidth, picture.naturalHeight]}))"
    )
    assert len(found) > 3 and all(size == [130, 128] for size in found)


def test_confusion_changes_by_keys_alone(opened: Any) -> None:
    count, share = (opened.locator(f".confusion .hit .{name}").first for name in ("count", "share"))
    assert count.is_visible() and share.is_visible()
    opened.locator("input[value=both]").first.focus()
    opened.keyboard.press("ArrowRight")
    assert count.is_visible() and not share.is_visible()
    opened.keyboard.press("ArrowRight")
    assert share.is_visible() and not count.is_visible()
    opened.keyboard.press("ArrowRight")
    assert count.is_visible() and share.is_visible()


def test_the_first_key_skips_to_the_content(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    assert opened.locator(".skip").bounding_box()["y"] >= 0
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "main"


def test_without_scripts_all_is_there(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator(".confusion .hit .count").first.is_visible()
    assert page.locator(".confusion .hit .share").first.is_visible()
    page.locator("input[value=counts]").first.check()
    assert not page.locator(".confusion .hit .share").first.is_visible()
    context.close()
