"""The course of a run as its trackers hear of it: it begins, and it ends, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pytorch_lightning.loggers import Logger

from etude.launch import first
from etude.tracking.tracker import Tracker


@contextmanager
def tracked(loggers: Sequence[Logger]) -> Iterator[list[Tracker]]:
    """Begin the trackers among the loggers of a run, and tell them how it ended: whatever is raised, it failed."""
    trackers = [logger for logger in loggers if isinstance(logger, Tracker)] if first() else []
    failed = True
    try:
        for tracker in trackers:
            tracker.begin()
        yield trackers
        failed = False
    finally:
        for tracker in trackers:
            tracker.end(failed)
