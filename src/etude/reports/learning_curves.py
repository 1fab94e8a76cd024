"""Learning curves of a run.

Panels share one legend: what is trained on is dashed with squares, what it is judged on is a line with circles, and the
epoch whose weights made the predictions is dotted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import NAMES, capital, format_number
from etude.reports.charts import Panel, around

if TYPE_CHECKING:
    from pandas import DataFrame, Series


TRAIN, VAL = ("constant", "5 3", "s"), ("network", "", "o")
MANY = 40  # points, above which the line says it all
MOST_RATES = 6

Drawn = list[tuple[str, str]]


def panels(log: DataFrame, best: int | None, monitor: str | None = None) -> dict[str, Any]:
    """Draw curves.csv.

    Args:
        log: A row per logged step; most cells are empty. Columns epoch, step, train/loss, val/{target}/{metric}, lr ...
        best: Epoch whose weights made the predictions, marked in each panel.
        monitor: Column by which it was chosen.

    Returns:
        `panels`, (title, svg) of each; `legend`, which of train, val and best are seen; `words`, sentences
        about what was logged and needs no drawing. All empty when nothing was logged.
    """
    epochs = log.groupby("epoch").mean(numeric_only=True) if "epoch" in log else log.iloc[:0]
    series = {str(c): epochs[c].dropna() for c in epochs.columns if str(c) != "step" and epochs[c].notna().any()}
    losses, scores = _losses(series, best), _scores(series, best, monitor)
    weights, words = _weights(series, best)
    rates, more = _rates(log, series, best)
    found = [*losses, *scores, *weights, *rates]
    sides = [side for side in ("train", "val") if any(name.startswith(f"{side}/") for name in series)]
    marked = best is not None and any(best in values.index for values in series.values())
    return {"panels": found, "legend": sides + ["best"] * marked if found else [], "words": [*words, *more]}


def _losses(series: dict[str, Series[float]], best: int | None) -> Drawn:
    names = [n for n in dict.fromkeys(n.split("/", 1)[1] for n in series if "/" in n) if n.split("/")[-1] == "loss"]
    if len(names) == 2:  # a single target: its loss is the whole
        names = [name for name in names if name == "loss"]
    drawn = []
    for name in sorted(names, key=lambda name: name != "loss"):
        lines = [(series[f"{side}/{name}"], look) for side, look in (("train", TRAIN), ("val", VAL))
                 if f"{side}/{name}" in series]  # fmt: skip
        title = "loss" if name == "loss" else f"loss of {name.removesuffix('/loss')}"
        drawn.append((title, _panel(lines, best, f"{title} (no unit)")))
    return drawn


def _scores(series: dict[str, Series[float]], best: int | None, monitor: str | None) -> Drawn:
    names = [n for n in series if n.startswith("val/") and n.split("/")[-1] != "loss"]
    if monitor in series and monitor not in names and not str(monitor).endswith("loss"):
        names.append(str(monitor))
    if len([name for name in names if name != "val/score"]) == 1:  # their mean is itself
        names = [name for name in names if name != "val/score" or len(names) == 1]
    drawn = []
    for name in sorted(names, key=lambda name: name != "val/score"):
        *target, metric = name.split("/")[1:]
        words = "mean of the leading scores" if name == "val/score" else NAMES.get(metric, metric)
        title = f"{words} of {'/'.join(target)}" if target else words
        drawn.append((f"{title}, validation", _panel([(series[name], VAL)], best, f"{title} on validation")))
    return drawn


def _weights(series: dict[str, Series[float]], best: int | None) -> tuple[Drawn, list[str]]:
    weights = {n.split("/")[1]: v for n, v in series.items() if n.startswith("train/") and n.endswith("/weight")}
    if weights and all(values.nunique() == 1 for values in weights.values()):
        said = ", ".join(f"{name} {format_number(float(values.iloc[0]))}" for name, values in weights.items())
        return [], [f"The weights of the targets’ losses were the same throughout: {said}."]
    ends = around([value for values in weights.values() for value in values])  # on one scale, because they share a sum
    return [
        (f"weight of {name}’s loss", _panel([(v, TRAIN)], best, f"weight of {name}’s loss (no unit)", ends))
        for name, v in weights.items()
    ], []


def _rates(log: DataFrame, series: dict[str, Series[float]], best: int | None) -> tuple[Drawn, list[str]]:
    names = [str(c) for c in log.columns if str(c) == "lr" or str(c).startswith(("lr/", "lr-"))]
    drawn = []
    for name in names[:MOST_RATES]:
        title = "learning rate" if name == "lr" else f"learning rate of group {name[3:]}"
        if name in series:
            drawn.append((title, _panel([(series[name], TRAIN)], best, title)))
        elif "step" in log and log[name].notna().any():  # logged apart from the epochs
            values = log.set_index("step")[name].dropna()
            drawn.append((title, _panel([(values, TRAIN)], None, title, xlabel="step")))
    left = len(names) - MOST_RATES
    return drawn, [f"{left} more groups of weights have rates of their own; curves.csv has them."] if left > 0 else []


def _panel(
    lines: list[tuple[Series[float], tuple[str, str, str]]],
    best: int | None,
    what: str,
    ends: tuple[float, float] | None = None,
    xlabel: str = "epoch",
) -> str:
    """One panel, its lines in order, the later in front."""
    steps = [float(step) for values, _ in lines for step in values.index]
    y = ends or around([float(value) for values, _ in lines for value in values])
    last = lines[-1][0]
    first_value, last_value = format_number(float(last.iloc[0]), 3), format_number(float(last.iloc[-1]), 3)
    about = f"{capital(what)} by {xlabel}, from {first_value} to {last_value}"
    about += f"; the weights are of epoch {best}." if best is not None else "."
    panel = Panel(around(steps, 0.03), y, about, xlabel, "", (300, 178), whole=True)
    if best is not None and min(steps) <= best <= max(steps):
        panel.line([best, best], y, "muted", "1.5 3", 1.2)
    for values, (role, dash, shape) in lines:
        xs, ys = [float(step) for step in values.index], [float(value) for value in values]
        panel.line(xs, ys, role, dash)
        if len(xs) <= MANY:
            panel.points(xs, ys, role, shape, 2.4)
    return panel.svg()
