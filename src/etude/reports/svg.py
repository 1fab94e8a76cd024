"""Conversion of matplotlib figures to SVG and PNG in the colours of the page.

A figure is drawn with stand-in colours. In the SVG, each is replaced by a CSS variable of the page (`var(--ink)`), so
that one drawing is used in both colour schemes and in print. Text remains text, so that it can be searched and has the
font of the page, which the browser selects. The text of a PNG is drawn by matplotlib. Its own font, DejaVu Sans, has no
Chinese, Japanese, Korean or Indic characters and no emoji.
"""

from __future__ import annotations

import html
import io
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.files.atomic import replacing

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


DEFAULT_FONT = "DejaVu Sans"
WIDE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC",
    "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "SimHei",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans Devanagari", "Nirmala UI",
    "Noto Sans Thai", "Noto Sans Symbols 2", "Segoe UI Symbol", "Noto Emoji", "Arial Unicode MS",
)  # fmt: skip
"""Common fonts with many characters, by priority."""
MISSING_FONT_NOTE = "#: name with characters that no font of this machine has; see the page"
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}


@lru_cache(maxsize=1)
def font_families() -> list[str]:
    """Return the default font of matplotlib and the installed fonts of `WIDE_FONTS`."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [DEFAULT_FONT, *(name for name in WIDE_FONTS if name in installed)]


@lru_cache(maxsize=4096)
def can_draw(letter: str) -> bool:
    """Return whether matplotlib can draw a character with the installed fonts."""
    from matplotlib import font_manager, ft2font

    if letter.isascii():
        return True
    if unicodedata.category(letter) in INVISIBLE or "VARIATION SELECTOR" in unicodedata.name(letter, ""):
        return letter == "\N{NO-BREAK SPACE}" or unicodedata.category(letter) == "Zs"
    if not getattr(ft2font, "__libraqm_version__", None) and _needs_layout(letter):
        return False
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in font_families())
    return any(font.get_char_index(ord(letter)) for font in fonts)


def number_names(figure: Figure) -> dict[str, str]:
    """Replace text that cannot be drawn by numbers, and explain them below the figure.

    Args:
        figure: The complete figure. Text that is added later is not replaced.

    Returns:
        The replaced texts by number, such as `#1`, in the order of the figure. Empty if all text can be drawn.
    """
    from matplotlib.text import Text

    numbers: dict[str, str] = {}

    def number_text(text: str) -> str:
        """Return a text with its number and without the characters that cannot be drawn."""
        if all(map(can_draw, text)):
            return text
        number = numbers.setdefault(text, f"#{len(numbers) + 1}")
        rest = " ".join("".join(letter if can_draw(letter) else " " for letter in text).split())
        return f"{number} {rest}".rstrip()

    for axes in figure.axes:
        for axis in (axes.yaxis, axes.xaxis):
            positions = axis.get_majorticklocs()
            labels = axis.get_major_formatter().format_ticks(positions.tolist())
            if not all(can_draw(letter) for label in labels for letter in label):
                axis.set_ticks(positions, [number_text(label) for label in labels])  # tick labels are empty until drawn
    for text in figure.findobj(Text):
        if text.get_text():
            text.set_text(number_text(text.get_text()))  # type: ignore[attr-defined]
    if numbers:
        figure.supxlabel(MISSING_FONT_NOTE, fontsize=8, x=0.02, ha="left")
    return {number: text for text, number in numbers.items()}


@contextmanager
def browser_fonts() -> Iterator[None]:
    """Suppress matplotlib warnings about missing characters, because the browser draws the text of an SVG."""
    import warnings

    loggers = [logging.getLogger("matplotlib.font_manager")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _needs_layout(letter: str) -> bool:
    """Return whether the script of a character reorders or joins characters. This requires matplotlib 3.11 or later."""
    indic = 0x0900 <= ord(letter) <= 0x0DFF or 0x0F00 <= ord(letter) <= 0x109F or 0x1780 <= ord(letter) <= 0x17FF
    return unicodedata.bidirectional(letter) in ("R", "AL") or indic
