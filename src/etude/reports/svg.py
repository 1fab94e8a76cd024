"""Conversion of matplotlib figures to SVG and PNG in the colours of the page.

A figure is drawn with stand-in colours. In the SVG, each is replaced by a CSS variable of the page (`var(--ink)`), so
that one drawing is used in both colour schemes and in print. Text remains text, so that it can be searched and has the
font of the page.
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
from etude.reports.fonts import browser_fonts, font_families, number_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SHADES = 64  # more shades are not distinguishable and make a page larger
DPI = 160

ROLES = ("paper", "ink", "muted", "rule", "network", "linear", "constant", *(f"group-{i}" for i in range(1, 9)))
STAND_IN = {role: f"#0a0b{i + 1:02x}" for i, role in enumerate(ROLES)}
"""Colours that are replaced by CSS variables in the SVG, by role."""

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
    """SVG code of a figure, which can also be drawn as PNG."""

    draw: Callable[[Figure], None]
    size: tuple[float, float]

    def png(self, dpi: int = 150) -> bytes:
        """Return the figure as PNG, in the light colours of the page."""
        from matplotlib import rc_context
        from matplotlib.colors import is_color_like, to_hex
        from matplotlib.figure import Figure
        from matplotlib.text import Text

        light, buffer = page_colours(), io.BytesIO()
        final_colours = {STAND_IN[role]: light[role] for role in ROLES}
        style = {key: final_colours.get(value, value) for key, value in STYLE.items()}
        style |= {"axes.facecolor": light["paper"]}
        with rc_context(style | {"font.family": font_families()}):
            figure = Figure(figsize=self.size, layout="constrained", facecolor=light["paper"])
            self.draw(figure)
            number_names(figure)
            text_boxes = [text.get_bbox_patch() for text in figure.findobj(Text)]  # findobj() does not return them
            for artist in [*figure.findobj(), *text_boxes]:
                for name in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
                    value: Any = getattr(artist, f"get_{name}", lambda: None)()
                    if is_color_like(value) and (colour := final_colours.get(to_hex(value))):
                        artist.set(**{name: colour})  # type: ignore[union-attr]
            figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08)
        return buffer.getvalue()


def draw_svg(draw: Callable[[Figure], None], name: str, size: tuple[float, float], description: str) -> Drawing:
    """Draw a figure as SVG.

    Args:
        draw: Function that draws on an empty figure in stand-in colours.
        name: Name of the drawing, the prefix of its ids.
        size: Width and height in inches. The page scales the SVG to the available width.
        description: Text alternative for readers who cannot see the figure.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with browser_fonts(), rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04)
    drawing = Drawing(embed_svg(buffer.getvalue(), re.sub(r"\W+", "-", name), description))
    drawing.draw, drawing.size = draw, size
    return drawing


def save_figure(draw: Draw, path: Path, size: tuple[float, float], description: str, title: str = "") -> str:
    """Write a figure as PNG and return it as SVG, without the title. For the arguments see `save_png`."""
    save_png(draw, path, size, description, title)
    return draw_svg(lambda figure: draw(figure, STAND_IN), path.stem, size, description)


def save_png(draw: Draw, path: Path, size: tuple[float, float], description: str, title: str = "") -> None:
    """Write a figure as PNG.

    Args:
        draw: Function that draws on an empty figure, with colours by role.
        path: Path of the PNG. Its stem is the name of the figure.
        size: Width and height in inches.
        description: Text alternative for readers who cannot see the figure.
        title: Title above the figure.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    light = page_colours()
    style = {key: light[name] if (name := _role(value)) else value for key, value in STYLE.items()}
    with rc_context(style | {"axes.facecolor": light["paper"], "font.family": font_families()}):
        figure = Figure(figsize=size, layout="constrained", facecolor=light["paper"])
        draw(figure, light)
        if title:
            figure.suptitle(escape_label(title, 60), fontsize=11, x=0.02, ha="left")
        names = "".join(f" {number}: {name}." for number, name in number_names(figure).items())
        metadata = {"Description": description + names}
        with replacing(path) as draft:
            figure.savefig(draft, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12, metadata=metadata)


def shaded_png(values: np.ndarray, limits: tuple[float, float]) -> bytes:
    """Return values (height, width), top row first, as PNG. Colours from dark to light span the two limits."""
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
def page_colours() -> dict[str, str]:
    """Return the colours of the light scheme by role, read from the style sheet of the pages."""
    sheet = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", sheet.partition("@media")[0]))


def escape_label(text: str, n_max: int = 22) -> str:
    """Return a text of at most `n_max` characters for matplotlib, on one line and with $ escaped."""
    text = " ".join(text.split())
    return (text if len(text) <= n_max else text[: n_max - 1] + "…").replace("$", r"\$")


def draw_grid(axes: Axes, colours: Colours, axis: str = "both") -> None:
    """Draw thin grid lines behind the data and hide the ticks."""
    axes.grid(axis=axis, color=colours["rule"], linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def embed_svg(drawing: str, name: str, description: str) -> str:
    """Return the content of an SVG file for a page.

    Prolog, metadata and style sheet are removed, ids begin with the name, and stand-in colours become CSS variables.
    """
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(
        r'(<image\b[^>]*?)\sid="[^"]*"', r"\1", drawing
    )  # equal images, such as colour bars, have the same id
    # a <style> would apply to the entire page
    drawing = re.sub(r"<(metadata|style).*?</\1>", "", drawing, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', drawing)
    assert box is not None, "matplotlib writes a viewBox"
    width = float(box[1].split()[2])
    opening = (
        f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(description)}" '
        f'style="max-width: {width * 1.2:.0f}px">'
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
    """Return the role of a stand-in colour, or None for other values."""
    return next((role for role, colour in STAND_IN.items() if colour == value), None)
