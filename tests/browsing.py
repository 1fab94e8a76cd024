"""Headless Chromium without network access for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# the pages play audio without a click, and use WebGL without a graphics card
FLAGS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--enable-unsafe-swiftshader"]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")  # .ci/run looks for the same
NO_BROWSER = "no Chromium is installed"


@contextmanager
def launch_chromium() -> Iterator[Any]:
    """Yield a Chromium browser, or skip the test if none is installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if path is None:
        pytest.skip(NO_BROWSER)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Any, address: str, width: int, scheme: str) -> Iterator[Any]:
    """Yield an open page. Its list `messages` has console messages, errors and network requests.

    Args:
        browser: Browser from `launch_chromium`.
        address: Address of the page.
        width: Width of the viewport in pixels.
        scheme: Colour scheme, `light` or `dark`.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.messages = []

    def record_request(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            page.messages.append(request.url)

    page.on("console", lambda message: page.messages.append(message.text))
    page.on("pageerror", lambda error: page.messages.append(str(error)))
    page.on("request", record_request)
    page.goto(address)
    yield page
    context.close()
