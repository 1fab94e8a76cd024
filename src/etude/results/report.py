"""A run folder to one page that says what was found, on what, and how sure one can be.

The page is a file of its own: styles, figures and numbers are inside it, and it asks nothing of any network. Test is
what it headlines; validation is folded away, and called optimistic where it chose the weights. Every string of the run
is escaped by the template; only the figures and the card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.door import guard
from etude.files.atomic import write_text
from etude.results import excerpts, figures, latent_figure, learning, markdown, reading
from etude.results.bootstrap import FEW_GROUPS
from etude.results.measure import write
from etude.results.sections import section
from etude.results.template import template

NEEDED = ("predictions.parquet", "record.json")


def render(folder: str | Path) -> Path:
    """Write report.html of a run folder from its table, record, metrics, curves and config. Returns its path.

    Raises:
        FileNotFoundError: The folder has no metrics.json yet; `measure.write` makes it.
    """
    folder = Path(folder)
    record, metrics = reading.record(folder), reading.metrics(folder)
    table = reading.table(folder)
    disjoint = bool(record.get("data", {}).get("disjoint", False))
    sections = [section(name, target, table, disjoint) for name, target in metrics["targets"].items()]
    model, data = record.get("model", {}), record.get("data", {})
    kept = excerpts.read(folder)
    parts: dict[str, Any] = {
        "record": record,
        "metrics": metrics,
        "model": model,
        "sections": sections,
        "forest": figures.forest(metrics["targets"]),
        "curves": learning.panels(reading.curves(folder), model.get("best_epoch"), model.get("monitor") or "val/score"),
        "latent": latent_figure.maps(table, metrics["targets"], pooled=bool(data.get("pooled"))),
        "card": markdown.to_html(data.get("card", "")),
        "config": _config(folder),
        "whole": _whole(record),
        "kept": kept,
        "stops": excerpts.stops(),
        "few": FEW_GROUPS,
    }
    page = template("report.html.j2")
    room = excerpts.PAGE - len(page.render(parts | {"left": {}}).encode())
    return write_text(
        folder / "report.html", page.render(parts | {"left": excerpts.cards(folder, kept, sections, room)})
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild metrics.json and report.html of run folders; exit status 2 when one of them is not a run."""
    return guard(lambda: _main(argv), "copy the run to a place that can be written")


def _main(argv: Sequence[str] | None) -> int:
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


def _whole(record: dict[str, Any]) -> str:
    """record.json without the card, which the page shows by itself."""
    data = {key: value for key, value in record.get("data", {}).items() if key != "card"}
    return json.dumps(record | {"data": data}, indent=1, ensure_ascii=False)


def _config(folder: Path) -> str:
    """Return the text of config.yaml; "" if there is none, or only a link to a file elsewhere."""
    path = folder / "config.yaml"
    if not path.is_file() or not excerpts.is_inside(path, folder):
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
