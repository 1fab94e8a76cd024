"""Summary of skipped tests: each reason once, with the number of tests and their files."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest
from tests.browsing import NO_BROWSER

MAX_FILES = 6  # named for each reason; the others are counted


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason of a skipped test or module."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(text.removeprefix("Skipped: ").split()) or "no reason given"


def skip_lines(skipped: Iterable[tuple[str, str]], width: int = 100, ci: bool = False) -> list[str]:
    """Return the lines of the summary, the most frequent reason first.

    Args:
        skipped: Reason and file of each skipped test or module.
        width: Width of the terminal in columns.
        ci: Whether to add a note if browser tests were skipped, because a build server should have a browser.
    """
    files: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for reason, file in skipped:
        files[reason][file] += 1
    lines = []
    for reason, counts in sorted(files.items(), key=lambda item: (-item[1].total(), item[0])):
        lines += textwrap.wrap(f"{counts.total():4d}  {reason}", width, subsequent_indent=" " * 6)
        names = [f"{name} ({n})" if n > 1 else name for name, n in sorted(counts.items())]
        if len(names) > MAX_FILES:
            names[MAX_FILES:] = [f"{len(names) - MAX_FILES} more files"]
        lines += textwrap.wrap(
            ", ".join(names), width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
        )
    if ci and NO_BROWSER in files:
        lines += [f"CI is set, but browser tests did not run ({files[NO_BROWSER].total()}): install Chromium."]
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the skipped tests at the end of a test run."""
    reports = terminalreporter.getreports("skipped")
    if reports:
        skipped = [(skip_reason(report), report.nodeid.split("::")[0]) for report in reports]
        terminalreporter.section(f"{len(reports)} skipped")
        width = min(shutil.get_terminal_size((100, 24)).columns, 120)
        for line in skip_lines(skipped, width, bool(os.environ.get("CI"))):
            terminalreporter.line(line)
