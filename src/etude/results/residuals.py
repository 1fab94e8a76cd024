"""Residuals of a scalar: against the truth with the limits of agreement, and by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.results.axis import MARKERS, around
from etude.results.panel import Panel
from etude.results.sample import sample
from etude.results.text import number

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_ROWS, BARS = 12, 20


def against_truth(table: DataFrame, name: str, agreement: dict[str, Any]) -> str:
    """Residual over truth, with zero, the mean residual and both limits (Bland & Altman 1986); "" without numbers."""
    if not agreement:
        return ""
    part, _ = sample(_known(table, name))
    x, error = part[f"{name}.true"].to_numpy(float), _residuals(part, name)
    lines = {key: agreement[key]["value"] for key in ("lower", "bias", "upper")}
    held = [value for value in lines.values() if value is not None]
    about = (
        f"Residuals of {name} against the truth: mean {number(lines['bias'], 3)}, limits of agreement "
        f"{number(lines['lower'], 3)} and {number(lines['upper'], 3)}."
    )
    y = around([*error, *held, 0.0])
    panel = Panel(around(x, 0.03), y, about, f"true {name}", "predicted minus true", (400, 260))
    panel.line(panel.x, [0, 0], "ink", width=1)
    panel.points(x, error, "network", radius=2.8)
    for key, value in lines.items():
        if value is not None:
            panel.line(panel.x, [value, value], "linear", "" if key == "bias" else "6 4", 1.4)
            title = {"bias": "mean", "lower": "lower limit", "upper": "upper limit"}[key]
            panel.words(panel.x[1], value, f"{title} {number(value, 3)}", "end", "linear")
    return panel.svg()


def by_group(table: DataFrame, name: str) -> tuple[str, str]:
    """Residuals of each group on a line of its own; a histogram where there are more groups than lines, or none.

    Returns:
        The drawing and its caption.
    """
    part, left = sample(_known(table, name))
    if part.empty:
        return "", ""
    error = _residuals(part, name)
    groups = part["group"].astype(object).where(part["group"].notna(), "no group").astype(str).to_numpy()
    names = sorted(set(groups), key=lambda group: float(np.median(error[groups == group])))
    thinned = f" {left:,} more clips are left out of the picture, at random." if left else ""
    if not 1 < len(names) <= MOST_ROWS:
        counts, ends = np.histogram(_residuals(_known(table, name), name), BARS)
        about = f"Histogram of residuals of {name}, from {number(float(ends[0]), 3)} to {number(float(ends[-1]), 3)}."
        panel = Panel(
            around(ends, 0.02), (0, 1.08 * float(counts.max())), about, "predicted minus true", "clips", (400, 220)
        )
        for count, low, high in zip(counts, ends, ends[1:], strict=False):
            gap = 0.06 * (high - low)
            panel.bar((float(low + gap), float(high - gap)), (0, int(count)), "network", 0.85)
        panel.line([0, 0], panel.y, "ink", width=1)
        return panel.svg(), "Residuals of all test clips."
    about = f"Residuals of {name} by group: " + ", ".join(
        f"{group} median {number(float(np.median(error[groups == group])), 3)}" for group in names
    )
    ticks = [(float(place), group if len(group) <= 20 else f"{group[:19]}…") for place, group in enumerate(names)]
    size = (400, 60 + 26 * len(names))
    panel = Panel(around([*error, 0.0], 0.04), (-0.6, len(names) - 0.4), about + ".", "predicted minus true", "",
                  size, yticks=ticks, left=132)  # fmt: skip
    panel.line([0, 0], panel.y, "ink", width=1)
    for place, group in enumerate(names):
        here, look = error[groups == group], sorted(names).index(group)  # as in the scatter plot
        panel.points(here, np.full(len(here), place), f"group-{look % 8 + 1}", MARKERS[look % 8], 2.6)
        middle = float(np.median(here))
        panel.line([middle, middle], [place - 0.36, place + 0.36], "ink", width=2)
    return panel.svg(), f"Residuals by group, one mark for each test clip; upright: the group’s median.{thinned}"


def _known(table: DataFrame, name: str) -> DataFrame:
    return table[(table["split"] == "test") & table[f"{name}.true"].notna()]


def _residuals(part: DataFrame, name: str) -> np.ndarray:
    return (part[f"{name}.pred"] - part[f"{name}.true"]).to_numpy(float)
