"""Parser of run reports for tests."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from etude.reports.run_report import write_report
from etude.runs.folder import RunFolder, write_metrics

VOID_TAGS = {"meta", "br", "link", "img", "hr", "input"}


class ReportPage(HTMLParser):
    """Tags with attributes, text, and the `data` values of each labelled table of a report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[tuple[str, str]]] = {}
        self.open: list[str] = []
        self.table = self.value = None
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "table":
            self.table = dict(attrs).get("aria-label")
        self.value = dict(attrs)["value"] if tag == "data" else None

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.table = None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.value is not None:
            self.tables.setdefault(self.table, []).append((self.value, data))
            self.value = None

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))


def build_report(folder: Path) -> tuple[ReportPage, dict]:
    """Write metrics and report of a run folder, and return the parsed report and the metrics."""
    write_metrics(RunFolder(folder))
    path = write_report(RunFolder(folder))
    assert path == folder / "report.html"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return ReportPage(path.read_text(encoding="utf-8")), metrics
