"""Fonts for names in letters that matplotlib does not have.

A page leaves its text to the browser, which has the fonts of the system. A PNG has only what matplotlib finds: DejaVu
Sans, which comes with it, has no Chinese, Japanese, Korean or Indic letters and no coloured symbols.
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


BASE = "DejaVu Sans"
WIDE = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC",
    "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "SimHei",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans Devanagari", "Nirmala UI",
    "Noto Sans Thai", "Noto Sans Symbols 2", "Segoe UI Symbol", "Noto Emoji", "Arial Unicode MS",
)  # fmt: skip
"""Fonts with many letters that systems come with or that are often added, in the order in which they are tried."""
NOTE = "#: a name in letters that no font of this machine draws; the page shows it"
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}


@lru_cache(maxsize=1)
def families() -> list[str]:
    """Return the fonts to draw with: matplotlib's own, then those of `WIDE` that are installed."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [BASE, *(name for name in WIDE if name in installed)]


@lru_cache(maxsize=4096)
def draws(letter: str) -> bool:
    """Return whether matplotlib can draw a letter here."""
    from matplotlib import font_manager, ft2font

    if letter.isascii():
        return True
    if unicodedata.category(letter) in INVISIBLE or "VARIATION SELECTOR" in unicodedata.name(letter, ""):
        return letter == "\N{NO-BREAK SPACE}" or unicodedata.category(letter) == "Zs"
    if not getattr(ft2font, "__libraqm_version__", None) and _needs_layout(letter):
        return False
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in families())
    return any(font.get_char_index(ord(letter)) for font in fonts)


def number_names(figure: Figure) -> dict[str, str]:
    """Replace text that cannot be drawn by numbers, and say so below the figure.

    Args:
        figure: Complete; nothing is drawn on it afterwards.

    Returns:
        By number, such as `#1`, the text that it stands for, in the order of the figure; empty when all can be drawn.
    """
    from matplotlib.text import Text

    numbers: dict[str, str] = {}

    def shown(text: str) -> str:
        if all(map(draws, text)):
            return text
        number = numbers.setdefault(text, f"#{len(numbers) + 1}")
        rest = " ".join("".join(letter if draws(letter) else " " for letter in text).split())
        return f"{number} {rest}".rstrip()

    for axes in figure.axes:
        for axis in (axes.yaxis, axes.xaxis):
            places = axis.get_majorticklocs()
            labels = axis.get_major_formatter().format_ticks(places.tolist())
            if not all(draws(letter) for label in labels for letter in label):
                axis.set_ticks(places, [shown(label) for label in labels])  # ticks write their text when they are drawn
    for text in figure.findobj(Text):
        if text.get_text():
            text.set_text(shown(text.get_text()))  # type: ignore[attr-defined]
    if numbers:
        figure.supxlabel(NOTE, fontsize=8, x=0.02, ha="left")
    return {number: text for text, number in numbers.items()}


@contextmanager
def browser_fonts() -> Iterator[None]:
    """Silence matplotlib's warnings about missing letters while an SVG is written, whose text a browser draws."""
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
    """Return whether letters of this script are reordered or joined, which matplotlib does from 3.11 on."""
    indic = 0x0900 <= ord(letter) <= 0x0DFF or 0x0F00 <= ord(letter) <= 0x109F or 0x1780 <= ord(letter) <= 0x17FF
    return unicodedata.bidirectional(letter) in ("R", "AL") or indic
