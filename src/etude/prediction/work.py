"""From the words of the command to tables, a summary and a page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etude import disk
from etude.api import weights
from etude.data import runners
from etude.errors import UserError
from etude.files import ownership
from etude.prediction import engine, figure, inputs, tables, terminal
from etude.prediction.command import PAGES
from etude.prediction.engine import Said
from etude.prediction.journal import Journal
from etude.prediction.model import Model, about
from etude.prediction.page import NAME
from etude.prediction.windows import UNKNOWN, Plan
from etude.progress import track

if TYPE_CHECKING:
    from etude.prediction.command import Wish

log = logging.getLogger(__name__)
FOLDER = "predict"


def carry_out(wish: Wish, command: str = "") -> tuple[list[Path], int]:
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
    runners.ready(len(files), wish.workers)
    checkpoint = weights(wish.run)
    to = wish.to or (wish.run if wish.run.is_dir() else wish.run.parent) / FOLDER
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

        def results() -> Iterator[Said]:
            return (journal.said(path) for path in files)

        with disk.explained(to, disk.OTHER_FOLDER, f"to={to}"):
            paths = tables.write(to, results(), model.columns, wish.formats)
            terminal.show(results(), len(files), model.columns, failed)
            if wish.page:
                from etude.prediction.page import write

                paths.append(write(to, results(), len(files), model, plan, command, PAGES, wish.workers))
    return paths, failed


def _predict(model: Model, files: list[Path], plan: Plan, journal: Journal, wish: Wish) -> int:
    """Predict what the journal does not know; how many of the files could not be heard."""
    wanted = [path for path in files if not journal.knows(path)]
    if len(wanted) < len(files):
        log.info("going on: %d of %d files are done", len(files) - len(wanted), len(files))
    if not wanted:
        return 0
    failed = 0
    results = engine.predict(model, wanted, plan, wish.batch, wish.workers)
    for said in track(results, len(wanted), "Predictions", "files"):
        with disk.explained(journal.path, disk.OTHER_FOLDER):
            journal.add(said)
        if said.reason:
            failed += 1
            log.warning("%s: %s", inputs.text(said.path), said.reason)
        elif said.suspect:
            log.warning("%s: is used, although it may not be music: it %s", inputs.text(said.path), said.suspect)
    return failed
