"""Page of predictions.

Every name is escaped by the template. The page has players and lines of the first files, and says how many it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from etude.audio.frontend import FrontEnd
from etude.data import workers as worker_processes
from etude.data.audio_files import as_text
from etude.files.atomic import write_text
from etude.files.progress import track
from etude.inference import figure
from etude.inference.engine import FilePrediction
from etude.inference.figure import FilePreview, Plot, clock, plots, preview, time_ticks
from etude.inference.model import Model, PredictionColumns
from etude.inference.tables import prediction_texts
from etude.inference.windows import WindowPlan
from etude.reports.html import load_template
from etude.reports.spectrogram import bands
from etude.reports.worst_errors import stops
from etude.runs.folder import CHECKPOINTS

NAME = "predict.html"
ROWS, SOUNDS = 200, 32_000_000  # of the table; bytes of all sounds together


def hertz(front: FrontEnd) -> list[tuple[float, str]]:
    """Return share of the height of a spectrogram, and label, of some frequencies."""
    return [((band + 0.5) / front.n_mels, label) for band, label in bands(front)]


def file_section(
    prediction: FilePrediction,
    shown: FilePreview,
    drawn: Sequence[Plot],
    columns: PredictionColumns,
    ticks: Sequence[tuple[float, str]],
) -> dict[str, Any]:
    """Return what the template shows of a file that was decoded.

    Args:
        prediction: Its prediction.
        shown: Its picture and its sound.
        drawn: Its lines over time.
        columns: Columns of the predictions.
        ticks: Of its spectrogram, as `hertz` has them.
    """
    data = {
        "seconds": prediction.seconds,
        "windows": [
            [round(start, 3), round(end, 3), None if values is None else [round(value, 3) for value in values]]
            for start, end, values in prediction.windows
        ],
    }
    first = prediction.windows[0]
    return {
        "name": as_text(prediction.path.name), "folder": as_text(prediction.path.parent),
        "length": clock(prediction.seconds), "seconds": prediction.seconds,
        "windows": len(prediction.windows), "window": first[1] - first[0],
        "said": list(zip(columns.targets, prediction_texts(prediction, columns), strict=True)),
        "picture": shown.picture, "sound": shown.sound, "heard": shown.seconds, "why": shown.reason,
        "hertz": ticks, "plots": drawn, "times": time_ticks(prediction.seconds), "data": data,
        "silent": sum(values is None for *_, values in prediction.windows),
    }  # fmt: skip


def write(
    to: Path,
    results: Iterable[FilePrediction],
    count: int,
    model: Model,
    plan: WindowPlan,
    command: str,
    most: int,
    workers: int | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        to: Its folder.
        results: Of all files, in order.
        count: Number of files.
        model: The network that predicted.
        plan: How sounds were cut.
        command: Command line that the page shows.
        most: Files that have a player and lines.
        workers: Processes that make pictures and sounds.
    """
    rows: list[dict[str, Any]] = []
    files: list[FilePrediction] = []
    bad, seconds = [], 0.0
    for result in results:
        seconds += result.seconds if not result.reason else 0.0
        if result.reason:
            bad.append((as_text(result.path), result.reason))
            continue
        if len(files) < most:
            files.append(result)
        if len(rows) < ROWS:
            anchor = f"file-{len(files)}" if files[-1] is result else ""
            cells = prediction_texts(result, model.columns)
            rows.append({
                "name": as_text(result.path.name), "anchor": anchor, "length": clock(result.seconds), "cells": cells,
            })  # fmt: skip
    jobs = [(result.path, model.front) for result in files]
    figure.clear_figures(to)
    previews = worker_processes.map_jobs(preview, jobs, workers, shard=1)
    shown = list(track(previews, len(jobs), "Pictures and sounds", "files"))
    page = load_template("predict.html.j2").render(
        run=name_of(model.checkpoint), checkpoint=model.checkpoint.name, backbone=type(model.network.backbone).__name__,
        command=command, count=count, seconds=seconds, bad=bad[:ROWS], bad_count=len(bad), rows=rows,
        heard=count - len(bad), targets=list(model.columns.targets), files=_sections(to, files, shown, model, plan),
        about=sentence(plan), stops=stops(), beats=plan.front.sync == "beat",
    )  # fmt: skip
    return write_text(to / NAME, page)


def sentence(plan: WindowPlan) -> str:
    """Return how sounds were cut, as text."""
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


def name_of(checkpoint: Path) -> str:
    """The run that a checkpoint is of, or the checkpoint."""
    folder = checkpoint.resolve().parent
    return folder.parent.name if folder.name == CHECKPOINTS else checkpoint.name


def _sections(
    to: Path, files: list[FilePrediction], previews: list[FilePreview], model: Model, plan: WindowPlan
) -> list[dict[str, Any]]:
    """Draw the figures of files, and return what the template shows of each."""
    ticks = hertz(plan.front)
    sections: list[dict[str, Any]] = []
    room = SOUNDS
    for prediction, shown in zip(files, previews, strict=True):
        if len(shown.sound) > room:
            shown.sound, shown.reason = "", "the page has no more room for sounds"
        room -= len(shown.sound)
        drawn = plots(prediction, model.columns)
        figure.write_figure(to, len(sections) + 1, prediction, shown, drawn, ticks)
        sections.append(file_section(prediction, shown, drawn, model.columns, ticks))
    return sections
