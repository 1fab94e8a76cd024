"""Values of windows over time as lines that stretch with the page: places are shares of the width and of the height."""

from __future__ import annotations

from dataclasses import dataclass, field

from etude.prediction.columns import Columns
from etude.prediction.engine import Said
from etude.results.axis import round_ticks
from etude.results.text import number

MOST = 6  # classes that have a line
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "14 4", "4 2")  # told apart without colours
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds between ticks


@dataclass(frozen=True)
class Line:
    """A line.

    Args:
        name: Class or target.
        role: Its colour on the page.
        dash: Its pattern.
        path: Its way through a box of 1000 by 100.
        whole: The value of the whole file, in words.
        place: Of its value among those of a window.
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
        title: What is shown, with its unit.
        lines: At least one.
        ticks: Share of the height, and words.
        note: What is left out; often empty.
    """

    title: str
    lines: list[Line]
    ticks: list[tuple[float, str]] = field(default_factory=list)
    note: str = ""


def plots(said: Said, columns: Columns) -> list[Plot]:
    """Probabilities of each label, and scalars of one range together."""
    found: list[Plot] = []
    places, start = {}, 0
    for name, size in columns.sizes.items():
        places[name] = start
        start += size
    for name, spec in columns.targets.items():
        if spec["kind"] == "label":
            classes = spec["classes"]
            peaks = [
                max(values[places[name] + i] for *_, values in said.windows if values) for i in range(len(classes))
            ]
            first = sorted(sorted(range(len(classes)), key=lambda i: -peaks[i])[:MOST])
            lines = [_line(said, classes[i], places[name] + i, (0.0, 1.0), n) for n, i in enumerate(first)]
            note = f"The {MOST} of {len(classes)} classes that are ever most probable." if len(classes) > MOST else ""
            found.append(Plot(f"{name}: probability, 0 to 1", lines, [(0, "0"), (0.5, "0.5"), (1, "1")], note))
    ranges: dict[tuple[float, float], list[str]] = {}
    for name, spec in columns.targets.items():
        if spec["kind"] == "scalar":
            ranges.setdefault((float(spec["low"]), float(spec["high"])), []).append(name)
    for (low, high), names in ranges.items():
        ticks = [((value - low) / (high - low), words) for value, words in round_ticks((low, high), 3)]
        for some in (names[k : k + MOST] for k in range(0, len(names), MOST)):
            lines = [_line(said, name, places[name], (low, high), n) for n, name in enumerate(some)]
            found.append(Plot(f"{', '.join(some)}: {low:g} to {high:g}", lines, ticks))
    return found


def clock(seconds: float) -> str:
    """Seconds, to the nearest one, as 0:07, 3:25 or 1:02:03."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{minutes:0>5}" if whole >= 3600 else minutes


def times(seconds: float) -> list[tuple[float, str]]:
    """Share of the width, and words, of at most six round times."""
    step = next((step for step in STEPS if seconds / step <= 5.5), STEPS[-1])
    return [(at / seconds, clock(at)) for at in range(0, int(seconds) + 1, step)] if seconds else []


def _line(said: Said, name: str, place: int, ends: tuple[float, float], number_: int) -> Line:
    assert said.values is not None
    low, high = ends
    path, drawing = "", False
    last = len(said.windows) - 1
    for k, (start, end, values) in enumerate(said.windows):
        if values is None:  # silent: a gap
            drawing = False
            continue
        y = 100 - 100 * (min(max(values[place], low), high) - low) / (high - low)
        at = [(start + end) / 2]  # what a window says stands at its middle, and holds to the ends of the file
        at = [start, *at] if k == 0 else at
        at = [*at, end] if k == last else at
        for second in at if len(at) > 1 or drawing else [at[0], at[0]]:
            path += f"{'L' if drawing else 'M'}{1000 * second / said.seconds:.1f} {y:.2f}"
            drawing = True
    return Line(
        name, f"group-{number_ % 8 + 1}", DASHES[number_ % len(DASHES)], path, number(said.values[place]), place
    )
