"""A run folder to one page that says what was found, on what, and how sure one can be.

The page is a file of its own: styles, figures and numbers are inside it, and it asks nothing of any network. Test is
what it headlines; validation, which chose the weights, is folded away and called optimistic. Every string from the run
is escaped by the template; only the figures and the card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.results import figures, markdown, text
from etude.results.bootstrap import FEW_GROUPS
from etude.results.measure import save, write
from etude.results.metrics import LOWER_IS_BETTER
from etude.results.verdict import caution, population, verdict

if TYPE_CHECKING:
    from pandas import DataFrame

NEEDED = ("predictions.parquet", "record.json")
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
WORST = 10


def render(folder: str | Path) -> Path:
    """Write report.html of a run folder from its table, record, metrics, curves and config. Returns its path.

    Raises:
        FileNotFoundError: The folder has no metrics.json yet; `measure.write` makes it.
    """
    import jinja2
    import pandas as pd

    folder = Path(folder)
    record, metrics = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("record", "metrics"))
    table = pd.read_parquet(folder / "predictions.parquet")
    disjoint = bool(record.get("data", {}).get("disjoint", False))
    sections = [_section(name, target, table, disjoint) for name, target in metrics["targets"].items()]
    model = record.get("model", {})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.results"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": text.number,
        "ends": text.ends,
        "duration": text.duration,
        "excludes_zero": text.excludes_zero,
    }
    page = environment.get_template("report.html.j2").render(
        record=record,
        metrics=metrics,
        model=model,
        sections=sections,
        forest=figures.forest(metrics["targets"]),
        curves=_curves(folder / "curves.csv", model),
        card=markdown.to_html(record.get("data", {}).get("card", "")),
        config=_read(folder / "config.yaml"),
        few=FEW_GROUPS,
    )
    return save(folder / "report.html", page)


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild metrics.json and report.html of run folders; exit status 2 when one of them is not a run."""
    parser = argparse.ArgumentParser(description="Rebuild metrics.json and report.html of runs, from their files only.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, such as outputs/<run>")
    runs: list[Path] = parser.parse_args(argv).runs
    for folder in runs:
        lacking = [name for name in NEEDED if not (folder / name).is_file()]
        if lacking:
            print(f"{folder} is not a finished run: it has no {' and no '.join(lacking)}.", file=sys.stderr)  # noqa: T201
            return 2
    for folder in runs:
        write(folder)
        print(render(folder))  # noqa: T201
    return 0


def _section(name: str, target: dict[str, Any], table: DataFrame, disjoint: bool) -> dict[str, Any]:
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
        "caution": caution(part),
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
    rows = wrong[["id", "group", f"{name}.true", f"{name}.pred", "_sure"]].head(WORST).values.tolist()
    return {"rows": rows, "errors": len(wrong), "scored": True}


def _largest_errors(table: DataFrame, name: str) -> dict[str, Any]:
    part = table[(table["split"] == "test") & table[f"{name}.true"].notna()]
    part = part.assign(_error=part[f"{name}.pred"] - part[f"{name}.true"])
    part = part.sort_values("_error", key=abs, ascending=False, kind="stable")
    rows = part[["id", "group", f"{name}.true", f"{name}.pred", "_error"]].head(WORST).values.tolist()
    return {"rows": rows, "errors": len(part), "scored": True}


def _curves(path: Path, model: dict[str, Any]) -> list[tuple[str, str]]:
    import pandas as pd

    if not path.is_file() or not path.stat().st_size:
        return []
    return figures.curves(pd.read_csv(path), model.get("best_epoch"), model.get("monitor") or "val/score")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
