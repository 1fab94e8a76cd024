"""Scores and figures of a run for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import NAMES, format_interval, format_number
from etude.reports import figures as drawings
from etude.reports.html import load_template
from etude.reports.svg import colours

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ("target", "split", "metric", "value", "low", "high", "n", "groups", "constant", "linear")


class Picture(str):
    """A drawing as SVG, which takes its colours from what is around it; a notebook shows it on light paper."""

    def _repr_html_(self) -> str:
        style = "".join(f"--{role}: {colour}; " for role, colour in colours().items())
        style += "background: var(--paper); color: var(--ink); font-family: sans-serif; max-width: 40em"
        return f'<div style="{style}">{self}</div>'

    def __repr__(self) -> str:
        return f"Picture of {len(self):,} characters"


def scores(metrics: dict[str, Any]) -> pd.DataFrame:
    """The scores of metrics.json, a row each, columns COLUMNS; those of calibration and agreement are among them."""
    import pandas as pd

    rows = []
    for name, target in metrics["targets"].items():
        for split, part in target["splits"].items():
            more = {**(part.get("calibration") or {}), **(part.get("agreement") or {})}
            found = part["scores"] | {key: it for key, it in more.items() if isinstance(it, dict) and "value" in it}
            for metric, score in found.items():
                others = {
                    key: baseline["scores"].get(metric, {}).get("value") for key, baseline in part["baselines"].items()
                }
                about = {"target": name, "split": split, "metric": metric, "n": part["n"], "groups": part["groups"]}
                rows.append(about | {key: score[key] for key in ("value", "low", "high")} | others)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(("value", "low", "high", "constant", "linear"), "float64"))


def figures(metrics: dict[str, Any], table: pd.DataFrame) -> dict[str, Picture]:
    """Drawings by name, from metrics.json and predictions.parquet; none of a target that has no test clips."""
    found = {"scores": drawings.forest(metrics["targets"])}
    for name, target in metrics["targets"].items():
        if target["kind"] == "label":
            found[f"reliability/{name}"] = drawings.reliability_diagram(
                name, target["splits"]["test"].get("calibration") or {}
            )
        else:
            found[f"scatter/{name}"] = drawings.scatter(table, name, target)
    return {name: Picture(drawing) for name, drawing in found.items() if drawing}


def summary(
    metrics: Mapping[str, Any] | None,
    record: Mapping[str, Any],
    *,
    name: str,
    folder: Path,
    link: str = "",
    alone: bool = False,
) -> str:
    """Return a run in a few lines of HTML, in which every text is escaped.

    Args:
        metrics: The content of metrics.json; None for a run that is not finished.
        record: The content of record.json; empty for a run that is not finished.
        name: Name of a run whose record has none.
        folder: Folder of the run or of the checkpoint.
        link: Address of the report; empty where there is none.
        alone: Whether there is nothing but a checkpoint.
    """
    rows = []
    for target_name, target in metrics["targets"].items() if metrics else ():
        part, lead = target["splits"]["test"], target["primary"]
        score = part["scores"].get(lead)
        others = {role: baseline["scores"].get(lead, {}) for role, baseline in part["baselines"].items()}
        rows.append(
            {
                "target": target_name,
                "metric": NAMES[lead],
                "score": format_number(score["value"]) if score else "",
                "ends": format_interval(score) if score else "",
                "others": [
                    format_number(others[role].get("value")) if others.get(role) else ""
                    for role in ("linear", "constant")
                ],
                "n": part["n"],
                "groups": part["groups"],
            }
        )
    values = {"name": record.get("name") or name, "rows": rows, "folder": str(folder), "link": link, "alone": alone}
    values |= {"finished": metrics is not None, "trial": record.get("trial"), "command": record.get("command", "")}
    return load_template("run.html.j2").render(values)
