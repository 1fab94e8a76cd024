"""What a report shows of one target, put in order for the template: no number is computed here but an error's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etude.results import figures, text
from etude.results.metrics import LOWER_IS_BETTER
from etude.results.verdict import caution, population, verdict

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
WORST = {"label": 10, "scalar": 6}
"""How many errors are listed; beside a scatter plot there is less room."""


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
        "worst": _confident_errors(table, name) if label else _largest_errors(table, name),
    }


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


def _confusion(counts: list[list[int]], classes: list[str]) -> dict[str, Any] | None:
    """Rows of (count, share of its row), and in words where most clips go astray."""
    if not counts:
        return None
    rows = [[(count, count / max(1, sum(row))) for count in row] for row in counts]
    pairs = [(counts[i][j], i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    most = max(pairs, default=(0, 0, 0), key=lambda pair: pair[0])
    hits = sum(counts[i][i] for i in range(len(classes)))
    words = f"{hits} of {sum(map(sum, counts))} clips are on the diagonal."
    if most[0]:
        count, i, j = most
        words += f" Most often {classes[i]} is taken for {classes[j]}: {count} of {sum(counts[i])}."
    return {"classes": classes, "rows": rows, "words": words}


def _confident_errors(table: DataFrame, name: str) -> dict[str, Any]:
    """Wrong test predictions that the network was surest of."""
    part = table[(table["split"] == "test") & table[f"{name}.true"].notna()]
    wrong = part[part[f"{name}.true"] != part[f"{name}.pred"]]
    columns = {c.removeprefix(f"{name}.score."): c for c in part.columns if c.startswith(f"{name}.score.")}
    if wrong.empty or not columns:
        return {"rows": [], "errors": len(wrong), "scored": bool(columns)}
    sure = [row[columns[row[f"{name}.pred"]]] for _, row in wrong.iterrows()]
    wrong = wrong.assign(_sure=sure).sort_values("_sure", ascending=False, kind="stable")
    return {"rows": _rows(wrong.head(WORST["label"]), name, "_sure"), "errors": len(wrong), "scored": True}


def _largest_errors(table: DataFrame, name: str) -> dict[str, Any]:
    part = table[(table["split"] == "test") & table[f"{name}.true"].notna()]
    part = part.assign(_error=part[f"{name}.pred"] - part[f"{name}.true"])
    part = part.sort_values("_error", key=abs, ascending=False, kind="stable")
    return {"rows": _rows(part.head(WORST["scalar"]), name, "_error"), "errors": len(part), "scored": True}


def _rows(part: DataFrame, name: str, by: str) -> list[list[Any]]:
    """Id, group (None when unknown), truth, prediction and what the clips are sorted by."""
    rows = part[["id", "group", f"{name}.true", f"{name}.pred", by]]
    return rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
