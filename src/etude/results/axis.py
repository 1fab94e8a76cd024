"""Ends, ticks and marks of small charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[float, float]
Ticks = Sequence[tuple[float, str]]
SHAPES = {
    "o": "m-{r} 0a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0-{d} 0",
    "s": "m-{r}-{r}h{d}v{d}h-{d}z",
    "D": "m0-{R}l{R} {R}l-{R} {R}l-{R}-{R}z",
    "^": "m0-{R}l{R} {d}h-{D}z",
    "v": "m0 {R}l{R}-{d}h-{D}z",
    "P": "m-{t}-{R}h{r}v{k}h{k}v{r}h-{k}v{k}h-{r}v-{k}h-{k}v-{r}h{k}z",
    ">": "m{R} 0l-{d} {R}v-{D}z",
    "<": "m-{R} 0l{d} {R}v-{D}z",
}
MARKERS = "".join(SHAPES)


def marker(shape: str, radius: float = 3.2) -> str:
    """Path of a marker around the point where the pen is."""
    sizes = {"r": radius, "d": 2 * radius, "R": 1.3 * radius, "D": 2.6 * radius, "t": radius / 2, "k": 0.8 * radius}
    return SHAPES[shape].format(**{name: f"{size:.3g}" for name, size in sizes.items()})


def round_ticks(ends: Range, most: int, whole: bool = False) -> list[tuple[float, str]]:
    """Round numbers between two ends, and how they are written."""
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(ends)
    values = MaxNLocator(max(1, most), steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    slack = 1e-9 * (high - low)
    kept = [float(v) for v in values if low - slack <= v <= high + slack]
    return [(v, f"{v + 0.0:.4g}".replace("e-0", "e-").replace("-", "−")) for v in kept]


def around(values: Iterable[float], share: float = 0.05) -> Range:
    """Both ends of an axis that holds all values, with a margin."""
    known = [float(v) for v in values if v == v and abs(v) != float("inf")]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = share * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def opened(ends: Range) -> Range:
    """An axis has a length, even where all values are one."""
    return ends if ends[0] != ends[1] else (ends[0] - 0.5, ends[1] + 0.5)
