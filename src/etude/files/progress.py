"""Progress of a long loop, as a bar on a terminal or as log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from etude.system import signals

T = TypeVar("T")
log = logging.getLogger(__name__)
LOG_INTERVAL = 10.0  # seconds between two log lines


def track(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    """Yield items and show the progress.

    Args:
        items: Items of the loop.
        total: Number of items.
        title: Description of the loop.
        unit: Noun for the items, in the plural.

    Raises:
        KeyboardInterrupt: A signal was received, but a library suppressed its exception.
    """
    unit = unit.removesuffix("s") if total == 1 and unit.isalpha() else unit
    show = _show_bar if sys.stderr.isatty() else _log_lines
    for item in show(items, total, title, unit):
        signals.raise_received()
        yield item


def _show_bar(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[rate]} " + unit + "/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, rate="–")
        start = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            progress.update(task, advance=1, rate=f"{done / (time.monotonic() - start):.0f}")


def _log_lines(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    log.info("%s: %d %s", title, total, unit)
    start = last_log = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == 1:
            last_log = now  # the time before includes the start of the workers
        if done == total or now - last_log > LOG_INTERVAL:
            speed = done / (now - start)
            left = f", {timedelta(seconds=round((total - done) / speed))} left" if done < total else ""
            log.info("%s: %d of %d %s, %.3g a second%s", title, done, total, unit, speed, left)
            last_log = now
