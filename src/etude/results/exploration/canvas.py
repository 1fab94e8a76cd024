"""One drawing twice: in the page with the page's colours, light or dark, and as a PNG beside it with the light ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from etude.files.atomic import replacing
from etude.results.fonts import families, number_names
from etude.results.svg import STAND_IN, STYLE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
Colours = Mapping[str, str]
Draw = Callable[["Figure", Colours], None]


@lru_cache(maxsize=1)
def light() -> dict[str, str]:
    """Colours of the page in daylight by role; the style sheet is the one place that has them."""
    style = files("etude.results").joinpath("templates", "page.css").read_text(encoding="utf-8")
    root = style[: style.index("}")]
    return {name: colour for name, colour in re.findall(r"--([\w-]+): (#[0-9a-f]{6})", root) if name in STAND_IN}


def picture(draw: Draw, path: Path, size: tuple[float, float], about: str, title: str = "") -> str:
    """Draw a figure.

    Args:
        draw: Puts it on an empty figure in colours by role.
        path: Where the PNG goes; its stem names the drawing.
        size: In inches.
        about: What it shows, for those who do not see it.
        title: Stands above the PNG, which has no page around it to say what it is.

    Returns:
        The drawing as SVG, to stand in a page.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = light()
    style = {key: colours[name] if (name := _role(value)) else value for key, value in STYLE.items()}
    with rc_context(style | {"axes.facecolor": colours["paper"], "font.family": families()}):
        figure = Figure(figsize=size, layout="constrained", facecolor=colours["paper"])
        draw(figure, colours)
        if title:
            figure.suptitle(plain(title, 60), fontsize=11, x=0.02, ha="left")
        names = "".join(f" {number}: {name}." for number, name in number_names(figure).items())
        about_names = {"Description": about + names}
        with replacing(path) as draft:
            figure.savefig(draft, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12, metadata=about_names)
    return svg(lambda figure: draw(figure, STAND_IN), path.stem, size, about)


def plain(text: str, most: int = 22) -> str:
    """A name as matplotlib shows it letter by letter: $ is no mathematics, a line break no second line."""
    text = " ".join(text.split())
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def grid(axes: Axes, colours: Colours, axis: str = "both") -> None:
    """Thin lines behind the data, no ticks."""
    axes.grid(axis=axis, color=colours["rule"], linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _role(value: object) -> str | None:
    return next((role for role, colour in STAND_IN.items() if colour == value), None)
