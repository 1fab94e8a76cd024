"""Figures of a report: forests, scatter plots, residuals and reliability diagrams.

Series differ in shape as well as in colour, for readers who do not see the colours apart; the page's colours are those
of Okabe & Ito, without the yellow that white paper swallows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.formatting import NAMES, format_number, plural
from etude.reports.charts import MARKERS, Panel, Ticks, around
from etude.reports.svg import STAND_IN, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


MOST = 2000


def subsample(part: DataFrame, most: int = MOST) -> tuple[DataFrame, int]:
    """At most so many rows, drawn at random with a fixed seed and left in order; and how many are left out."""
    if len(part) <= most:
        return part, 0
    return part.sample(most, random_state=0).sort_index(), len(part) - most


GROUP_MARKERS = "osD^vPXh"
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
    part, _ = subsample(table[(table["split"] == split) & table[f"{name}.true"].notna()])
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
            marker = GROUP_MARKERS[i] if apart else "o"
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
            look: dict[str, Any] = {"marker": GROUP_MARKERS[i], "markersize": 4, "linewidth": 1.4}
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


MOST_ROWS, BARS = 12, 20


def against_truth(table: DataFrame, name: str, agreement: dict[str, Any]) -> str:
    """Residual over truth, with zero, the mean residual and both limits (Bland & Altman 1986); "" without numbers."""
    if not agreement:
        return ""
    part, _ = subsample(_known(table, name))
    x, error = part[f"{name}.true"].to_numpy(float), _residuals(part, name)
    lines = {key: agreement[key]["value"] for key in ("lower", "bias", "upper")}
    held = [value for value in lines.values() if value is not None]
    about = (
        f"Residuals of {name} against the truth: mean {format_number(lines['bias'], 3)}, limits of agreement "
        f"{format_number(lines['lower'], 3)} and {format_number(lines['upper'], 3)}."
    )
    y = around([*error, *held, 0.0])
    panel = Panel(around(x, 0.03), y, about, f"true {name}", "predicted minus true", (400, 260))
    panel.line(panel.x, [0, 0], "ink", width=1)
    panel.points(x, error, "network", radius=2.8)
    for key, value in lines.items():
        if value is not None:
            panel.line(panel.x, [value, value], "linear", "" if key == "bias" else "6 4", 1.4)
            title = {"bias": "mean", "lower": "lower limit", "upper": "upper limit"}[key]
            panel.words(panel.x[1], value, f"{title} {format_number(value, 3)}", "end", "linear")
    return panel.svg()


def by_group(table: DataFrame, name: str) -> tuple[str, str]:
    """Residuals of each group on a line of its own; a histogram where there are more groups than lines, or none.

    Returns:
        The drawing and its caption.
    """
    part, left = subsample(_known(table, name))
    if part.empty:
        return "", ""
    error = _residuals(part, name)
    groups = part["group"].astype(object).where(part["group"].notna(), "no group").astype(str).to_numpy()
    names = sorted(set(groups), key=lambda group: float(np.median(error[groups == group])))
    thinned = f" {left:,} more clips are left out of the picture, at random." if left else ""
    if not 1 < len(names) <= MOST_ROWS:
        counts, ends = np.histogram(_residuals(_known(table, name), name), BARS)
        first, last = format_number(float(ends[0]), 3), format_number(float(ends[-1]), 3)
        about = f"Histogram of residuals of {name}, from {first} to {last}."
        panel = Panel(
            around(ends, 0.02), (0, 1.08 * float(counts.max())), about, "predicted minus true", "clips", (400, 220)
        )
        for count, low, high in zip(counts, ends, ends[1:], strict=False):
            gap = 0.06 * (high - low)
            panel.bar((float(low + gap), float(high - gap)), (0, int(count)), "network", 0.85)
        panel.line([0, 0], panel.y, "ink", width=1)
        return panel.svg(), "Residuals of all test clips."
    about = f"Residuals of {name} by group: " + ", ".join(
        f"{group} median {format_number(float(np.median(error[groups == group])), 3)}" for group in names
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


SHARES: Ticks = [(0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1, "1")]


def reliability_diagram(name: str, calibration: dict[str, Any]) -> str:
    """Accuracy over confidence by bin, and below it how many clips each bin holds.

    Args:
        name: The target.
        calibration: Of metrics.json.

    Returns:
        Two drawings of one width; "" where there are no probabilities.
    """
    rows = [row for row in calibration.get("bins", []) if row["n"]]
    if not rows:
        return ""
    said = ", ".join(
        f"{format_number(row['confidence'])} sure: right {format_number(row['accuracy']['value'])}" for row in rows
    )
    panel = Panel(
        (0, 1), (0, 1), f"Reliability of {name}: {said}.", "", "accuracy of the bin", (340, 280), SHARES, SHARES
    )
    panel.line([0, 1], [0, 1], "muted", "5 4", 1.1)
    for row in rows:
        x, accuracy = row["confidence"], row["accuracy"]
        if accuracy["low"] is not None:
            panel.line([x, x], [accuracy["low"], accuracy["high"]], "network", width=1.4)
    panel.line([row["confidence"] for row in rows], [row["accuracy"]["value"] for row in rows], "network", width=1)
    panel.points([row["confidence"] for row in rows], [row["accuracy"]["value"] for row in rows], "network", radius=4)
    most = max(row["n"] for row in rows)
    about = "Clips in each bin: " + ", ".join(f"{row['from']:g} to {row['to']:g}: {row['n']}" for row in rows) + "."
    counts = Panel(
        (0, 1), (0, most * 1.25), about, "confidence: probability of the predicted class", "clips", (340, 130), SHARES
    )
    for row in rows:
        counts.bar((row["from"] + 0.006, row["to"] - 0.006), (0, row["n"]), "constant", 0.75)
        counts.words((row["from"] + row["to"]) / 2, row["n"], f"{row['n']:,}", role="ink", up=3)
    return panel.svg() + counts.svg()


def reliability_words(calibration: dict[str, Any], clips: int) -> str:
    """Whether the error is more than chance alone leaves."""
    error, chance = calibration["ece"]["value"], calibration["chance"]
    beyond = error > chance["high"]
    return (
        f"With {plural(clips, 'clip')} a perfectly calibrated network would show an expected calibration error of "
        f"{format_number(chance['mean'], 3)} by chance, and more than {format_number(chance['high'], 3)} once in "
        "twenty times: "
        f"{'this one is beyond that.' if beyond else 'no miscalibration is shown.'}"
    )
