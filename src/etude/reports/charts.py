"""Small SVG charts with axes, ticks and markers.

A run report contains dozens of charts. Matplotlib takes about 0.1 s for each and this module about 1 ms. A series of
any length is a single path. The positions of ticks are computed by matplotlib.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

Range = tuple[float, float]
Ticks = Sequence[tuple[float, str]]
MARKER_PATHS = {
    "o": "m-{r} 0a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0-{d} 0",
    "s": "m-{r}-{r}h{d}v{d}h-{d}z",
    "D": "m0-{R}l{R} {R}l-{R} {R}l-{R}-{R}z",
    "^": "m0-{R}l{R} {d}h-{D}z",
    "v": "m0 {R}l{R}-{d}h-{D}z",
    "P": "m-{t}-{R}h{r}v{k}h{k}v{r}h-{k}v{k}h-{r}v-{k}h-{k}v-{r}h{k}z",
    ">": "m{R} 0l-{d} {R}v-{D}z",
    "<": "m-{R} 0l{d} {R}v-{D}z",
}
MARKERS = "".join(MARKER_PATHS)


def marker_path(shape: str, radius: float = 3.2) -> str:
    """Return the SVG path of a marker, relative to its centre."""
    sizes = {"r": radius, "d": 2 * radius, "R": 1.3 * radius, "D": 2.6 * radius, "t": radius / 2, "k": 0.8 * radius}
    return MARKER_PATHS[shape].format(**{name: f"{size:.3g}" for name, size in sizes.items()})


def round_ticks(ends: Range, n_max: int, integer: bool = False) -> list[tuple[float, str]]:
    """Return the positions and labels of round numbers between two ends."""
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(ends)
    values = MaxNLocator(max(1, n_max), steps=[1, 2, 2.5, 5, 10], integer=integer).tick_values(low, high)
    tolerance = 1e-9 * (high - low)
    inside = [float(v) for v in values if low - tolerance <= v <= high + tolerance]
    return [(v, _tick_label(v)) for v in inside]


def log_ticks(ends: Range, n_max: int) -> list[tuple[float, str]]:
    """Return the positions and labels of round numbers between two decimal logarithms."""
    low, high = sorted(ends)
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [value for value in values if low <= math.log10(value) <= high]
        if len(inside) <= n_max:
            break
    inside = inside[:: -(-len(inside) // n_max)] if inside else []
    return [(math.log10(value), _tick_label(value)) for value in inside]


def _tick_label(value: float) -> str:
    """Return a round number as text with a minus sign. The sum removes the sign of -0."""
    return f"{value + 0.0:.4g}".replace("e-0", "e-").replace("-", "−")


def padded_range(values: Iterable[float], share: float = 0.05) -> Range:
    """Return the range of the finite values, enlarged at both ends by a share of its width."""
    finite = [float(v) for v in values if v == v and abs(v) != float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    margin = share * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def nonempty_range(ends: Range) -> Range:
    """Return a range of width 1 around the value if both ends are equal."""
    return ends if ends[0] != ends[1] else (ends[0] - 0.5, ends[1] + 0.5)


class Panel:
    """SVG chart with two axes.

    Args:
        x, y: Both ends of each axis. The first end of y may be the larger.
        description: Text alternative for readers who cannot see the chart.
        xlabel, ylabel: Labels with units. The label of y is above its axis, so that it is horizontal.
        size: Width and height, in CSS pixels at the original size.
        xticks, yticks: Positions and labels of the ticks. None selects round numbers.
        left: Space for the tick labels of y, in CSS pixels.
        integer: Whether the ticks of x are integers.
    """

    def __init__(
        self,
        x: Range,
        y: Range,
        description: str,
        xlabel: str = "",
        ylabel: str = "",
        size: tuple[int, int] = (320, 200),
        xticks: Ticks | None = None,
        yticks: Ticks | None = None,
        left: int = 46,
        integer: bool = False,
    ) -> None:
        self.x, self.y, self.description, self.size = nonempty_range(x), nonempty_range(y), description, size
        self.box = (
            left,
            22 if ylabel else 10,
            size[0] - 12,
            size[1] - (36 if xlabel else 22),
        )  # left, top, right, bottom
        self.elements: list[str] = []
        xticks = round_ticks(self.x, (size[0] - left) // 55, integer) if xticks is None else xticks
        yticks = round_ticks(self.y, max(2, size[1] // 34)) if yticks is None else yticks
        self._draw_axes(xticks, yticks, xlabel, ylabel)

    def to_pixels(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a data point in the drawing."""
        (x0, x1), (y0, y1), (left, top, right, bottom) = self.x, self.y, self.box
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (y - y0) / (y1 - y0) * (bottom - top)

    def line(
        self,
        xs: Iterable[float],
        ys: Iterable[float],
        role: str,
        dash: str = "",
        width: float = 1.6,
        title: str = "",
    ) -> None:
        """Draw a line through data points. A browser shows the title near the pointer."""
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in (self.to_pixels(x, y) for x, y in zip(xs, ys, strict=True)))
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        end = f' class="titled"><title>{html.escape(title)}</title></path>' if title else "/>"
        self.elements.append(
            f'<path d="M{path}" style="fill:none;stroke:var(--{role})" stroke-width="{width}"{dashes}{end}'
        )

    def points(
        self,
        xs: Iterable[float],
        ys: Iterable[float],
        role: str,
        shape: str = "o",
        radius: float = 3.2,
        hollow: bool = False,
    ) -> None:
        """Draw a marker at each data point. A hollow marker is an outline."""
        marker = marker_path(shape, radius)
        positions = (self.to_pixels(x, y) for x, y in zip(xs, ys, strict=True))
        path = "".join(f"M{a:.1f} {b:.1f}{marker}" for a, b in positions)
        style = f"fill:none;stroke:var(--{role})" if hollow else f"fill:var(--{role});stroke:var(--paper)"
        self.elements.append(f'<path d="{path}" style="{style}" stroke-width="{1.4 if hollow else 0.6}"/>')

    def bar(self, x: Range, y: Range, role: str, opacity: float = 1.0) -> None:
        """Draw a filled rectangle between both ends of x and of y."""
        (x0, y0), (x1, y1) = self.to_pixels(x[0], y[0]), self.to_pixels(x[1], y[1])
        left, top = min(x0, x1), min(y0, y1)
        self.elements.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{abs(x1 - x0):.1f}" height="{abs(y1 - y0):.1f}" '
            f'style="fill:var(--{role})" opacity="{opacity:g}"/>'
        )

    def text(self, x: float, y: float, text: str, anchor: str = "middle", role: str = "muted", up: float = 4) -> None:
        """Write text above a data point."""
        a, b = self.to_pixels(x, y)
        self._write_text(a, b - up, text, anchor, role)

    def svg(self, attributes: str = "") -> str:
        """Return the chart as SVG."""
        width, height = self.size
        return (
            f'<svg class="panel" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(self.description)}"'
            f' style="max-width: {width * 1.25:.0f}px"{attributes}>{"".join(self.elements)}</svg>'
        )

    def image_svg(self, href: str) -> str:
        """Return the chart as SVG with an image that fills the area between the axes."""
        left, top, right, bottom = self.box
        self.elements.append(  # last, so that the grid lines are below it
            f'<image href="{html.escape(href)}" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
            'preserveAspectRatio="none"/>'
        )
        return self.svg()

    def _draw_axes(self, xticks: Ticks, yticks: Ticks, xlabel: str, ylabel: str) -> None:
        """Draw both axes with ticks, grid lines and labels."""
        left, top, right, bottom = self.box
        grid: list[str] = []
        labels: list[tuple[float, float, str, str]] = []
        for value, label in yticks:
            y = self.to_pixels(self.x[0], value)[1]
            grid.append(f"M{left} {y:.1f}H{right}")
            labels.append((left - 5, y + 4, label, "end"))
        for value, label in xticks:
            x = self.to_pixels(value, self.y[0])[0]
            grid.append(f"M{x:.1f} {top}V{bottom}")
            labels.append((x, bottom + 14, label, "middle"))
        self.elements.append(f'<path d="{"".join(grid)}" style="stroke:var(--rule)" stroke-width="0.8"/>')
        self.elements.append(
            f'<path d="M{left} {top}V{bottom}H{right}" style="fill:none;stroke:var(--muted)" stroke-width="0.8"/>'
        )
        for x, y, label, anchor in labels:
            self._write_text(x, y, label, anchor)
        if xlabel:
            self._write_text((left + right) / 2, bottom + 30, xlabel, "middle")
        if ylabel:
            self._write_text(2, 11, ylabel, "start")

    def _write_text(self, x: float, y: float, text: str, anchor: str, role: str = "muted") -> None:
        """Write text at a position in pixels."""
        position = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self.elements.append(f'<text {position} style="fill:var(--{role})">{html.escape(text)}</text>')
