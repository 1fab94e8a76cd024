"""Prediction of sound files into tables, a summary and a page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from etude.data import workers
from etude.errors import UserError
from etude.files import os_errors, ownership
from etude.files.progress import track
from etude.inference import engine, figure, inputs, tables
from etude.inference.engine import FilePrediction
from etude.inference.journal import Journal
from etude.inference.model import Model, about
from etude.inference.page import NAME
from etude.inference.tables import show
from etude.inference.windows import UNKNOWN, Plan
from etude.runs.folder import PREDICT, find_weights

PAGES = 20  # files that the page shows


@dataclass
class PredictOptions:
    """What is to be predicted.

    Args:
        run: A run folder, or a checkpoint.
        sounds: Files, folders and lists.
        to: Where results go; none: beside what predicts.
        formats: Of the tables.
        window: Seconds of a window; none: of the clips of training.
        overlap: Share of a window that the next one has again.
        batch: Windows that are judged at a time.
        workers: Processes that decode; none: one per core.
        device: Where the network is.
        page: Whether there is one.
    """

    run: Path
    sounds: list[str] = field(default_factory=list)
    to: Path | None = None
    formats: list[str] = field(default_factory=lambda: ["csv"])
    window: float | None = None
    overlap: float = 0.5
    batch: int = 32
    workers: int | None = None
    device: str = "auto"
    page: bool = True


log = logging.getLogger(__name__)


def predict_files(wish: PredictOptions, command: str = "") -> tuple[list[Path], int]:
    """Predict what is wished for.

    Args:
        wish: With what, which sounds, where to.
        command: What the page says it was made by.

    Returns:
        Paths of what was written, and how many files could not be heard.

    Raises:
        UserError: There is no such run or sound, or the folder cannot be written.
    """
    if not wish.run.exists():
        raise UserError(f"{wish.run}: there is no such run folder or checkpoint")
    files = inputs.files(wish.sounds)
    workers.ready(len(files), wish.workers)
    checkpoint = find_weights(wish.run)
    to = wish.to or (wish.run if wish.run.is_dir() else wish.run.parent) / PREDICT
    pages = [NAME, f"{figure.FOLDER}/"] if wish.page else []
    ownership.check_names(to, [*(path.name for path in tables.paths_of(to, wish.formats)), *pages])
    model = Model(checkpoint, wish.device)
    plan = model.plan(wish.window, wish.overlap)
    if wish.window is None and not model.knows_clips:
        log.warning(
            "%s does not say how long its clips were: windows are of %g s; window= says another", checkpoint, UNKNOWN
        )
    with Journal(to, about(model, plan)) as journal:
        try:
            failed = _predict(model, files, plan, journal, wish)
        except KeyboardInterrupt:
            known = sum(journal.knows(path) for path in files)
            log.warning("%d of %d files are done; the same command goes on from here", known, len(files))
            raise

        def results() -> Iterator[FilePrediction]:
            return (journal.said(path) for path in files)

        with os_errors.explained(to, os_errors.OTHER_FOLDER, f"to={to}"):
            paths = tables.write(to, results(), model.columns, wish.formats)
            show(results(), len(files), model.columns, failed)
            if wish.page:
                from etude.inference.page import write

                paths.append(write(to, results(), len(files), model, plan, command, PAGES, wish.workers))
    return paths, failed


def _predict(model: Model, files: list[Path], plan: Plan, journal: Journal, wish: PredictOptions) -> int:
    """Predict what the journal does not know; how many of the files could not be heard."""
    wanted = [path for path in files if not journal.knows(path)]
    if len(wanted) < len(files):
        log.info("going on: %d of %d files are done", len(files) - len(wanted), len(files))
    if not wanted:
        return 0
    failed = 0
    results = engine.predict(model, wanted, plan, wish.batch, wish.workers)
    for said in track(results, len(wanted), "Predictions", "files"):
        with os_errors.explained(journal.path, os_errors.OTHER_FOLDER):
            journal.add(said)
        if said.reason:
            failed += 1
            log.warning("%s: %s", inputs.text(said.path), said.reason)
        elif said.suspect:
            log.warning("%s: is used, although it may not be music: it %s", inputs.text(said.path), said.suspect)
    return failed
