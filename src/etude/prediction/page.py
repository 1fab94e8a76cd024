"""From results to predict.html and its figures: the page is one file that asks nothing of any network.

Every name is escaped by the template. The page has players and lines of the first files, and says how many it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from etude.data import runners
from etude.files.atomic import write_text
from etude.prediction import figure
from etude.prediction.engine import Said
from etude.prediction.inputs import text
from etude.prediction.lines import clock, plots
from etude.prediction.model import Model
from etude.prediction.piece import hertz, piece
from etude.prediction.shown import Shown, shown
from etude.prediction.terminal import words
from etude.prediction.windows import Plan
from etude.progress import track
from etude.results.excerpts import stops
from etude.results.template import template

NAME = "predict.html"
ROWS, SOUNDS = 200, 32_000_000  # of the table; bytes of all sounds together


def write(
    to: Path,
    results: Iterable[Said],
    count: int,
    model: Model,
    plan: Plan,
    command: str,
    most: int,
    workers: int | None = None,
) -> Path:
    """Write the page.

    Args:
        to: Its folder.
        results: Of all files, in order.
        count: How many there are.
        model: What predicted.
        plan: How sounds were cut.
        command: What it was made by.
        most: Files that have a player and lines.
        workers: Processes that make pictures and sounds.
    """
    rows: list[dict[str, Any]] = []
    files: list[Said] = []
    bad, seconds = [], 0.0
    for said in results:
        seconds += said.seconds if not said.reason else 0.0
        if said.reason:
            bad.append((text(said.path), said.reason))
            continue
        if len(files) < most:
            files.append(said)
        if len(rows) < ROWS:
            anchor = f"file-{len(files)}" if files[-1] is said else ""
            length = clock(said.seconds)
            name = text(said.path.name)
            rows.append({"name": name, "anchor": anchor, "length": length, "cells": words(said, model.columns)})
    jobs = [(said.path, model.front) for said in files]
    figure.clear(to)
    made = list(track(runners.run(shown, jobs, workers, shard=1), len(jobs), "Pictures and sounds", "files"))
    page = template("predict.html.j2").render(
        run=name_of(model.checkpoint), checkpoint=model.checkpoint.name, backbone=type(model.network.backbone).__name__,
        command=command, count=count, seconds=seconds, bad=bad[:ROWS], bad_count=len(bad), rows=rows,
        heard=count - len(bad), targets=list(model.columns.targets), files=_files(to, files, made, model, plan),
        about=sentence(plan), stops=stops(), beats=plan.front.sync == "beat",
    )  # fmt: skip
    return write_text(to / NAME, page)


def sentence(plan: Plan) -> str:
    """How sounds were cut, in words."""
    if plan.window is not None:
        length = f"{plan.window:g} s"
    elif plan.front.sync == "beat":
        length = f"{plan.length} beats, as the clips that the network was judged on"
    else:
        length = f"{plan.length / plan.front.frames_per_second:.3g} s, as the clips that the network was judged on"
    over = f", each of which begins {100 * plan.hop:.3g} % of a window after the one before" if plan.overlap else ""
    crops = f" Of each window, {plan.crops} crops are heard and averaged." if plan.crops else ""
    return (
        f"A file is cut into windows of {length}{over}. A window is heard alone, as if it were a clip.{crops} "
        "The whole file has the mean of its windows, taken before outputs become probabilities or values."
    )


def _files(to: Path, files: list[Said], made: list[Shown], model: Model, plan: Plan) -> list[dict[str, Any]]:
    ticks = hertz(plan.front)
    found: list[dict[str, Any]] = []
    room = SOUNDS
    for said, shows in zip(files, made, strict=True):
        if len(shows.sound) > room:
            shows.sound, shows.why = "", "the page has no more room for sounds"
        room -= len(shows.sound)
        drawn = plots(said, model.columns)
        figure.write(to, len(found) + 1, said, shows, drawn, ticks)
        found.append(piece(said, shows, drawn, model.columns, ticks))
    return found


def name_of(checkpoint: Path) -> str:
    """The run that a checkpoint is of, or the checkpoint."""
    folder = checkpoint.resolve().parent
    return folder.parent.name if folder.name == "checkpoints" else checkpoint.name
