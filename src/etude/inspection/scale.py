"""Which value has which colour: signed ones in orange and blue about a white 0, others from dark to light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

SHADES = 64  # more is not seen, and makes the page larger
CUT = 99.5  # percentile of the sizes at which a scale ends, so that one value does not pale all others


@dataclass(frozen=True)
class Scale:
    """Which value has which colour.

    Args:
        low, high: Its ends; `signed` ones lie alike on both sides of 0.
        signed: Whether there is a sign to be seen.
        cut: Whether there are values beyond the ends.
    """

    low: float
    high: float
    signed: bool
    cut: bool = False

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], least: float | None = None) -> Scale:
        """The scale of values that are seen side by side."""
        values = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if low < 0:
            end = float(np.percentile(np.abs(values), CUT)) or max(-low, high)
            return cls(-end, end, True, max(-low, high) > end)
        low = low if least is None else least
        return cls(low, high if high > low else low + 1.0, False)

    @property
    def colours(self) -> Colormap:
        """The map of colours; both are told apart without red and green, and in grey."""
        from matplotlib import colormaps
        from matplotlib.colors import LinearSegmentedColormap

        if not self.signed:
            return colormaps["viridis"].resampled(SHADES)
        hues = ["#7a3300", "#d9690b", "#f8f7f3", "#2f86c6", "#003f73"]  # the page's orange and blue
        return LinearSegmentedColormap.from_list("signed", hues, SHADES + 1)

    def bar(self, axes: Axes, shown: Any, unit: str = "") -> None:
        """The scale at the side of a picture."""
        figure = axes.get_figure()
        assert figure is not None
        ends = "both" if self.cut else "neither"
        bar = figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02, aspect=16, extend=ends)
        bar.outline.set_visible(False)
        bar.dividers.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=9)
        formatter: Any = bar.formatter
        formatter.set_powerlimits((-2, 3))
        bar.ax.yaxis.get_offset_text().set(fontsize=8.5, ha="left")
        if unit:
            bar.ax.set_title(unit, fontsize=9, loc="left", pad=14)
