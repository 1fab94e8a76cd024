"""Scores and figures of a run for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import NAMES, format_interval, format_number
from etude.evaluation.means import targets_and_mean
from etude.evaluation.score_summary import count_known_groups
from etude.reports import figures
from etude.reports.html import load_template
from etude.reports.svg import page_colours

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ("target", "split", "metric", "value", "low", "high", "n", "groups", "constant", "statistics")


class NotebookFigure(str):
    """SVG code of a figure, which a notebook displays on a light background."""

    def _repr_html_(self) -> str:
        style = "".join(f"--{role}: {colour}; " for role, colour in page_colours().items())
        style += "background: var(--paper); color: var(--ink); font-family: sans-serif; max-width: 40em"
        return f'<div style="{style}">{self}</div>'

    def __repr__(self) -> str:
        return f"NotebookFigure of {len(self):,} characters"


def score_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Return the scores, calibration and agreement of metrics.json, one value per row, with the columns `COLUMNS`.

    The last rows are the means over the scalars, with the target `mean`, if there are several. Each other baseline of
    the run has a further column.
    """
    import pandas as pd

    rows = []
    for name, target in targets_and_mean(metrics).items():
        for split, results in target["splits"].items():
            other = {**(results.get("calibration") or {}), **(results.get("agreement") or {})}
            scores = results["scores"] | {
                key: score for key, score in other.items() if isinstance(score, dict) and "value" in score
            }
            for metric, score in scores.items():
                row = {"target": name, "split": split, "metric": metric, "n": results["n"]}
                row["groups"] = count_known_groups(results)
                baselines = {
                    key: baseline["scores"].get(metric, {}).get("value")
                    for key, baseline in results["baselines"].items()
                }
                rows.append(row | {key: score[key] for key in ("value", "low", "high")} | baselines)
    names = list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)]))
    table = pd.DataFrame(rows, columns=names)
    counts = {"target", "split", "metric", "n", "groups"}
    numbers = dict.fromkeys((name for name in names if name not in counts), "float64")
    return table.astype(numbers | {"groups": "Int64"})  # missing if groups are unknown


def run_figures(metrics: dict[str, Any], table: pd.DataFrame) -> dict[str, NotebookFigure]:
    """Return the figures of a run by name. Targets without test clips have no figure.

    Args:
        metrics: Content of metrics.json.
        table: Content of predictions.parquet.
    """
    drawings = {"scores": figures.forest_plot(targets_and_mean(metrics))}
    for name, target in metrics["targets"].items():
        if target["kind"] == "label":
            calibration = target["splits"]["test"].get("calibration") or {}
            drawings[f"reliability/{name}"] = figures.reliability_diagram(name, calibration)
        else:
            drawings[f"scatter/{name}"] = figures.scatter_plot(table, name, target)
    return {name: NotebookFigure(drawing) for name, drawing in drawings.items() if drawing}


def summary_html(
    metrics: Mapping[str, Any] | None,
    record: Mapping[str, Any],
    *,
    name: str,
    folder: Path,
    link: str = "",
    checkpoint_only: bool = False,
) -> str:
    """Return a short summary of a run as HTML with escaped text.

    Args:
        metrics: Content of metrics.json. None for a run that is not finished.
        record: Content of record.json. Empty for a run that is not finished.
        name: Name of the run. It is used if the record has no name.
        folder: Folder of the run or of the checkpoint.
        link: Address of the report. Empty if there is none.
        checkpoint_only: Whether there is only a checkpoint.
    """
    rows = []
    for target_name, target in targets_and_mean(metrics).items() if metrics else ():
        results, metric = target["splits"]["test"], target["primary"]
        score = results["scores"].get(metric)
        baselines = {role: baseline["scores"].get(metric, {}) for role, baseline in results["baselines"].items()}
        rows.append(
            {
                "target": target_name,
                "metric": NAMES[metric],
                "score": format_number(score["value"]) if score else "",
                "interval": format_interval(score) if score else "",
                "baselines": [
                    format_number(baselines[role].get("value")) if baselines.get(role) else ""
                    for role in ("statistics" if "statistics" in baselines else "linear", "constant")
                ],
                "n": results["n"],
                "groups": groups if (groups := count_known_groups(results)) is not None else "unknown",
            }
        )
    values = {"name": record.get("name") or name, "rows": rows, "folder": str(folder), "link": link}
    values |= {"checkpoint_only": checkpoint_only, "finished": metrics is not None}
    values |= {"trial": record.get("trial"), "command": record.get("command", "")}
    return load_template("run.html.j2").render(values)
