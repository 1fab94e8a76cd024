"""A real browser without a network, for the pages: what is opened in it, and all that it says meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# what any page needs: sound without a click before it, and WebGL without a graphics card
WORDS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--enable-unsafe-swiftshader"]


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium, or a skipped test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=WORDS)
        yield started
        started.close()


@contextmanager
def visit(browser: Any, address: str, width: int, scheme: str) -> Iterator[Any]:
    """A page with, as `said`, its console, its errors and what it asked of a network."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda asked: page.said.append(asked.url) if not asked.url.startswith(("file:", "data:")) else 0)
    page.goto(address)
    yield page
    context.close()
