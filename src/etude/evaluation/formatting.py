"""Numbers, intervals, durations and commands as text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

NAMES = {
    "accuracy": "accuracy",
    "spearman": "Spearman ρ",
    "pearson": "Pearson r",
    "ccc": "Lin’s CCC",
    "mse": "MSE",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
} | {
    f"{average}_{score}": f"{average}-F1" if score == "f1" else f"{average} {score}"
    for average in ("macro", "micro", "weighted")
    for score in ("precision", "recall", "f1")
}
"""Printed names of metrics. `register_metrics` adds those of functions that configs name."""
BUILT_IN = frozenset((*NAMES, "nll", "brier", "ece", "bias", "sd", "lower", "upper"))
"""Names that no metric of a config may have."""
LOWER_IS_BETTER = {"mse", "mae", "rmse"}
"""Metrics of which a lower value is better, also those of configs."""
MAX_TITLE = 60  # characters of a printed name
METRIC_ORDER = {
    "label": [
        "macro_f1",
        "macro_precision",
        "macro_recall",
        "accuracy",
        "weighted_f1",
        "weighted_precision",
        "weighted_recall",
    ],
    "scalar": ["spearman", "pearson", "ccc", "r2", "mse", "mae", "rmse"],
}
"""Order of metrics in a report by kind of target. Micro scores of single labels are equal to accuracy."""

BASELINES = {
    "constant": {"label": "majority class", "scalar": "training mean"},
    "linear": dict.fromkeys(("label", "scalar"), "linear model on mel statistics"),
    "statistics": dict.fromkeys(("label", "scalar"), "linear model or SVM on mel and chroma statistics"),
    "shortcuts": dict.fromkeys(("label", "scalar"), "linear model or SVM on level, bandwidth, length and silence"),
}
"""Names of the baselines by kind of target, if the record has none. Runs of earlier versions have `linear`."""

UNDEFINED = "undefined"


def register_metrics(targets: Mapping[str, Any]) -> None:
    """Add the metrics of functions that a run's config named to `NAMES` and `LOWER_IS_BETTER`.

    A metric whose title is the printed name of another one is also printed with its own name.

    Args:
        targets: Targets of metrics.json, whose structure is not checked.
    """
    for target in targets.values():
        metrics = target.get("metrics") if isinstance(target, Mapping) else None
        for name, node in metrics.items() if isinstance(metrics, Mapping) else ():
            if name in BUILT_IN or not isinstance(node, Mapping):
                continue
            title = printable(node.get("title") or metric_title(name))[:MAX_TITLE]
            if title in (printed for other, printed in NAMES.items() if other != name):
                title = f"{title} ({printable(name)})"
            NAMES[name] = title
            (LOWER_IS_BETTER.add if node.get("lower_is_better") is True else LOWER_IS_BETTER.discard)(name)


def metric_title(name: object) -> str:
    """Return the printed name of a metric without a title, such as "cohen kappa score" of `cohen_kappa_score`."""
    return str(name).replace("_", " ").strip() or str(name)


def describe_left_out(targets: Mapping[str, Any]) -> str:
    """Return which metrics of functions are left out of metrics.json and why, in one line, or ""."""
    left_out = [item for target in targets.values() for item in (target.get("left_out") or {}).items()]
    reasons = "; ".join(dict.fromkeys(str(reason) for _, reason in left_out))
    names = ", ".join(dict.fromkeys(metric for metric, _ in left_out))
    return f"without the metrics {names}: {reasons}" if left_out else ""


def short_baseline_name(name: str) -> str:
    """Return the name of a baseline without its features, such as "RBF SVM" of "RBF SVM on mel statistics"."""
    return name.split(" on ", 1)[0]


def format_number(value: float | None, digits: int = 2) -> str:
    """Format a number with a typographic minus sign.

    A number of 1 or more has fewer decimals. A number that would be printed as zero has up to two more.
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    size = abs(value)
    if size >= 1:
        digits = min(digits, 2 if size < 10 else 1 if size < 100 else 0)
    else:
        digits = next((d for d in range(digits, digits + 3) if round(size, d)), digits)
    return f"{value:z.{digits}f}".replace("-", "−")  # z: a zero has no sign


def format_interval(score: dict[str, float | None], digits: int = 2) -> str:
    """Format an interval as "[0.48, 0.80]". A missing interval is ""."""
    if score["low"] is None or score["high"] is None:
        return ""
    return f"[{format_number(score['low'], digits)}, {format_number(score['high'], digits)}]"


def format_score(score: dict[str, float | None], digits: int = 2) -> str:
    """Format a score with its interval as "0.62 [0.48, 0.80]"."""
    return f"{format_number(score['value'], digits)} {format_interval(score, digits)}".rstrip()


def excludes_zero(score: dict[str, float | None]) -> int:
    """Return 1 for an interval above zero, -1 below zero, and 0 if it contains zero or is missing."""
    low, high = score["low"], score["high"]
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun, such as "1 clip" or "1,234 clips"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def capitalise_first(text: str) -> str:
    """Return a text with its first letter in upper case and the others unchanged, such as "MSE of ..."."""
    return text[:1].upper() + text[1:]


def format_sentence(text: str) -> str:
    """Return a text with a capital first letter and one full stop at its end."""
    return capitalise_first(text.strip().rstrip(".")) + "."


def format_duration(seconds: float | None) -> str:
    """Format seconds as "41 s", "8 min 33 s" or "2 h 05 min"."""
    if not isinstance(seconds, int | float):  # a template may have an undefined value
        return "unknown"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s" if seconds >= 10 else f"{seconds:.1f} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def printable(value: object) -> str:
    """Return a value as text in one line, with a replacement character for each terminal control character."""
    return "".join(c if c.isprintable() else "�" for c in str(value))


def probe_command(command: str) -> str:
    """Return the command that trains linear probes on the data and the task of the command of a run."""
    try:
        words = shlex.split(command)
    except ValueError:  # damaged record
        words = []
    program = [*takewhile(lambda word: "=" not in word and not word.startswith("-"), words)] or ["python", "train.py"]
    kept = [
        word for word in words if word.startswith(("data=", "data.source.", "data.targets", "data.packs=", "task="))
    ]
    return shlex.join([*program, "experiment=small", *kept])
