"""Preview of an audio file (spectrogram, player) and figures of its predictions over time."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.decode import stream
from etude.audio.frontend import FrontEnd
from etude.data.audio_files import as_text
from etude.data.collection import cut_bytes
from etude.errors import one_line_message
from etude.evaluation.formatting import format_number
from etude.files.atomic import remove
from etude.files.ownership import subfolder
from etude.inference.engine import FilePrediction
from etude.inference.model import PredictionColumns
from etude.inference.windows import SampleBuffer
from etude.reports.charts import round_ticks
from etude.reports.clip_frames import write_excerpt
from etude.reports.html import data_uri
from etude.reports.spectrogram import average_frames
from etude.reports.svg import Colours, draw_grid, escape_label, save_png, shaded_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FOLDER = "predict_figures"
SPAN_SECONDS, FRAMES_PER_MEAN = 300.0, 8  # seconds of a long file that are processed at once; frames per mean
IMAGE_WIDTH, DYNAMIC_RANGE = 900, 80.0  # pixels; dB below the loudest value of the file
MAX_SECONDS, MAX_COPIED_BYTES = 600, 1_500_000  # of the player; a larger file is encoded again
MIME = {".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
MAX_LINES = 5  # in a plot; more colours cannot be distinguished, such as the two blues of the page
TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds
# dash patterns distinguish the lines without colours, on the page and in a PNG
SVG_DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "14 4")
PNG_LINE_STYLES = ("-", "--", ":", "-.", (0, (8, 2)))
PNG_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c2649a", "#b87a00")  # the light colours of the page


@dataclass
class FilePreview:
    """Spectrogram and player of an audio file.

    Args:
        image: Spectrogram as a data URI.
        audio: Audio of the player as a data URI. Empty if there is none.
        seconds: Length of the audio.
        reason: Reason why the image or the audio is missing.
    """

    image: str = ""
    audio: str = ""
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class PlotLine:
    """Line of a plot.

    Args:
        name: Class or target.
        colour: Name of the line's colour variable on the page.
        dash: Dash pattern of the line in SVG.
        path: SVG path of the line's points in a box of 1000 by 100.
        file_value: Value for the file, as text.
        index: Index of the line's value among the values of a window.
    """

    name: str
    colour: str
    dash: str
    path: str
    file_value: str
    index: int


@dataclass(frozen=True)
class Plot:
    """Lines with a common axis.

    Args:
        title: Name and unit of the values.
        lines: The lines, at least one.
        ticks: Position (as a fraction of the height) and label of each tick.
        note: Sentence about lines that are not shown, or "".
    """

    title: str
    lines: list[PlotLine]
    ticks: list[tuple[float, str]] = field(default_factory=list)
    note: str = ""


def format_clock(seconds: float) -> str:
    """Format a time in minutes and seconds, with hours if there are any.

    Examples: 0:07, 3:25, 1:02:03.
    """
    total = round(seconds)
    minutes = f"{total // 60 % 60}:{total % 60:02d}"
    return f"{total // 3600}:{minutes:0>5}" if total >= 3600 else minutes


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Return position (as a fraction of the width) and label of at most six round times."""
    step = next((step for step in TICK_STEPS if seconds / step <= 5.5), TICK_STEPS[-1])
    return [(time / seconds, format_clock(time)) for time in range(0, int(seconds) + 1, step)] if seconds else []


def audio_uri(path: Path, **limits: int) -> tuple[str, dict[str, Any]]:
    """Return the beginning of an audio file as a data URI, and the result of `write_excerpt`.

    Args:
        path: The audio file.
        limits: Limits of `write_excerpt`.

    Raises:
        DecodeError: The file is missing or cannot be decoded.
    """
    with tempfile.TemporaryDirectory() as folder:
        excerpt = write_excerpt(path, Path(folder) / "sound", **limits)
        file = Path(folder) / excerpt["audio"]
        return data_uri(file.read_bytes(), MIME[file.suffix]), excerpt


