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
from typing import Any

from etude.results import figures, markdown
from etude.results.bootstrap import FEW_GROUPS
from etude.results.measure import save, write
from etude.results.sections import section
from etude.results.template import template

NEEDED = ("predictions.parquet", "record.json")


def render(folder: str | Path) -> Path:
    """Write report.html of a run folder from its table, record, metrics, curves and config. Returns its path.

    Raises:
        FileNotFoundError: The folder has no metrics.json yet; `measure.write` makes it.
    """
    import pandas as pd

    folder = Path(folder)
    record, metrics = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("record", "metrics"))
    table = pd.read_parquet(folder / "predictions.parquet")
    disjoint = bool(record.get("data", {}).get("disjoint", False))
    sections = [section(name, target, table, disjoint) for name, target in metrics["targets"].items()]
    model = record.get("model", {})
    page = template("report.html.j2").render(
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


def _curves(path: Path, model: dict[str, Any]) -> list[tuple[str, str]]:
    import pandas as pd

    if not path.is_file() or not path.stat().st_size:
        return []
    return figures.curves(pd.read_csv(path), model.get("best_epoch"), model.get("monitor") or "val/score")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
