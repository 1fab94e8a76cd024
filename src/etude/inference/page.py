"""Page of predictions.

Every name is escaped by the template. The page has players and lines of the first files, and says how many it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from etude.audio.frontend import FrontEnd
from etude.data import workers as runners
from etude.files.atomic import write_text
from etude.files.progress import track
from etude.inference import figure
from etude.inference.engine import FilePrediction
from etude.inference.figure import Plot, Shown, clock, plots, shown, times
from etude.inference.inputs import text
from etude.inference.model import Columns, Model
from etude.inference.tables import words
from etude.inference.windows import Plan
from etude.reports.html import load_template
from etude.reports.spectrogram import bands
from etude.reports.worst_errors import stops
from etude.runs.folder import CHECKPOINTS


def hertz(front: FrontEnd) -> list[tuple[float, str]]:
    """Share of the height of a spectrogram, and words, of some frequencies."""
    return [((place + 0.5) / front.n_mels, said) for place, said in bands(front)]


def piece(
    said: FilePrediction, shows: Shown, drawn: Sequence[Plot], columns: Columns, ticks: Sequence[tuple[float, str]]
) -> dict[str, Any]:
    """What the template wants of a file that was heard.

    Args:
        said: What was said of it.
        shows: Its picture and its sound.
        drawn: Its lines over time.
        columns: What is said.
        ticks: Of its spectrogram, as `hertz` has them.
    """
    data = {
        "seconds": said.seconds,
        "windows": [
            [round(start, 3), round(end, 3), None if values is None else [round(value, 3) for value in values]]
            for start, end, values in said.windows
        ],
    }
    first = said.windows[0]
    return {
        "name": text(said.path.name), "folder": text(said.path.parent), "length": clock(said.seconds),
        "seconds": said.seconds, "windows": len(said.windows), "window": first[1] - first[0],
        "said": list(zip(columns.targets, words(said, columns), strict=True)),
        "picture": shows.picture, "sound": shows.sound, "heard": shows.heard, "why": shows.why,
        "hertz": ticks, "plots": drawn, "times": times(said.seconds), "data": data,
        "silent": sum(values is None for *_, values in said.windows),
    }  # fmt: skip


NAME = "predict.html"
ROWS, SOUNDS = 200, 32_000_000  # of the table; bytes of all sounds together


def write(
    to: Path,
    results: Iterable[FilePrediction],
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
    files: list[FilePrediction] = []
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
    page = load_template("predict.html.j2").render(
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


def _files(to: Path, files: list[FilePrediction], made: list[Shown], model: Model, plan: Plan) -> list[dict[str, Any]]:
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
    return folder.parent.name if folder.name == CHECKPOINTS else checkpoint.name