def create_preview(job: tuple[Path, FrontEnd]) -> FilePreview:
    """Create the preview of an audio file. An image or audio that cannot be created is left out.

    Args:
        job: Path of the file, and front end of the spectrogram.
    """
    path, front = job
    preview = FilePreview()
    try:
        preview.image = data_uri(_spectrogram_png(path, front.displayed()), "image/png")
        preview.audio, excerpt = audio_uri(path, longest=MAX_SECONDS, copied=MAX_COPIED_BYTES)
        preview.seconds = float(excerpt["excerpt_seconds"])
    except Exception as error:  # the predictions are shown without the preview
        preview.reason = one_line_message(error)
    return preview


def build_plots(prediction: FilePrediction, columns: PredictionColumns) -> list[Plot]:
    """Build one plot per label or set of tags with its probabilities, and one plot for the scalars of each range."""
    plots: list[Plot] = []
    starts, start = {}, 0
    for name, size in columns.sizes.items():
        starts[name] = start
        start += size
    for name, spec in columns.targets.items():
        if spec["kind"] != "scalar":
            classes = spec["classes"]
            peaks = [
                max(values[starts[name] + i] for *_, values in prediction.windows if values)
                for i in range(len(classes))
            ]
            selected = sorted(range(len(classes)), key=lambda i: -peaks[i])[:MAX_LINES]
            if len(selected) == len(classes):
                selected.sort()
            lines = [
                _plot_line(prediction, classes[i], starts[name] + i, (0.0, 1.0), n) for n, i in enumerate(selected)
            ]
            title, note = f"{name}: probability, 0 to 1", ""
            if len(classes) > MAX_LINES:
                title += f"; {MAX_LINES} of {len(classes)} classes"
                note = "The lines are the classes with the highest probability in a window, the highest first."
            plots.append(Plot(title, lines, [(0, "0"), (0.5, "0.5"), (1, "1")], note))
    ranges: dict[tuple[float, float], list[str]] = {}
    for name, spec in columns.targets.items():
        if spec["kind"] == "scalar":
            ranges.setdefault((float(spec["low"]), float(spec["high"])), []).append(name)
    for (low, high), names in ranges.items():
        ticks = [((value - low) / (high - low), label) for value, label in round_ticks((low, high), 3)]
        for group in (names[k : k + MAX_LINES] for k in range(0, len(names), MAX_LINES)):
            lines = [_plot_line(prediction, name, starts[name], (low, high), n) for n, name in enumerate(group)]
            plots.append(Plot(f"{', '.join(group)}: {low:g} to {high:g}", lines, ticks))
    return plots


def clear_figures(folder: Path) -> None:
    """Remove the figures of an earlier call from a folder of results."""
    for path in (folder / FOLDER).glob("[0-9][0-9]_*.png"):
        remove(path)


def write_figure(
    folder: Path,
    number: int,
    prediction: FilePrediction,
    preview: FilePreview,
    plots: Sequence[Plot],
    frequencies: Sequence[tuple[float, str]],
) -> Path:
    """Write the figure of an audio file as PNG and return its path.

    Args:
        folder: The folder of results.
        number: Number of the file, from 1.
        prediction: Prediction for the file.
        preview: Preview of the file.
        plots: Plots of the prediction.
        frequencies: Ticks of the spectrogram: position as a fraction of the height, and label.
    """
    subfolder(folder / FOLDER)
    name = cut_bytes(re.sub(r"[^\w.-]+", "-", as_text(prediction.path.stem)).strip("-.")[:60], 120) or "file"
    panels = [*([None] if preview.image else []), *plots]
    seconds = prediction.seconds

    def draw(figure: Figure, colours: Colours) -> None:
        all_axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axes, plot in zip(all_axes, panels, strict=True):
            if plot is None:
                from matplotlib import image

                pixels = image.imread(io.BytesIO(base64.b64decode(preview.image.partition(",")[2])))
                axes.imshow(pixels, extent=(0, seconds, 0, 1), aspect="auto", interpolation="none")
                axes.set_yticks([y for y, _ in frequencies], [label for _, label in frequencies])
                axes.set_ylabel("Hz")
                axes.set_title(f"level, −{DYNAMIC_RANGE:g} to 0 dB", loc="left", fontsize=9)
                continue
            for k, line in enumerate(plot.lines):
                x, y = _path_points(line.path, seconds)
                axes.plot(x, y, linestyle=PNG_LINE_STYLES[k], color=PNG_COLOURS[k], label=escape_label(line.name))
            axes.set_ylim(-0.02, 1.02)
            axes.set_yticks([y for y, _ in plot.ticks], [label for _, label in plot.ticks])
            axes.set_title(escape_label(plot.title, 60), loc="left", fontsize=9)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
            draw_grid(axes, colours)
        for axes in all_axes:
            axes.tick_params(labelsize=9)
        last, ticks = all_axes[-1], time_ticks(seconds)
        last.set_xlim(0, seconds)
        last.set_xticks([x * seconds for x, _ in ticks], [label for _, label in ticks])
        last.set_xlabel("time (min:s)")

    file_name, length = as_text(prediction.path.name), format_clock(seconds)
    description = f"{file_name}, {length}: spectrogram, and predictions for its windows over time."
    path = folder / FOLDER / f"{number:02d}_{name}.png"
    save_png(draw, path, (7.5, 0.5 + 1.5 * len(panels)), description, file_name)
    return path


