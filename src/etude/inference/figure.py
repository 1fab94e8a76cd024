"""Figures of the predictions of a file: spectrogram, sound, and lines over time."""

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
from etude.audio.excerpt import write_excerpt
from etude.audio.frontend import FrontEnd
from etude.data.audio_files import as_text
from etude.data.collection import cut_bytes
from etude.errors import one_line_message
from etude.evaluation.formatting import format_number
from etude.files.atomic import remove
from etude.files.ownership import subfolder
from etude.inference.engine import FilePrediction
from etude.inference.model import PredictionColumns
from etude.inference.windows import Tape
from etude.reports.charts import round_ticks
from etude.reports.html import data_uri
from etude.reports.spectrogram import shrink
from etude.reports.svg import Colours, grid, picture, plain, shaded_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FOLDER = "predict_figures"
SPAN, MEAN = 300.0, 8  # a sound of more seconds is drawn by spans of them, as means over so many frames
COLUMNS, RANGE = 900, 80.0  # of a picture; dB below the file's loudest value
LONGEST, COPIED = 600, 1_500_000  # seconds of a sound that are kept; bytes of one that is kept as it is
MIME = {".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
MOST = 6  # classes that have a line
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds between ticks
# lines are told apart without colours, on the page and in a PNG
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "14 4", "4 2")
STYLES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (3, 1)))
HUES = ("#0072b2", "#d55e00", "#009e73", "#c2649a", "#b87a00", "#2f8fc6")  # of the page, in daylight


@dataclass
class FilePreview:
    """Picture and sound of a file.

    Args:
        picture: As a data URI.
        sound: As a data URI; empty where there is none.
        seconds: Length of the sound.
        reason: Why something is not there.
    """

    picture: str = ""
    sound: str = ""
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class PlotLine:
    """A line of a plot.

    Args:
        name: Class or target.
        role: Its colour on the page.
        dash: Its pattern.
        path: Its points in a box of 1000 by 100, as an SVG path.
        whole: The value of the whole file, as text.
        place: Index of its value among those of a window.
    """

    name: str
    role: str
    dash: str
    path: str
    whole: str
    place: int


@dataclass(frozen=True)
class Plot:
    """Lines that share an axis.

    Args:
        title: Name and unit of the values.
        lines: At least one.
        ticks: Share of the height, and label.
        note: Sentence about lines that are left out; often empty.
    """

    title: str
    lines: list[PlotLine]
    ticks: list[tuple[float, str]] = field(default_factory=list)
    note: str = ""


def clock(seconds: float) -> str:
    """Return seconds, to the nearest one, as 0:07, 3:25 or 1:02:03."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{minutes:0>5}" if whole >= 3600 else minutes


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Return share of the width and label of at most six round times."""
    step = next((step for step in STEPS if seconds / step <= 5.5), STEPS[-1])
    return [(at / seconds, clock(at)) for at in range(0, int(seconds) + 1, step)] if seconds else []


