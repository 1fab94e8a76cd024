"""SVG and PNG drawings in the colours of the page.

A figure is drawn with stand-in colours, and each of these becomes a CSS variable of the page (`var(--ink)`), so one
drawing serves both colour schemes and print. Text stays text: it can be searched, and takes the font around it.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.files.atomic import replacing
from etude.reports.fonts import browser_fonts, families, number_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SHADES = 64  # more is not seen, and makes a page larger
DPI = 160

ROLES = ("paper", "ink", "muted", "rule", "network", "linear", "constant", *(f"group-{i}" for i in range(1, 9)))
STAND_IN = {role: f"#0a0b{i + 1:02x}" for i, role in enumerate(ROLES)}
"""Colour that stands for a CSS variable until the SVG is written."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": STAND_IN["muted"],
    "axes.labelcolor": STAND_IN["muted"],
    "text.color": STAND_IN["ink"],
    "xtick.color": STAND_IN["muted"],
    "ytick.color": STAND_IN["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
}

Colours = Mapping[str, str]
Draw = Callable[["Figure", Colours], None]


class Drawing(str):
    """SVG of a figure, as text for a page, which can also be drawn as PNG."""

    draw: Callable[[Figure], None]
    size: tuple[float, float]

    def png(self, dpi: int = 150) -> bytes:
        """Return the figure as PNG, in the page's light colours on its paper."""
        from matplotlib import rc_context
        from matplotlib.colors import is_color_like, to_hex
        from matplotlib.figure import Figure
        from matplotlib.text import Text

        light, buffer = colours(), io.BytesIO()
        real = {STAND_IN[role]: light[role] for role in ROLES}
        style = {key: real.get(value, value) for key, value in STYLE.items()} | {"axes.facecolor": light["paper"]}
        with rc_context(style | {"font.family": families()}):
            figure = Figure(figsize=self.size, layout="constrained", facecolor=light["paper"])
            self.draw(figure)
            number_names(figure)
            framed = [text.get_bbox_patch() for text in figure.findobj(Text)]  # which it does not find
            for artist in [*figure.findobj(), *framed]:
                for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
                    value: Any = getattr(artist, f"get_{part}", lambda: None)()
                    if is_color_like(value) and (colour := real.get(to_hex(value))):
                        artist.set(**{part: colour})  # type: ignore[union-attr]
            figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08)
        return buffer.getvalue()


def svg(draw: Callable[[Figure], None], name: str, size: tuple[float, float], about: str) -> Drawing:
    """Draw on a fresh figure of a size in inches; the SVG scales to the width that the page gives it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with browser_fonts(), rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04)
    drawing = Drawing(inline(buffer.getvalue(), re.sub(r"\W+", "-", name), about))
    drawing.draw, drawing.size = draw, size
    return drawing


def picture(draw: Draw, path: Path, size: tuple[float, float], about: str, title: str = "") -> str:
    """Draw a figure as PNG and as SVG.

    Args:
        draw: Draws on an empty figure in colours by role.
        path: Path of the PNG; its stem names the drawing.
        size: In inches.
        about: Description for readers who do not see it.
        title: Title above the PNG, which has no page around it.

    Returns:
        The drawing as SVG, to stand in a page.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    light = colours()
    style = {key: light[name] if (name := _role(value)) else value for key, value in STYLE.items()}
    with rc_context(style | {"axes.facecolor": light["paper"], "font.family": families()}):
        figure = Figure(figsize=size, layout="constrained", facecolor=light["paper"])
        draw(figure, light)
        if title:
            figure.suptitle(plain(title, 60), fontsize=11, x=0.02, ha="left")
        names = "".join(f" {number}: {name}." for number, name in number_names(figure).items())
        about_names = {"Description": about + names}
        with replacing(path) as draft:
            figure.savefig(draft, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12, metadata=about_names)
    return svg(lambda figure: draw(figure, STAND_IN), path.stem, size, about)


def shaded_png(values: np.ndarray, limits: tuple[float, float]) -> bytes:
    """Return values (height, width), the upper row first, as a PNG from dark to light between two limits."""
    from matplotlib import colormaps
    from PIL import Image

    low, high = limits
    shade = np.clip((values - low) / ((high - low) or 1) * SHADES, 0, SHADES - 1).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(shade), "P")
    image.putpalette((colormaps["magma"].resampled(SHADES)(np.arange(SHADES))[:, :3] * 255).astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


@lru_cache(maxsize=1)
def colours() -> dict[str, str]:
    """Return the colours of the page by role, in the light scheme, as its style sheet defines them."""
    sheet = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", sheet.partition("@media")[0]))


def plain(text: str, most: int = 22) -> str:
    """Return a name as matplotlib shows it letter by letter: $ is no mathematics, a line break no second line."""
    text = " ".join(text.split())
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def grid(axes: Axes, colours: Colours, axis: str = "both") -> None:
    """Draw thin lines behind the data, without ticks."""
    axes.grid(axis=axis, color=colours["rule"], linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def inline(drawing: str, name: str, about: str) -> str:
    """Return the part of an SVG file for a page: no prolog, no metadata, ids of its own, variables for colours."""
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(
        r'(<image\b[^>]*?)\sid="[^"]*"', r"\1", drawing
    )  # equal images, such as colour bars, have equal ids
    drawing = re.sub(r"<(metadata|style).*?</\1>", "", drawing, flags=re.DOTALL)  # a <style> would rule the whole page
    box = re.search(r'viewBox="([^"]+)"', drawing)
    assert box is not None, "matplotlib writes a viewBox"
    width = float(box[1].split()[2])
    opening = (
        f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(about)}" style="max-width: {width * 1.2:.0f}px">'
    )
    drawing = re.sub(r"<svg.*?>", lambda _: opening, drawing, count=1, flags=re.DOTALL)
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', drawing)
    drawing = drawing.replace("url(#", f"url(#{name}-")
    drawing = re.sub(
        r"font: (?:[a-z]+ )*(\d+ )?([\d.]+px) [^;\"]*",
        lambda m: f"font-weight: {m[1] or 400}; font-size: {m[2]}",
        drawing,
    )
    drawing = re.sub(r" font-family: [^;\"]*;", "", drawing)
    for role, colour in STAND_IN.items():
        drawing = drawing.replace(colour, f"var(--{role})")
    return drawing


def _role(value: object) -> str | None:
    return next((role for role, colour in STAND_IN.items() if colour == value), None)
