"""The test clips that a network got most wrong: with the most confidence, or by the widest margin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

MOST = {"label": 10, "scalar": 6}
"""How many errors are listed; beside a scatter plot there is less room."""


def worst(table: DataFrame, name: str, kind: str) -> dict[str, Any]:
    """Errors of one target on the test part, the worst first.

    Args:
        table: predictions.parquet.
        name: The target.
        kind: `label` or `scalar`.

    Returns:
        `rows` of id, group (None when unknown), truth, prediction and what they are sorted by, the probability of the
        wrong class or the signed error; `errors`, how many there are; `scored`, whether there is something to sort by.
    """
    part = table[(table["split"] == "test") & table[f"{name}.true"].notna()]
    if kind == "label":
        return _confident(part, name)
    part = part.assign(_error=part[f"{name}.pred"] - part[f"{name}.true"])
    part = part.sort_values("_error", key=abs, ascending=False, kind="stable")
    return {"rows": _rows(part.head(MOST["scalar"]), name, "_error"), "errors": len(part), "scored": True}


def _confident(part: DataFrame, name: str) -> dict[str, Any]:
    """Wrong predictions that the network was surest of."""
    wrong = part[part[f"{name}.true"] != part[f"{name}.pred"]]
    columns = {c.removeprefix(f"{name}.score."): c for c in part.columns if c.startswith(f"{name}.score.")}
    if wrong.empty or not columns:
        return {"rows": [], "errors": len(wrong), "scored": bool(columns)}
    sure = [row[columns[row[f"{name}.pred"]]] for _, row in wrong.iterrows()]
    wrong = wrong.assign(_sure=sure).sort_values("_sure", ascending=False, kind="stable")
    return {"rows": _rows(wrong.head(MOST["label"]), name, "_sure"), "errors": len(wrong), "scored": True}


def _rows(part: DataFrame, name: str, by: str) -> list[list[Any]]:
    rows = part[["id", "group", f"{name}.true", f"{name}.pred", by]]
    return rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