def sound_uri(path: Path, **limits: int) -> tuple[str, dict[str, Any]]:
    """Return the beginning of a sound file as a data URI, and the result of `write_excerpt`.

    Args:
        path: The sound file.
        limits: As of `write_excerpt`.

    Raises:
        DecodeError: The file is missing or cannot be played.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = write_excerpt(path, Path(folder) / "sound", **limits)
        file = Path(folder) / kept["audio"]
        return data_uri(file.read_bytes(), MIME[file.suffix]), kept


def preview(job: tuple[Path, FrontEnd]) -> FilePreview:
    """Make picture and sound of a file for a front end; one that cannot be made is left out."""
    path, front = job
    made = FilePreview()
    try:
        made.picture = data_uri(_spectrogram(path, front), "image/png")
        made.sound, kept = sound_uri(path, longest=LONGEST, copied=COPIED)
        made.seconds = float(kept["heard"])
    except Exception as error:  # the numbers are there, and are shown without a picture
        made.reason = one_line_message(error)
    return made


def plots(prediction: FilePrediction, columns: PredictionColumns) -> list[Plot]:
    """Return plots of the probabilities of each label, and of the scalars of one range together."""
    found: list[Plot] = []
    starts, start = {}, 0
    for name, size in columns.sizes.items():
        starts[name] = start
        start += size
    for name, spec in columns.targets.items():
        if spec["kind"] == "label":
            classes = spec["classes"]
            peaks = [
                max(values[starts[name] + i] for *_, values in prediction.windows if values)
                for i in range(len(classes))
            ]
            first = sorted(sorted(range(len(classes)), key=lambda i: -peaks[i])[:MOST])
            lines = [_line(prediction, classes[i], starts[name] + i, (0.0, 1.0), n) for n, i in enumerate(first)]
            note = f"The {MOST} of {len(classes)} classes that are ever most probable." if len(classes) > MOST else ""
            found.append(Plot(f"{name}: probability, 0 to 1", lines, [(0, "0"), (0.5, "0.5"), (1, "1")], note))
    ranges: dict[tuple[float, float], list[str]] = {}
    for name, spec in columns.targets.items():
        if spec["kind"] == "scalar":
            ranges.setdefault((float(spec["low"]), float(spec["high"])), []).append(name)
    for (low, high), names in ranges.items():
        ticks = [((value - low) / (high - low), label) for value, label in round_ticks((low, high), 3)]
        for some in (names[k : k + MOST] for k in range(0, len(names), MOST)):
            lines = [_line(prediction, name, starts[name], (low, high), n) for n, name in enumerate(some)]
            found.append(Plot(f"{', '.join(some)}: {low:g} to {high:g}", lines, ticks))
    return found


def clear_figures(to: Path) -> None:
    """Remove the figures of an earlier call from a folder of results."""
    for path in (to / FOLDER).glob("[0-9][0-9]_*.png"):
        remove(path)


def write_figure(
    to: Path,
    place: int,
    prediction: FilePrediction,
    shown: FilePreview,
    drawn: Sequence[Plot],
    hertz: Sequence[tuple[float, str]],
) -> Path:
    """Draw a file as PNG and return its path.

    Args:
        to: The folder of results.
        place: Number of the file, from 1.
        prediction: Its prediction.
        shown: Its picture.
        drawn: Its plots.
        hertz: Share of the height, and label, of some frequencies.
    """
    folder = to / FOLDER
    subfolder(folder)
    name = cut_bytes(re.sub(r"[^\w.-]+", "-", as_text(prediction.path.stem)).strip("-.")[:60], 120) or "file"
    rows = [*([None] if shown.picture else []), *drawn]
    seconds = prediction.seconds

    def draw(figure: Figure, colours: Colours) -> None:
        axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
        for one, plot in zip(axes, rows, strict=True):
            if plot is None:
                from matplotlib import image

                pixels = image.imread(io.BytesIO(base64.b64decode(shown.picture.partition(",")[2])))
                one.imshow(pixels, extent=(0, seconds, 0, 1), aspect="auto", interpolation="none")
                one.set_yticks([y for y, _ in hertz], [label for _, label in hertz])
                one.set_ylabel("Hz")
                one.set_title(f"level, −{RANGE:g} to 0 dB", loc="left", fontsize=9)
                continue
            for k, line in enumerate(plot.lines):
                x, y = _points(line.path, seconds)
                one.plot(x, y, linestyle=STYLES[k], color=HUES[k], label=plain(line.name))
            one.set_ylim(-0.02, 1.02)
            one.set_yticks([y for y, _ in plot.ticks], [label for _, label in plot.ticks])
            one.set_title(plain(plot.title, 60), loc="left", fontsize=9)
            one.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
            grid(one, colours)
        for one in axes:
            one.tick_params(labelsize=9)
        axes[-1].set_xlim(0, seconds)
        axes[-1].set_xticks([x * seconds for x, _ in time_ticks(seconds)], [label for _, label in time_ticks(seconds)])
        axes[-1].set_xlabel("time (min:s)")

    about = f"{as_text(prediction.path.name)}, {clock(seconds)}: spectrogram, and predictions of its windows over time."
    path = folder / f"{place:02d}_{name}.png"
    picture(draw, path, (7.5, 0.5 + 1.5 * len(rows)), about, as_text(prediction.path.name))
    return path


def _spectrogram(path: Path, front: FrontEnd) -> bytes:
    """Return mel bands in dB below the loudest, frequency upwards and time to the right, as PNG."""
    mel = shrink(_bands(path, replace(front, sync="none")), COLUMNS)
    return shaded_png((mel - mel.max()).T[::-1], (-RANGE, 0.0))


def _bands(path: Path, front: FrontEnd) -> np.ndarray:
    """Return mel bands (T, n_mels) in dB; those of a long sound as means over a few frames, a span at a time."""

    def bands(part: np.ndarray, front: FrontEnd) -> np.ndarray:
        return front.frames(part)[:, : front.n_mels] / front.decibel[: front.n_mels]

    tape, count = Tape(stream(path, front.rate)), MEAN * round(SPAN * front.frames_per_second / MEAN)
    samples = count * front.hop_length
    if not tape.reach(samples + 1):
        return bands(tape.part(0, tape.end), front)
    front = front.absolute()  # spans are compared with each other
    parts, start = [], 0
    while tape.reach(start + samples):
        frames = bands(tape.part(start, start + samples), front)[:count]
        parts.append(shrink(frames, -(-len(frames) // MEAN)))
        start += samples
        tape.drop(start)
    if tape.end > start:
        rest = bands(tape.part(start, tape.end), front)
        parts.append(shrink(rest, -(-len(rest) // MEAN)))
    return np.concatenate(parts)


def _line(prediction: FilePrediction, name: str, place: int, ends: tuple[float, float], order: int) -> PlotLine:
    """Return the line of one value over the windows of a file; it is broken where windows are silent."""
    assert prediction.values is not None
    low, high = ends
    path, drawing = "", False
    last = len(prediction.windows) - 1
    for k, (start, end, values) in enumerate(prediction.windows):
        if values is None:  # silent: a gap
            drawing = False
            continue
        y = 100 - 100 * (min(max(values[place], low), high) - low) / (high - low)
        at = [(start + end) / 2]  # the value of a window stands at its middle, and holds to the ends of the file
        at = [start, *at] if k == 0 else at
        at = [*at, end] if k == last else at
        for second in at if len(at) > 1 or drawing else [at[0], at[0]]:
            path += f"{'L' if drawing else 'M'}{1000 * second / prediction.seconds:.1f} {y:.2f}"
            drawing = True
    dash = DASHES[order % len(DASHES)]
    return PlotLine(name, f"group-{order % 8 + 1}", dash, path, format_number(prediction.values[place]), place)


def _points(path: str, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a line as seconds (n,) and shares of the height (n,), with NaN where it breaks."""
    x: list[float] = []
    y: list[float] = []
    for command, across, down in re.findall(r"([ML])([\d.]+) ([\d.]+)", path):
        if command == "M" and x:
            x.append(float("nan"))
            y.append(float("nan"))
        x.append(float(across) / 1000 * seconds)
        y.append(1 - float(down) / 100)
    return np.array(x), np.array(y)
