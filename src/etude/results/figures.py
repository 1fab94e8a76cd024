"""The figures of a report: scores with intervals, predictions against truths.

Series differ in shape as well as in colour, for readers who do not see the colours apart; the page's colours are those
of Okabe & Ito, without the yellow that white paper swallows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.results.sample import sample
from etude.results.svg import STAND_IN, svg
from etude.results.text import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

MARKERS = "osD^vPXh"
POINT = {"network": "o", "linear": "s", "constant": "D"}
MOST_GROUPS = 8


def forest(targets: dict[str, Any], split: str = "test") -> str:
    """Leading score of each target with its interval: the network above its baselines. "" when nothing was scored."""
    rows: list[tuple[str, str, dict[str, Any] | None]] = []  # label, role, score
    for name, target in targets.items():
        part = target["splits"][split]
        if not part["scores"]:
            continue
        rows.append((f"{name}: {NAMES[target['primary']]}, n = {part['n']}", "", None))
        rows.append(("network", "network", part["scores"][target["primary"]]))
        for role in ("linear", "constant"):
            if role in part["baselines"]:
                baseline = part["baselines"][role]
                score = baseline["scores"][target["primary"]]
                rows.append(({"linear": "linear model"}.get(role, baseline["name"]), role, score))
    if not rows:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        heights = np.cumsum([0.0 if i == 0 else (1.0 if role else 1.5) for i, (_, role, _) in enumerate(rows)])
        across = axes.get_yaxis_transform()  # x in fractions of the axes, y in rows
        halo = {"facecolor": STAND_IN["paper"], "edgecolor": "none", "pad": 1.5}
        small: dict[str, Any] = {"color": STAND_IN["muted"], "fontsize": 10, "fontstyle": "italic"}
        for y, (label, role, score) in zip(heights, rows, strict=True):
            if score is None:
                axes.text(0.035, y, label, transform=across, va="center", weight="bold", bbox=halo)
                continue
            if score["value"] is None:
                axes.text(
                    0.035, y, "undefined: one value orders nothing", transform=across, va="center", bbox=halo, **small
                )
                continue
            if score["low"] is not None:
                axes.plot([score["low"], score["high"]], [y, y], color=STAND_IN[role], linewidth=2)
            axes.plot(score["value"], y, POINT[role], color=STAND_IN[role], markersize=7 if role == "network" else 5.5)
        axes.set_yticks(heights, [label if role else "" for label, role, _ in rows])
        axes.set_ylim(heights[-1] + 0.7, -0.7)
        low = min([0.0, *(score["low"] for _, _, score in rows if score and score["low"] is not None)])
        axes.set_xlim(1.05 * low - 0.02, 1.02)
        axes.axvline(0, color=STAND_IN["muted"], linewidth=0.8)
        axes.grid(axis="x", color=STAND_IN["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("score (no unit), 95 % interval")

    about = "Leading score of each target with its 95 % interval, network above its baselines; the numbers are below."
    return svg(draw, "forest", (5.4, 0.7 + 0.27 * len(rows)), about)


def scatter(table: DataFrame, name: str, target: dict[str, Any], split: str = "test") -> str:
    """Prediction against truth of a scalar, with the line where both are equal; marked by group when there are few."""
    part, _ = sample(table[(table["split"] == split) & table[f"{name}.true"].notna()])
    if part.empty:
        return ""
    x, y = part[f"{name}.true"].to_numpy(float), part[f"{name}.pred"].to_numpy(float)
    groups = part["group"].astype(object).where(part["group"].notna(), "no group").astype(str).to_numpy()
    names = sorted(set(groups))
    apart = 1 < len(names) <= MOST_GROUPS

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        low = min(target.get("low", x.min()), x.min(), y.min())
        high = max(target.get("high", x.max()), x.max(), y.max())
        margin = 0.03 * ((high - low) or 1)
        bounds = (low - margin, high + margin)
        axes.plot(bounds, bounds, "--", color=STAND_IN["muted"], linewidth=1)
        for i, group in enumerate(names if apart else [""]):
            here = groups == group if apart else np.ones(len(x), dtype=bool)
            colour = STAND_IN[f"group-{i + 1}"] if apart else STAND_IN["network"]
            marker = MARKERS[i] if apart else "o"
            (points,) = axes.plot(x[here], y[here], marker, linestyle="", color=colour, label=short(group))
            points.set(markersize=5, markeredgewidth=0, alpha=0.9 if apart else 0.55)
        axes.set(xlim=bounds, ylim=bounds, aspect="equal")
        unit = f" ({target['low']:g} to {target['high']:g})" if "low" in target and "high" in target else ""
        axes.set_xlabel(f"true {name}{unit}")
        axes.set_ylabel(f"predicted {name}{unit}")
        _grid(axes)
        if apart:
            axes.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, -0.17),
                ncols=2,
                frameon=False,
                labelcolor=STAND_IN["ink"],
                handletextpad=0.2,
                columnspacing=1.2,
                fontsize=10,
            )

    about = f"Predicted against true {name} of {len(x)} clips, with the line where both are equal."
    legend = 0.25 * ((len(names) + 1) // 2) if apart else 0.0  # inches
    return svg(draw, f"scatter-{name}", (4.2, 3.9 + legend), about)


def by_epoch(name: str, epochs: list[int], series: dict[str, Any], ylabel: str, about: str) -> str:
    """Lines over epochs, told apart by colour and marker.

    Args:
        name: Of the drawing.
        epochs: Where the values are (n,).
        series: Values (n,) by the name of their line, eight lines at most.
        ylabel: What they are.
        about: What the drawing shows, for those who do not see it.
    """

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        for i, (label, values) in enumerate(series.items()):
            look: dict[str, Any] = {"marker": MARKERS[i], "markersize": 4, "linewidth": 1.4}
            axes.plot(epochs, values, color=STAND_IN[f"group-{i + 1}"], label=short(label), **look)
        if len(series) > 1:
            axes.legend(
                frameon=False, labelcolor=STAND_IN["ink"], fontsize=9.5, loc="upper left", bbox_to_anchor=(1, 1)
            )
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        _grid(axes)

    return svg(draw, name, (4.6 if len(series) > 1 else 3.9, 2.9), about)


def _grid(axes: Axes) -> None:
    axes.grid(color=STAND_IN["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def short(text: str, most: int = 18) -> str:
    """A name that fits a figure; matplotlib hides labels that begin with an underscore and reads $ as mathematics."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text.lstrip("_").replace("$", r"\$")
