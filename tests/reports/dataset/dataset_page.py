"""Parser of dataset pages for tests."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.commands import explore as main

VOID_TAGS = {"meta", "br", "link", "img", "hr", "input", "use", "path"}


class DatasetPage(HTMLParser):
    """Tags with attributes, text, and the rows of each labelled table of a dataset page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.values: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.table: str | None = None
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "table":
            self.table = str(dict(attrs)["aria-label"])
            self.tables[self.table], self.values[self.table] = [], []
        elif self.table and tag == "tr":
            self.tables[self.table].append([])
        elif self.table and tag in ("th", "td"):
            self.tables[self.table][-1].append("")
        elif self.table and tag == "data":
            self.values[self.table].append(str(dict(attrs)["value"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID_TAGS:
            return
        assert self.open.pop() == tag
        if tag == "table":
            self.table = None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.table and self.tables[self.table] and self.tables[self.table][-1]:
            self.tables[self.table][-1][-1] += " ".join(data.split())

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))


Explored = tuple[DatasetPage, dict[str, Any], Path]
"""Page, content of explore.json, and folder."""


def explore(home: Path, *overrides: str) -> Explored:
    """Run `etude explore` for the collection in a folder."""
    common = (f"data.packs={home / 'packs'}", f"--out={home / 'out'}", "data.max_skipped=0.5", "--workers=1")
    assert main([*common, *overrides]) == 0
    folder = next((home / "out").glob("*/explore.html")).parent
    facts = json.loads((folder / "explore.json").read_text())
    return DatasetPage((folder / "explore.html").read_text("utf-8")), facts, folder
