"""The runs of each target as points with their intervals, one under another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.results.comparison.cell import Labels
from etude.results.comparison.run import Run
from etude.results.comparison.scores import number, tidy
from etude.results.figures import short
from etude.results.svg import STAND_IN, svg
from etude.results.text import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 40  # runs in one picture


def forests(runs: Sequence[Run], names: Mapping[Path, str], part: str, metrics: Labels = ()) -> list[dict[str, Any]]:
    """One picture per target.

    Args:
        runs: Runs in any state.
        names: Their titles.
        part: test or val.
        metrics: A single metric is drawn; otherwise the one that leads each target.

    Returns:
        SVG, and how many runs were left out, of each target that has scores.
    """
    frame = tidy(runs, part, metrics if len(metrics) == 1 else ())
    scores = [row for row in frame.to_dict("records") if number(row["value"]) is not None]
    found = []
    for i, target in enumerate(dict.fromkeys(row["target"] for row in scores)):
        here = [row for row in scores if row["target"] == target]
        drawing = _forest(here[:MOST], names, f"compare-{i}", f"{target}: {NAMES[here[0]['metric']]}")
        found.append({"svg": drawing, "left_out": max(0, len(here) - MOST)})
    return found


def _forest(scores: list[dict[Any, Any]], names: Mapping[Path, str], name: str, title: str) -> str:
    linear = {round(value, 6) for row in scores if (value := number(row["linear"])) is not None}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for y, row in enumerate(scores):
            low, high = number(row["low"]), number(row["high"])
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=STAND_IN["network"], linewidth=2)
            axes.plot(row["value"], y, "o", color=STAND_IN["network"], markersize=6.5)
        if len(linear) == 1:
            axes.axvline(linear.pop(), color=STAND_IN["linear"], linestyle="--", linewidth=1.4)
        axes.set_yticks(range(len(scores)), [short(names[Path(row["folder"])], 30) for row in scores])
        axes.set_ylim(len(scores) - 0.4, -0.6)
        axes.grid(axis="x", color=STAND_IN["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{title} (no unit), 95 % interval".replace("$", r"\$"))

    about = f"{title} of {len(scores)} runs with 95 % intervals; the numbers are in the tables."
    return svg(draw, name, (5.6, 0.7 + 0.27 * len(scores)), about)
