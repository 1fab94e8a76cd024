"""Small SVG charts: axes, ticks, panels and markers.

A report has dozens of them at the end of every run. Matplotlib takes a tenth of a second for each; this takes a
thousandth, and a series of any length is one path. Ticks are matplotlib's.
"""

from __future__ import annotations

import html
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


class Panel:
    """A frame with axes.

    Args:
        x, y: Both ends of each axis; y may run downwards.
        about: What is shown, for those who do not see it.
        xlabel, ylabel: With units. The label of y stands above its axis, so that it reads without turning the head.
        size: Width and height, in CSS pixels when the drawing is shown at its own size.
        xticks, yticks: Place and words of the ticks; none chooses round numbers.
        left: Room for the words of y.
        whole: Whether x is counted, so that its ticks are whole numbers.
    """

    def __init__(
        self,
        x: Range,
        y: Range,
        about: str,
        xlabel: str = "",
        ylabel: str = "",
        size: tuple[int, int] = (320, 200),
        xticks: Ticks | None = None,
        yticks: Ticks | None = None,
        left: int = 46,
        whole: bool = False,
    ) -> None:
        self.x, self.y, self.about, self.size = opened(x), opened(y), about, size
        self.box = (
            left,
            22 if ylabel else 10,
            size[0] - 12,
            size[1] - (36 if xlabel else 22),
        )  # left, top, right, bottom
        self.parts: list[str] = []
        xticks = round_ticks(self.x, (size[0] - left) // 55, whole) if xticks is None else xticks
        yticks = round_ticks(self.y, max(2, size[1] // 34)) if yticks is None else yticks
        self._axes(xticks, yticks, xlabel, ylabel)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the axes lies in the drawing."""
        (x0, x1), (y0, y1), (left, top, right, bottom) = self.x, self.y, self.box
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (y - y0) / (y1 - y0) * (bottom - top)

    def line(self, xs: Iterable[float], ys: Iterable[float], role: str, dash: str = "", width: float = 1.6) -> None:
        """A line through points."""
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in (self.at(x, y) for x, y in zip(xs, ys, strict=True)))
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<path d="M{path}" style="fill:none;stroke:var(--{role})" stroke-width="{width}"{dashed}/>')

    def points(
        self,
        xs: Iterable[float],
        ys: Iterable[float],
        role: str,
        shape: str = "o",
        radius: float = 3.2,
        hollow: bool = False,
    ) -> None:
        """Markers; hollow ones are rings around what is there."""
        stamp = marker(shape, radius)
        path = "".join(f"M{a:.1f} {b:.1f}{stamp}" for a, b in (self.at(x, y) for x, y in zip(xs, ys, strict=True)))
        look = f"fill:none;stroke:var(--{role})" if hollow else f"fill:var(--{role});stroke:var(--paper)"
        self.parts.append(f'<path d="{path}" style="{look}" stroke-width="{1.4 if hollow else 0.6}"/>')

    def bar(self, x: Range, y: Range, role: str, opacity: float = 1.0) -> None:
        """A filled rectangle between both ends of x and of y."""
        (x0, y0), (x1, y1) = self.at(x[0], y[0]), self.at(x[1], y[1])
        left, top = min(x0, x1), min(y0, y1)
        self.parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{abs(x1 - x0):.1f}" height="{abs(y1 - y0):.1f}" '
            f'style="fill:var(--{role})" opacity="{opacity:g}"/>'
        )

    def image_svg(self, href: str) -> str:
        """The drawing with a picture that fills its frame."""
        left, top, right, bottom = self.box
        self.parts.append(  # over the grid, which would cross it
            f'<image href="{html.escape(href)}" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
            'preserveAspectRatio="none"/>'
        )
        return self.svg()

    def words(self, x: float, y: float, text: str, anchor: str = "middle", role: str = "muted", up: float = 4) -> None:
        """Text above a point."""
        a, b = self.at(x, y)
        self._text(a, b - up, text, anchor, role)

    def svg(self, attributes: str = "") -> str:
        """The drawing."""
        width, height = self.size
        return (
            f'<svg class="panel" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(self.about)}" '
            f'style="max-width: {width * 1.25:.0f}px"{attributes}>{"".join(self.parts)}</svg>'
        )

    def _axes(self, xticks: Ticks, yticks: Ticks, xlabel: str, ylabel: str) -> None:
        left, top, right, bottom = self.box
        grid: list[str] = []
        labels: list[tuple[float, float, str, str]] = []
        for value, words in yticks:
            y = self.at(self.x[0], value)[1]
            grid.append(f"M{left} {y:.1f}H{right}")
            labels.append((left - 5, y + 4, words, "end"))
        for value, words in xticks:
            x = self.at(value, self.y[0])[0]
            grid.append(f"M{x:.1f} {top}V{bottom}")
            labels.append((x, bottom + 14, words, "middle"))
        self.parts.append(f'<path d="{"".join(grid)}" style="stroke:var(--rule)" stroke-width="0.8"/>')
        self.parts.append(
            f'<path d="M{left} {top}V{bottom}H{right}" style="fill:none;stroke:var(--muted)" stroke-width="0.8"/>'
        )
        for x, y, words, anchor in labels:
            self._text(x, y, words, anchor)
        if xlabel:
            self._text((left + right) / 2, bottom + 30, xlabel, "middle")
        if ylabel:
            self._text(2, 11, ylabel, "start")

    def _text(self, x: float, y: float, text: str, anchor: str, role: str = "muted") -> None:
        where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self.parts.append(f'<text {where} style="fill:var(--{role})">{html.escape(text)}</text>')
