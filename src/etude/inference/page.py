"""HTML page of predictions.

The template escapes all names. The page contains players and plots of the first files, and states how many files it
leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from etude.audio.frontend import FrontEnd
from etude.data import workers as worker_processes
from etude.data.audio_files import as_text
from etude.files.atomic import write_text
from etude.inference import figure
from etude.inference.engine import FilePrediction
from etude.inference.figure import FilePreview, Plot, build_plots, create_preview, format_clock, time_ticks
from etude.inference.model import Model, PredictionColumns
from etude.inference.tables import format_predictions
from etude.inference.windows import WindowPlan
from etude.reports.html import load_template
from etude.reports.spectrogram import frequency_ticks
from etude.reports.worst_errors import colour_stops
from etude.system.streams import track

NAME = "predict.html"
MAX_ROWS, MAX_AUDIO_BYTES = 200, 32_000_000  # of the table; of all players together


def tick_positions(front: FrontEnd) -> list[tuple[float, str]]:
    """Return position (as a fraction of the height) and label of the frequency ticks of a spectrogram."""
    front = front.displayed()
    return [((band + 0.5) / front.n_mels, label) for band, label in frequency_ticks(front)]


def file_section(
    prediction: FilePrediction,
    preview: FilePreview,
    plots: Sequence[Plot],
    columns: PredictionColumns,
    frequencies: Sequence[tuple[float, str]],
) -> dict[str, Any]:
    """Return the values of the template for a decoded file.

    Args:
        prediction: Prediction for the file.
        preview: Its spectrogram and player.
        plots: Plots of its predictions over time.
        columns: Columns of the predictions.
        frequencies: Ticks of its spectrogram, as returned by `tick_positions`.
    """
    data = {
        "seconds": prediction.seconds,
        "windows": [
            [round(start, 3), round(end, 3), None if values is None else [round(value, 3) for value in values]]
            for start, end, values in prediction.windows
        ],
    }
    start, end, _ = prediction.windows[0]
    return {
        "name": as_text(prediction.path.name), "folder": as_text(prediction.path.parent),
        "length": format_clock(prediction.seconds), "seconds": prediction.seconds,
        "n_windows": len(prediction.windows), "window_seconds": end - start,
        "n_silent": sum(values is None for *_, values in prediction.windows),
        "predictions": list(zip(columns.targets, format_predictions(prediction, columns), strict=True)),
        "image": preview.image, "audio": preview.audio, "audio_seconds": preview.seconds, "reason": preview.reason,
        "frequency_ticks": frequencies, "time_ticks": time_ticks(prediction.seconds), "plots": plots, "data": data,
    }  # fmt: skip


def write_page(
    folder: Path,
    results: Iterable[FilePrediction],
    count: int,
    model: Model,
    plan: WindowPlan,
    command: str,
    n_sections: int,
    workers: int | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        folder: Folder of the page.
        results: Predictions for all files, in order.
        count: Number of files.
        model: Network of the predictions.
        plan: Window plan.
        command: Command line that the page shows.
        n_sections: Maximum number of files with a player and plots.
        workers: Number of processes that create the previews.
    """
    rows: list[dict[str, Any]] = []
    files: list[FilePrediction] = []
    failed, seconds = [], 0.0
    for result in results:
        seconds += result.seconds if not result.reason else 0.0
        if result.reason:
            failed.append((as_text(result.path), result.reason))
            continue
        if len(files) < n_sections:
            files.append(result)
        if len(rows) < MAX_ROWS:
            rows.append({
                "name": as_text(result.path.name), "anchor": f"file-{len(files)}" if files[-1] is result else "",
                "length": format_clock(result.seconds), "cells": format_predictions(result, model.columns),
            })  # fmt: skip
    jobs = [(result.path, model.front) for result in files]
    figure.clear_figures(folder)
    created = worker_processes.map_jobs(create_preview, jobs, workers, shard=1)
    previews = list(track(created, len(jobs), "Spectrograms and players", "files"))
    page = load_template("predict.html.j2").render(
        run=model.name, checkpoint=model.checkpoint.name if model.checkpoint else "pretrained weights",
        backbone=type(model.network.backbone).__name__, command=command, seconds=seconds,
        failed=failed[:MAX_ROWS], n_failed=len(failed), rows=rows, n_decoded=count - len(failed),
        targets=list(model.columns.targets), files=_write_sections(folder, files, previews, model, plan),
        windows=describe_windows(plan, model.checkpoint is None), colour_stops=colour_stops(),
    )  # fmt: skip
    return write_text(folder / NAME, page)


def describe_windows(plan: WindowPlan, pretrained: bool = False) -> str:
    """Describe the division of audio into windows.

    Args:
        plan: Window plan.
        pretrained: Whether the network is a pretrained backbone, for which `plan.length` is the limit of a clip.
    """
    if plan.window is not None:
        length = f"{plan.window:g} s"
    elif plan.front.sync == "beat":
        length = f"{plan.length} beats, the length of the clips in evaluation"
    else:
        reason = "if it is longer" if pretrained else "the length of the clips in evaluation"
        length = f"{plan.seconds:.3g} s, {reason}"
    overlap = (
        f" Each window starts {100 * plan.hop:.3g} % of its length after the start of the previous one."
        if plan.overlap
        else ""
    )
    crops = f" The outputs for {plan.crops} crops of each window are averaged." if plan.crops else ""
    return (
        f"A file is divided into windows of {length}.{overlap} The network processes each window separately, as a "
        f"clip.{crops} For the file, the outputs of its windows are averaged before they are converted to "
        "probabilities or values."
    )


def _write_sections(
    folder: Path, files: list[FilePrediction], previews: list[FilePreview], model: Model, plan: WindowPlan
) -> list[dict[str, Any]]:
    """Write the figures of files, and return the values of the template for each."""
    frequencies = tick_positions(plan.front)
    sections: list[dict[str, Any]] = []
    available = MAX_AUDIO_BYTES
    for prediction, preview in zip(files, previews, strict=True):
        if len(preview.audio) > available:
            preview.audio, preview.reason = "", "the page would be too large"
        available -= len(preview.audio)
        plots = build_plots(prediction, model.columns)
        figure.write_figure(folder, len(sections) + 1, prediction, preview, plots, frequencies)
        sections.append(file_section(prediction, preview, plots, model.columns, frequencies))
    return sections
