"""Report page of one run.

The page is a file of its own: styles, figures and numbers are inside it, and it asks nothing of any network. Test is
what it headlines; validation is folded away, and called optimistic where it chose the weights. Every string of the run
is escaped by the template; only the figures and the card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation import formatting
from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.metrics import LOWER_IS_BETTER
from etude.evaluation.predictions import find_worst_errors
from etude.evaluation.verdict import caution, population, verdict
from etude.files.atomic import write_text
from etude.reports import embedding_thumbnail, figures, html, learning_curves, worst_errors
from etude.reports.html import load_template
from etude.runs.folder import RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame

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
        "lead": formatting.NAMES[target["primary"]],
        "score": test["scores"].get(target["primary"]),
        "parts": {split: _part(target, split, disjoint) for split in ("test", "val")},
        "per_class": test.get("per_class", []),
        "confusion": _confusion(test.get("confusion", []), target.get("classes", [])),
        "scatter": "" if label else figures.scatter(table, name, target),
        "worst": find_worst_errors(table, name, target["kind"]),
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
    words = figures.reliability_words(found, test["n"])
    bins = [row for row in found["bins"] if row["n"]]
    return {"rows": rows, "svg": figures.reliability_diagram(name, found), "words": words, "bins": bins, "why": ""}


def _residuals(table: DataFrame, name: str, test: dict[str, Any]) -> dict[str, Any]:
    """Bias and limits of agreement, with both pictures."""
    found = test.get("agreement") or {}
    spread, caption = figures.by_group(table, name)
    return {"rows": [(title, found[key]) for key, title in AGREEMENT.items() if key in found],
            "truth": figures.against_truth(table, name, found), "spread": spread, "caption": caption}  # fmt: skip


def _part(target: dict[str, Any], split: str, disjoint: bool) -> dict[str, Any]:
    """One table of metrics: a row per metric, network and baselines side by side."""
    part = target["splits"][split]
    rows = []
    for metric in formatting.METRIC_ORDER[target["kind"]] if part["scores"] else ():
        title = formatting.NAMES[metric] + (" (= micro precision, recall, F1)" if metric == "accuracy" else "")
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


def write_report(run: RunFolder) -> Path:
    """Write report.html of a run folder from its table, record, metrics, curves and config. Returns its path.

    Raises:
        UserError: A file is damaged, or the folder has no metrics.json yet, which `write_metrics` makes.
    """
    record, metrics = run.record, run.metrics
    table = run.predictions
    disjoint = bool(record.get("data", {}).get("disjoint", False))
    sections = [section(name, target, table, disjoint) for name, target in metrics["targets"].items()]
    model, data = record.get("model", {}), record.get("data", {})
    kept = run.read_worst_errors()
    parts: dict[str, Any] = {
        "record": record,
        "metrics": metrics,
        "model": model,
        "sections": sections,
        "forest": figures.forest(metrics["targets"]),
        "curves": learning_curves.panels(
            run.read_curves(), model.get("best_epoch"), model.get("monitor") or "val/score"
        ),
        "latent": embedding_thumbnail.embedding_maps(table, metrics["targets"], pooled=bool(data.get("pooled"))),
        "card": html.markdown_to_html(data.get("card", "")),
        "config": run.read_config_text(),
        "whole": _whole(record),
        "kept": kept,
        "stops": worst_errors.stops(),
        "few": FEW_GROUPS,
    }
    page = load_template("report.html.j2")
    room = worst_errors.PAGE - len(page.render(parts | {"left": {}}).encode())
    left = worst_errors.cards(run, kept, sections, room)
    return write_text(run.report_path, page.render(parts | {"left": left}))


def _whole(record: dict[str, Any]) -> str:
    """record.json without the card, which the page shows by itself."""
    data = {key: value for key, value in record.get("data", {}).items() if key != "card"}
    return json.dumps(record | {"data": data}, indent=1, ensure_ascii=False)
