"""What a report shows of one target, put in order for the template: no number is computed here but an error's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etude.results import figures, reliability, residuals, text
from etude.results.metrics import LOWER_IS_BETTER
from etude.results.verdict import caution, population, verdict
from etude.results.worst import worst

if TYPE_CHECKING:
    from pandas import DataFrame

ROWS = {
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
"""Order of a report's metrics. Micro scores equal accuracy for single labels, and are named in its row."""
CALIBRATION = {"nll": "Negative log-likelihood (nats)", "brier": "Brier score (0 to 2)",
               "ece": "Expected calibration error (10 equal bins)"}  # fmt: skip
AGREEMENT = {"bias": "Mean residual", "sd": "Standard deviation of residuals",
             "lower": "Lower limit of agreement", "upper": "Upper limit of agreement"}  # fmt: skip


def section(name: str, target: dict[str, Any], table: DataFrame, disjoint: bool) -> dict[str, Any]:
    """All that the page shows of one target."""
    test = target["splits"]["test"]
    label = target["kind"] == "label"
    words, evidence = verdict(target, disjoint=disjoint)
    return {
        "name": name,
        "kind": target["kind"],
        "note": target["note"],
        "words": words,
        "evidence": evidence,
        "caution": caution(test),
        "lead": text.NAMES[target["primary"]],
        "score": test["scores"].get(target["primary"]),
        "parts": {split: _part(target, split, disjoint) for split in ("test", "val")},
        "per_class": test.get("per_class", []),
        "confusion": _confusion(test.get("confusion", []), target.get("classes", [])),
        "scatter": "" if label else figures.scatter(table, name, target),
        "worst": worst(table, name, target["kind"]),
        "calibration": _calibration(name, test) if label else None,
        "residuals": None if label else _residuals(table, name, test),
    }


def _calibration(name: str, test: dict[str, Any]) -> dict[str, Any]:
    """Three numbers, the diagram, and how much of the error chance explains; `why` stands in for what is not there."""
    found = test.get("calibration") or {}
    if not found:
        why = "" if "calibration" in test else " This run was measured before they were judged: rebuild the report."
        return {"why": "There are no probabilities to judge." if not why else why.strip()}
    rows = [(title, found[key]) for key, title in CALIBRATION.items()]
    return {"rows": rows, "svg": reliability.diagram(name, found), "words": reliability.words(found, test["n"]),
            "bins": [row for row in found["bins"] if row["n"]], "why": ""}  # fmt: skip


def _residuals(table: DataFrame, name: str, test: dict[str, Any]) -> dict[str, Any]:
    """Bias and limits of agreement, with both pictures."""
    found = test.get("agreement") or {}
    spread, caption = residuals.by_group(table, name)
    return {"rows": [(title, found[key]) for key, title in AGREEMENT.items() if key in found],
            "truth": residuals.against_truth(table, name, found), "spread": spread, "caption": caption}  # fmt: skip


def _part(target: dict[str, Any], split: str, disjoint: bool) -> dict[str, Any]:
    """One table of metrics: a row per metric, network and baselines side by side."""
    part = target["splits"][split]
    rows = []
    for metric in ROWS[target["kind"]] if part["scores"] else ():
        title = text.NAMES[metric] + (" (= micro precision, recall, F1)" if metric == "accuracy" else "")
        error = metric in LOWER_IS_BETTER
        others = [(b["scores"][metric], b["difference"][metric]) for b in part["baselines"].values()]
        row = {"title": title, "score": part["scores"][metric], "others": others}
        rows.append(row | {"digits": 3 if error else 2, "sign": -1 if error else 1})
    names = [baseline["name"] for baseline in part["baselines"].values()]
    return {
        **part,
        "rows": rows,
        "baselines": names,
        "population": population(part, disjoint),
    }


MOST_CLASSES, MOST_PAIRS = 60, 50  # a matrix of 500 classes has 250,000 cells, which no browser shows in time


def _confusion(counts: list[list[int]], classes: list[str]) -> dict[str, Any] | None:
    """Rows of (count, share of its row), and in words where most clips go astray.

    Of many classes there are no rows but `pairs`, the most frequent confusions, and `kinds`, how many there are.
    """
    if not counts:
        return None
    pairs = [(counts[i][j], i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    most = max(pairs, default=(0, 0, 0), key=lambda pair: pair[0])
    hits = sum(counts[i][i] for i in range(len(classes)))
    words = f"{hits} of {sum(map(sum, counts))} clips are on the diagonal."
    if most[0]:
        count, i, j = most
        words += f" Most often {classes[i]} is taken for {classes[j]}: {count} of {sum(counts[i])}."
    if len(classes) > MOST_CLASSES:
        wrong = sorted((pair for pair in pairs if pair[0]), key=lambda pair: -pair[0])
        shown = [(classes[i], classes[j], count, count / sum(counts[i])) for count, i, j in wrong[:MOST_PAIRS]]
        return {"classes": classes, "rows": [], "words": words, "pairs": shown, "kinds": len(wrong)}
    rows = [[(count, count / max(1, sum(row))) for count in row] for row in counts]
    return {"classes": classes, "rows": rows, "words": words, "pairs": [], "kinds": 0}
