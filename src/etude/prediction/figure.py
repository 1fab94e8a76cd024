"""A file as a figure for papers and slides: its spectrogram, and lines of what its windows say."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.data.collection import cut_bytes
from etude.files.atomic import remove
from etude.files.ownership import subfolder
from etude.prediction.engine import Said
from etude.prediction.inputs import text
from etude.prediction.lines import Plot, clock, times
from etude.prediction.shown import RANGE, Shown
from etude.results.exploration.canvas import Colours, grid, picture, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "predict_figures"
HUES = ("#0072b2", "#d55e00", "#009e73", "#c2649a", "#b87a00", "#2f8fc6")  # of the page, in daylight
STYLES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (3, 1)))  # as the lines of the page


def clear(to: Path) -> None:
    """Remove the figures of an earlier call."""
    for path in (to / FOLDER).glob("[0-9][0-9]_*.png"):
        remove(path)


def write(
    to: Path, place: int, said: Said, shows: Shown, drawn: Sequence[Plot], hertz: Sequence[tuple[float, str]]
) -> Path:
    """Draw a file as PNG.

    Args:
        to: The folder of results.
        place: Of the file, from 1.
        said: What was said of it.
        shows: Its picture.
        drawn: Its plots.
        hertz: Share of the height, and words, of some frequencies.
    """
    folder = to / FOLDER
    subfolder(folder)
    name = cut_bytes(re.sub(r"[^\w.-]+", "-", text(said.path.stem)).strip("-.")[:60], 120) or "file"
    rows = [*([None] if shows.picture else []), *drawn]

    def draw(figure: Figure, colours: Colours) -> None:
        axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
        for one, plot in zip(axes, rows, strict=True):
            if plot is None:
                from matplotlib import image

                pixels = image.imread(io.BytesIO(base64.b64decode(shows.picture.partition(",")[2])))
                one.imshow(pixels, extent=(0, said.seconds, 0, 1), aspect="auto", interpolation="none")
                one.set_yticks([y for y, _ in hertz], [words for _, words in hertz])
                one.set_ylabel("Hz")
                one.set_title(f"level, −{RANGE:g} to 0 dB", loc="left", fontsize=9)
                continue
            for k, line in enumerate(plot.lines):
                x, y = _points(line.path, said.seconds)
                one.plot(x, y, linestyle=STYLES[k], color=HUES[k], label=plain(line.name))
            one.set_ylim(-0.02, 1.02)
            one.set_yticks([y for y, _ in plot.ticks], [words for _, words in plot.ticks])
            one.set_title(plain(plot.title, 60), loc="left", fontsize=9)
            one.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
            grid(one, colours)
        for one in axes:
            one.tick_params(labelsize=9)
        axes[-1].set_xlim(0, said.seconds)
        axes[-1].set_xticks([x * said.seconds for x, _ in times(said.seconds)], [w for _, w in times(said.seconds)])
        axes[-1].set_xlabel("time (min:s)")

    about = f"{text(said.path.name)}, {clock(said.seconds)}: spectrogram, and predictions of its windows over time."
    path = folder / f"{place:02d}_{name}.png"
    picture(draw, path, (7.5, 0.5 + 1.5 * len(rows)), about, text(said.path.name))
    return path


def _points(path: str, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """The way of a line as seconds (n,) and shares of the height (n,), with NaN where it breaks."""
    x: list[float] = []
    y: list[float] = []
    for word, across, down in re.findall(r"([ML])([\d.]+) ([\d.]+)", path):
        if word == "M" and x:
            x.append(float("nan"))
            y.append(float("nan"))
        x.append(float(across) / 1000 * seconds)
        y.append(1 - float(down) / 100)
    return np.array(x), np.array(y)