def _spectrogram_png(path: Path, front: FrontEnd) -> bytes:
    """Return mel bands in dB below the loudest as PNG, with frequency upwards and time to the right."""
    mel = average_frames(_mel_bands(path, replace(front.displayed(), sync="none")), IMAGE_WIDTH)
    return shaded_png((mel - mel.max()).T[::-1], (-DYNAMIC_RANGE, 0.0))


def _mel_bands(path: Path, front: FrontEnd) -> np.ndarray:
    """Return mel bands (T, n_mels) in dB. For a long file they are means over a few frames, computed span by span."""

    def bands(samples: np.ndarray, front: FrontEnd) -> np.ndarray:
        return front.frames(samples)[:, : front.n_mels] / front.decibel[: front.n_mels]

    buffer = SampleBuffer(stream(path, front.rate))
    count = FRAMES_PER_MEAN * round(SPAN_SECONDS * front.frames_per_second / FRAMES_PER_MEAN)
    samples = count * front.hop_length
    if not buffer.read_until(samples + 1):
        return bands(buffer.samples(0, buffer.end), front)
    front = front.absolute()  # so that spans are comparable
    spans, start = [], 0
    while buffer.read_until(start + samples):
        frames = bands(buffer.samples(start, start + samples), front)[:count]
        spans.append(average_frames(frames, -(-len(frames) // FRAMES_PER_MEAN)))
        start += samples
        buffer.drop_before(start)
    if buffer.end > start:
        frames = bands(buffer.samples(start, buffer.end), front)
        spans.append(average_frames(frames, -(-len(frames) // FRAMES_PER_MEAN)))
    return np.concatenate(spans)


def _plot_line(prediction: FilePrediction, name: str, index: int, limits: tuple[float, float], number: int) -> PlotLine:
    """Return the line of one value over the windows of a file, with gaps at silent windows.

    Args:
        prediction: Prediction for the file.
        name: Class or target.
        index: Index of the value among the values of a window.
        limits: Range of the values.
        number: Number of the line in its plot, which determines colour and dash pattern.
    """
    assert prediction.values is not None
    low, high = limits
    path, drawing = "", False
    last = len(prediction.windows) - 1
    for k, (start, end, values) in enumerate(prediction.windows):
        if values is None:  # silent: a gap
            drawing = False
            continue
        y = 100 - 100 * (min(max(values[index], low), high) - low) / (high - low)
        times = [(start + end) / 2]  # a value is at the middle of its window; at the ends of the file it is extended
        times = [start, *times] if k == 0 else times
        times = [*times, end] if k == last else times
        for time in times if len(times) > 1 or drawing else [times[0], times[0]]:
            path += f"{'L' if drawing else 'M'}{1000 * time / prediction.seconds:.1f} {y:.2f}"
            drawing = True
    dash = SVG_DASHES[number % len(SVG_DASHES)]
    return PlotLine(name, f"group-{number % 8 + 1}", dash, path, format_number(prediction.values[index]), index)


def _path_points(path: str, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of an SVG path in seconds (n,) and as fractions of the height (n,), with NaN at gaps."""
    x: list[float] = []
    y: list[float] = []
    for command, across, down in re.findall(r"([ML])([\d.]+) ([\d.]+)", path):
        if command == "M" and x:
            x.append(float("nan"))
            y.append(float("nan"))
        x.append(float(across) / 1000 * seconds)
        y.append(1 - float(down) / 100)
    return np.array(x), np.array(y)
