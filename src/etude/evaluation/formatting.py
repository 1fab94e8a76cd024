"""Numbers, intervals and durations as text."""

from __future__ import annotations

import math

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
"""What a metric is called in print."""
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
"""Metrics of a target in the order of a report, by kind. Micro scores equal accuracy for single labels."""

UNDEFINED = "undefined"


def number(value: float | None, digits: int = 2) -> str:
    """A number with a real minus sign; fewer decimals from 1 on, up to two more where it would be printed as zero."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    size = abs(value)
    if size >= 1:
        digits = min(digits, 2 if size < 10 else 1 if size < 100 else 0)
    else:
        digits = next((d for d in range(digits, digits + 3) if round(size, d)), digits)
    return f"{value:z.{digits}f}".replace("-", "−")  # z: a zero has no sign


def ends(score: dict[str, float | None], digits: int = 2) -> str:
    """The interval as "[0.48, 0.80]", or "" where there is none."""
    if score["low"] is None or score["high"] is None:
        return ""
    return f"[{number(score['low'], digits)}, {number(score['high'], digits)}]"


def span(score: dict[str, float | None], digits: int = 2) -> str:
    """A score with its interval: "0.62 [0.48, 0.80]"."""
    return f"{number(score['value'], digits)} {ends(score, digits)}".rstrip()


def excludes_zero(score: dict[str, float | None]) -> int:
    """1 when the interval lies above zero, -1 below it, 0 when it holds zero or is not there."""
    low, high = score["low"], score["high"]
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


def plural(count: int, noun: str) -> str:
    """A counted noun: "1 clip", "42 clips", "1,234 clips"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def capital(text: str) -> str:
    """The text with its first letter in upper case and all others as they are ("MSE of ..." stays so)."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """A note as a sentence: capital first, one full stop at its end."""
    return capital(text.strip().rstrip(".")) + "."


def duration(seconds: float | None) -> str:
    """Seconds as "41 s", "8 min 33 s" or "2 h 05 min"."""
    if not isinstance(seconds, int | float):  # a template may have an undefined value
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
