"""Progress of a long loop: a bar on a terminal, a plain line now and then in a log."""

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
EVERY = 10.0  # seconds between two plain lines


def track(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    """Pass `items` through and show how far they are.

    Args:
        items: What is worked on.
        total: How many there will be.
        title: What is being done.
        unit: What is counted, in the plural.
    """
    shown = _bar if sys.stderr.isatty() else _lines
    for item in shown(items, total, title, unit):
        signals.check()
        yield item


def _bar(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[rate]} " + unit + "/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, rate="–")
        begun = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            progress.update(task, advance=1, rate=f"{done / (time.monotonic() - begun):.0f}")


def _lines(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    log.info("%s: %d %s", title, total, unit)
    begun = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == 1:
            said = now  # what came before is the start of the workers
        if done == total or now - said > EVERY:
            speed = done / (now - begun)
            left = f", {timedelta(seconds=round((total - done) / speed))} left" if done < total else ""
            log.info("%s: %d of %d %s, %.3g a second%s", title, done, total, unit, speed, left)
            said = now
