"""What a page says of one file: the values of predict_file.html.j2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etude.audio.front import Front
from etude.prediction.columns import Columns
from etude.prediction.engine import Said
from etude.prediction.inputs import text
from etude.prediction.lines import Plot, clock, times
from etude.prediction.shown import Shown
from etude.prediction.terminal import words
from etude.results.exploration.ticks import bands


def hertz(front: Front) -> list[tuple[float, str]]:
    """Share of the height of a spectrogram, and words, of some frequencies."""
    return [((place + 0.5) / front.n_mels, said) for place, said in bands(front)]


def piece(
    said: Said, shows: Shown, drawn: Sequence[Plot], columns: Columns, ticks: Sequence[tuple[float, str]]
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
