"""metrics.json as one flat list of numbers, by names that sort well in any tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PARTS = {"test": "test", "val": "validation"}
"""How a part's results are named: `val/...` are curves by epoch, `validation/...` is what the best epoch came to."""


def numbers(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, float]:
    """All scores of a run.

    Args:
        metrics: The content of metrics.json.
        record: The content of record.json.

    Returns:
        `test/<target>/<metric>`, calibration and agreement among them, with its ends `.../low` and `.../high`; the
        same of a baseline as `test/<target>/<baseline>/<metric>` and of the distance from it as
        `test/<target>/over_<baseline>/<metric>`; `n` and `groups`; `best/epoch` and the score that chose it; seconds.
        What is undefined is left out.
    """
    flat: dict[str, float | None] = {}
    for name, target in metrics["targets"].items():
        for split, part in target["splits"].items():
            flat |= dict(_part(f"{PARTS[split]}/{name}", part))
    model = record.get("model", {})
    flat |= {"best/epoch": model.get("best_epoch"), f"best/{model.get('monitor')}": model.get("best_score")}
    flat |= {key: model.get(key) for key in ("epochs", "parameters")}
    flat |= {f"seconds/{key}": value for key, value in record.get("seconds", {}).items()}
    return {key: value for key, value in flat.items() if value is not None}


def _part(root: str, part: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield f"{root}/n", part["n"]
    yield f"{root}/groups", part["groups"]
    yield from _scores(root, part["scores"])
    sure = {key: score for key, score in part.get("calibration", {}).items() if key not in ("chance", "bins")}
    yield from _scores(root, sure | part.get("agreement", {}))
    for name, baseline in part["baselines"].items():
        yield from _scores(f"{root}/{name}", baseline["scores"])
        yield from _scores(f"{root}/over_{name}", baseline["difference"])


def _scores(root: str, scores: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for metric, score in scores.items():
        yield f"{root}/{metric}", score["value"]
        yield f"{root}/{metric}/low", score["low"]
        yield f"{root}/{metric}/high", score["high"]
