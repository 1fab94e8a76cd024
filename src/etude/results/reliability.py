"""The reliability diagram of a label: how often a network is right that says it is so and so sure."""

from __future__ import annotations

from typing import Any

from etude.results.axis import Ticks
from etude.results.panel import Panel
from etude.results.text import number, plural

SHARES: Ticks = [(0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1, "1")]


def diagram(name: str, calibration: dict[str, Any]) -> str:
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
    said = ", ".join(f"{number(row['confidence'])} sure: right {number(row['accuracy']['value'])}" for row in rows)
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


def words(calibration: dict[str, Any], clips: int) -> str:
    """Whether the error is more than chance alone leaves."""
    error, chance = calibration["ece"]["value"], calibration["chance"]
    beyond = error > chance["high"]
    return (
        f"With {plural(clips, 'clip')} a perfectly calibrated network would show an expected calibration error of "
        f"{number(chance['mean'], 3)} by chance, and more than {number(chance['high'], 3)} once in twenty times: "
        f"{'this one is beyond that.' if beyond else 'no miscalibration is shown.'}"
    )
