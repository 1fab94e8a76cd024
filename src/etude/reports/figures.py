"""Figures of a run report, such as scores, predictions, residuals and calibration.

Series differ in colour and in marker, for readers with colour vision deficiency. The colours are from Okabe & Ito.
Yellow is left out because it has too little contrast on white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation.formatting import NAMES, format_number, short_baseline_name
from etude.reports.charts import MARKERS, Panel, Ticks, padded_range
from etude.reports.svg import STAND_IN, draw_grid, draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


MAX_CLIPS = 2000  # clips in a figure


def subsample(table: DataFrame, n_max: int = MAX_CLIPS) -> tuple[DataFrame, int]:
    """Return at most `n_max` random rows in their original order, and the number of omitted rows. The seed is fixed."""
    if len(table) <= n_max:
        return table, 0
    return table.sample(n_max, random_state=0).sort_index(), len(table) - n_max


GROUP_MARKERS = "osD^vPXh"
MODEL_MARKERS = {"network": "o", "statistics": "s", "linear": "s", "shortcuts": "^", "constant": "D"}
MODEL_COLOURS = {"statistics": "linear", "shortcuts": "linear"}
"""Roles of colours that differ from the name of the model."""
MAX_MARKED_GROUPS = 8


def forest_plot(targets: dict[str, Any], split: str = "test") -> str:
    """Draw the primary score of each target with its interval, for the network and its baselines.

    Args:
        targets: The targets in metrics.json.
        split: `test` or `val`.

    Returns:
        SVG, or "" if there are no scores.
    """
    rows: list[tuple[str, str, dict[str, Any] | None]] = []  # label, role, score
    for name, target in targets.items():
        results = target["splits"][split]
        if not results["scores"]:
            continue
        rows.append((f"{name}: {NAMES[target['primary']]}, n = {results['n']}", "", None))
        rows.append(("network", "network", results["scores"][target["primary"]]))
        for role in ("statistics", "linear", "shortcuts", "constant"):
            if role in results["baselines"]:
                baseline = results["baselines"][role]
                score = baseline["scores"][target["primary"]]
                rows.append(
                    ("shortcuts" if role == "shortcuts" else short_baseline_name(baseline["name"]), role, score)
                )
    if not rows:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        heights = np.cumsum([0.0 if i == 0 else (1.0 if role else 1.5) for i, (_, role, _) in enumerate(rows)])
        transform = axes.get_yaxis_transform()  # x as a fraction of the axes, y in data coordinates
        background = {"facecolor": STAND_IN["paper"], "edgecolor": "none", "pad": 1.5}
        small: dict[str, Any] = {"color": STAND_IN["muted"], "fontsize": 10, "fontstyle": "italic"}
        for y, (label, role, score) in zip(heights, rows, strict=True):
            if score is None:
                axes.text(0.035, y, label, transform=transform, va="center", weight="bold", bbox=background)
                continue
            if score["value"] is None:
                text = "undefined: constant values"
                axes.text(0.035, y, text, transform=transform, va="center", bbox=background, **small)
                continue
            colour = STAND_IN[MODEL_COLOURS.get(role, role)]
            if score["low"] is not None:
                axes.plot([score["low"], score["high"]], [y, y], color=colour, linewidth=2)
            size = 7 if role == "network" else 5.5
            axes.plot(score["value"], y, MODEL_MARKERS[role], color=colour, markersize=size)
        axes.set_yticks(heights, [label if role else "" for label, role, _ in rows])
        axes.set_ylim(heights[-1] + 0.7, -0.7)
        low = min([0.0, *(score["low"] for _, _, score in rows if score and score["low"] is not None)])
        axes.set_xlim(1.05 * low - 0.02, 1.02)
        axes.axvline(0, color=STAND_IN["muted"], linewidth=0.8)
        draw_grid(axes, STAND_IN, "x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("score (no unit), 95 % interval")

    description = "Primary score of each target with its 95 % interval, for the network and its baselines."
    return draw_svg(draw, "forest", (5.4, 0.7 + 0.27 * len(rows)), description)


def scatter_plot(table: DataFrame, name: str, target: dict[str, Any], split: str = "test") -> str:
    """Draw the predictions of a scalar against its true values, with the identity line.

    Clips are marked by group if there are at most eight groups.

    Args:
        table: Content of predictions.parquet.
        name: Name of the target.
        target: Entry of the target in metrics.json.
        split: `test` or `val`.

    Returns:
        SVG, or "" if no clip has a true value.
    """
    clips, _ = subsample(table[(table["split"] == split) & table[f"{name}.true"].notna()])
    if clips.empty:
        return ""
    x, y = clips[f"{name}.true"].to_numpy(float), clips[f"{name}.pred"].to_numpy(float)
    groups = clips["group"].astype(object).where(clips["group"].notna(), "no group").astype(str).to_numpy()
    names = sorted(set(groups))
    by_group = 1 < len(names) <= MAX_MARKED_GROUPS

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        low = min(target.get("low", x.min()), x.min(), y.min())
        high = max(target.get("high", x.max()), x.max(), y.max())
        margin = 0.03 * ((high - low) or 1)
        bounds = (low - margin, high + margin)
        axes.plot(bounds, bounds, "--", color=STAND_IN["muted"], linewidth=1)
        for i, group in enumerate(names if by_group else [""]):
            mask = groups == group if by_group else np.ones(len(x), dtype=bool)
            colour = STAND_IN[f"group-{i + 1}"] if by_group else STAND_IN["network"]
            marker = GROUP_MARKERS[i] if by_group else "o"
            (points,) = axes.plot(x[mask], y[mask], marker, linestyle="", color=colour, label=shorten_label(group))
            points.set(markersize=5, markeredgewidth=0, alpha=0.9 if by_group else 0.55)
        axes.set(xlim=bounds, ylim=bounds, aspect="equal")
        unit = f" ({target['low']:g} to {target['high']:g})" if "low" in target and "high" in target else ""
        axes.set_xlabel(f"true {name}{unit}")
        axes.set_ylabel(f"predicted {name}{unit}")
        draw_grid(axes, STAND_IN)
        if by_group:
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

    description = f"Predicted against true {name} of {len(x)} clips, with the identity line."
    legend = 0.25 * ((len(names) + 1) // 2) if by_group else 0.0  # inches
    return draw_svg(draw, f"scatter-{name}", (4.2, 3.9 + legend), description)


def epoch_plot(name: str, epochs: list[int], series: dict[str, Any], ylabel: str, description: str) -> str:
    """Draw values over epochs as lines that differ in colour and marker.

    Args:
        name: Name of the drawing.
        epochs: Epochs (n,).
        series: Values (n,) of at most eight lines, by name.
        ylabel: Label of the values.
        description: Text alternative for readers who cannot see the figure.
    """

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        for i, (label, values) in enumerate(series.items()):
            style: dict[str, Any] = {"marker": GROUP_MARKERS[i], "markersize": 4, "linewidth": 1.4}
            axes.plot(epochs, values, color=STAND_IN[f"group-{i + 1}"], label=shorten_label(label), **style)
        if len(series) > 1:
            axes.legend(
                frameon=False, labelcolor=STAND_IN["ink"], fontsize=9.5, loc="upper left", bbox_to_anchor=(1, 1)
            )
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        draw_grid(axes, STAND_IN)

    return draw_svg(draw, name, (4.6 if len(series) > 1 else 3.9, 2.9), description)


def shorten_label(text: str, n_max: int = 18) -> str:
    """Return a label of at most `n_max` characters for matplotlib.

    A leading underscore is removed, because matplotlib hides labels that begin with it, and $ is escaped.
    """
    text = text if len(text) <= n_max else text[: n_max - 1] + "…"
    return text.lstrip("_").replace("$", r"\$")


MAX_GROUP_ROWS, HISTOGRAM_BINS = 12, 20


def residual_plot(table: DataFrame, name: str, agreement: dict[str, Any]) -> str:
    """Draw residuals against true values with their mean and the limits of agreement (Bland & Altman 1986).

    Args:
        table: Content of predictions.parquet.
        name: Name of a scalar target.
        agreement: Agreement of the target in metrics.json. If this is empty, the result is "".
    """
    if not agreement:
        return ""
    clips, _ = subsample(_labelled_test_clips(table, name))
    x, residuals = clips[f"{name}.true"].to_numpy(float), _residuals(clips, name)
    levels = {key: agreement[key]["value"] for key in ("lower", "bias", "upper")}
    defined = [value for value in levels.values() if value is not None]
    description = (
        f"Residuals of {name} against true values: mean {format_number(levels['bias'], 3)}, limits of agreement "
        f"{format_number(levels['lower'], 3)} and {format_number(levels['upper'], 3)}."
    )
    y = padded_range([*residuals, *defined, 0.0])
    panel = Panel(padded_range(x, 0.03), y, description, f"true {name}", "predicted minus true", (400, 260))
    panel.line(panel.x, [0, 0], "ink", width=1)
    panel.points(x, residuals, "network", radius=2.8)
    for key, value in levels.items():
        if value is not None:
            panel.line(panel.x, [value, value], "linear", "" if key == "bias" else "6 4", 1.4)
            title = {"bias": "mean", "lower": "lower limit", "upper": "upper limit"}[key]
            panel.text(panel.x[1], value, f"{title} {format_number(value, 3)}", "end", "linear")
    return panel.svg()


def group_residual_plot(table: DataFrame, name: str) -> tuple[str, str]:
    """Draw residuals with one row per group, or as a histogram if there are fewer than 2 or more than 12 groups.

    Args:
        table: Content of predictions.parquet.
        name: Name of a scalar target.

    Returns:
        SVG and caption. Both are "" if no test clip has a true value.
    """
    clips, n_omitted = subsample(_labelled_test_clips(table, name))
    if clips.empty:
        return "", ""
    residuals = _residuals(clips, name)
    groups = clips["group"].astype(object).where(clips["group"].notna(), "no group").astype(str).to_numpy()
    names = sorted(set(groups), key=lambda group: float(np.median(residuals[groups == group])))
    note = f" {n_omitted:,} more clips, selected at random, are omitted from the figure." if n_omitted else ""
    if not 1 < len(names) <= MAX_GROUP_ROWS:
        return _residual_histogram(table, name), "Residuals of all test clips."
    description = f"Residuals of {name} by group: " + ", ".join(
        f"{group} median {format_number(float(np.median(residuals[groups == group])), 3)}" for group in names
    )
    ticks = [(float(row), group if len(group) <= 20 else f"{group[:19]}…") for row, group in enumerate(names)]
    size = (400, 60 + 26 * len(names))
    panel = Panel(padded_range([*residuals, 0.0], 0.04), (-0.6, len(names) - 0.4), description + ".",
                  "predicted minus true", "", size, yticks=ticks, left=132)  # fmt: skip
    panel.line([0, 0], panel.y, "ink", width=1)
    for row, group in enumerate(names):
        in_group, style = residuals[groups == group], sorted(names).index(group)  # as in the scatter plot
        panel.points(in_group, np.full(len(in_group), row), f"group-{style % 8 + 1}", MARKERS[style % 8], 2.6)
        median = float(np.median(in_group))
        panel.line([median, median], [row - 0.36, row + 0.36], "ink", width=2)
    return panel.svg(), f"Residuals of test clips by group. Vertical lines are medians.{note}"


def _residual_histogram(table: DataFrame, name: str) -> str:
    """Return a histogram of the residuals of all test clips as SVG."""
    counts, edges = np.histogram(_residuals(_labelled_test_clips(table, name), name), HISTOGRAM_BINS)
    first, last = format_number(float(edges[0]), 3), format_number(float(edges[-1]), 3)
    description = f"Histogram of residuals of {name}, from {first} to {last}."
    y = (0, 1.08 * float(counts.max()))
    panel = Panel(padded_range(edges, 0.02), y, description, "predicted minus true", "clips", (400, 220))
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        gap = 0.06 * (high - low)
        panel.bar((float(low + gap), float(high - gap)), (0, int(count)), "network", 0.85)
    panel.line([0, 0], panel.y, "ink", width=1)
    return panel.svg()


def _labelled_test_clips(table: DataFrame, name: str) -> DataFrame:
    """Return the rows of test clips with a true value of a target."""
    return table[(table["split"] == "test") & table[f"{name}.true"].notna()]


def _residuals(clips: DataFrame, name: str) -> np.ndarray:
    """Return predicted minus true values of a scalar target (N,)."""
    return (clips[f"{name}.pred"] - clips[f"{name}.true"]).to_numpy(float)


UNIT_TICKS: Ticks = [(0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1, "1")]


def reliability_diagram(name: str, calibration: dict[str, Any]) -> str:
    """Draw the accuracy of each confidence bin, and below it the number of clips in each bin.

    Args:
        name: Name of a label target.
        calibration: Calibration of the label in metrics.json.

    Returns:
        Two drawings of equal width as SVG, or "" if there are no probabilities.
    """
    rows = [row for row in calibration.get("bins", []) if row["n"]]
    if not rows:
        return ""
    values = ", ".join(
        f"confidence {format_number(row['confidence'])} accuracy {format_number(row['accuracy']['value'])}"
        for row in rows
    )
    description = f"Reliability diagram of {name}: {values}."
    panel = Panel((0, 1), (0, 1), description, "", "accuracy of the bin", (340, 280), UNIT_TICKS, UNIT_TICKS)
    panel.line([0, 1], [0, 1], "muted", "5 4", 1.1)
    for row in rows:
        x, accuracy = row["confidence"], row["accuracy"]
        if accuracy["low"] is not None:
            panel.line([x, x], [accuracy["low"], accuracy["high"]], "network", width=1.4)
    panel.line([row["confidence"] for row in rows], [row["accuracy"]["value"] for row in rows], "network", width=1)
    panel.points([row["confidence"] for row in rows], [row["accuracy"]["value"] for row in rows], "network", radius=4)
    n_max = max(row["n"] for row in rows)
    sizes = ", ".join(f"{row['from']:g} to {row['to']:g}: {row['n']}" for row in rows)
    xlabel = "confidence: probability of the predicted class"
    counts = Panel((0, 1), (0, n_max * 1.25), f"Clips in each bin: {sizes}.", xlabel, "clips", (340, 130), UNIT_TICKS)
    for row in rows:
        counts.bar((row["from"] + 0.006, row["to"] - 0.006), (0, row["n"]), "constant", 0.75)
        counts.text((row["from"] + row["to"]) / 2, row["n"], f"{row['n']:,}", role="ink", up=3)
    return panel.svg() + counts.svg()


def describe_calibration(calibration: dict[str, Any], n_clips: int) -> str:
    """Compare the expected calibration error with its distribution under perfect calibration, in two sentences."""
    error, chance = calibration["ece"]["value"], calibration["chance"]
    exceeds = error > chance["high"]
    return (
        f"With {n_clips:,} independent clips, even a perfectly calibrated network has an expected calibration error "
        f"of {format_number(chance['mean'], 3)} on average, and of more than "
        f"{format_number(chance['high'], 3)} with a probability of 5 %. "
        f"{'The error of this network is larger.' if exceeds else 'This network shows no significant miscalibration.'}"
    )
