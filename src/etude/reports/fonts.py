"""Fonts for names with characters that matplotlib cannot draw.

The text of a page is drawn by the browser with the fonts of the system. The text of a PNG is drawn by matplotlib. Its
own font, DejaVu Sans, has no Chinese, Japanese, Korean or Indic characters and no emoji.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DEFAULT = "DejaVu Sans"
WIDE = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC",
    "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "SimHei",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans Devanagari", "Nirmala UI",
    "Noto Sans Thai", "Noto Sans Symbols 2", "Segoe UI Symbol", "Noto Emoji", "Arial Unicode MS",
)  # fmt: skip
"""Common fonts with many characters, by priority."""
NOTE = "#: name with characters that no font of this machine has; see the page"
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}


@lru_cache(maxsize=1)
def font_families() -> list[str]:
    """Return the default font of matplotlib and the installed fonts of `WIDE`."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [DEFAULT, *(name for name in WIDE if name in installed)]


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
        figure.supxlabel(NOTE, fontsize=8, x=0.02, ha="left")
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
