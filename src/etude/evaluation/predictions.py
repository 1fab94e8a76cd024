"""Table of predictions, and the clips with the worst errors.

Columns: `id`, `group`, `split`; for each target `<t>.true`, `<t>.pred`, for labels a probability
`<t>.score.<class>`, and what the two baselines say, `<t>.baseline.constant` and `<t>.baseline.linear`; last the
`embedding` before the heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation import baselines

if TYPE_CHECKING:
    import pandas as pd
    from pandas import DataFrame


def assemble_predictions(
    clips: pd.DataFrame,
    parts: np.ndarray,
    rows: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    embedding: np.ndarray,
    statistics: np.ndarray,
    targets: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Put predictions, truths and baselines side by side.

    Args:
        clips: All clips (N) with `id`, `group` and a column per target.
        parts: The part of each clip (N,).
        rows: Which clips were predicted (n,), rows of `clips`.
        predicted: By target, probabilities (n, K) of a label or values (n,) of a scalar.
        embedding: Embeddings (n, D).
        statistics: Mel statistics of all clips (N, P), what the linear baseline hears.
        targets: Kind and classes of each target.

    Returns:
        The table (n rows).
    """
    import pandas as pd

    columns: dict[str, Any] = {name: clips[name].to_numpy()[rows] for name in ("id", "group")}
    columns["split"] = parts[rows]
    for name, spec in targets.items():
        true = clips[name].to_numpy()
        columns[f"{name}.true"] = true[rows]
        if spec["kind"] == "label":
            classes = np.array(spec["classes"], dtype=object)
            columns[f"{name}.pred"] = classes[predicted[name].argmax(1)]
            columns |= {f"{name}.score.{c}": predicted[name][:, i] for i, c in enumerate(classes)}
        else:
            columns[f"{name}.pred"] = predicted[name].astype(np.float64)
        train, val = parts == "train", parts == "val"
        columns[f"{name}.baseline.constant"] = baselines.constant(true[train], spec["kind"])
        linear = baselines.linear(statistics[train], true[train], statistics[val], true[val], spec["kind"])
        columns[f"{name}.baseline.linear"] = linear.predict(statistics[rows])
    columns["embedding"] = list(embedding.astype(np.float32))
    return pd.DataFrame(columns)


MOST_WORST = {"label": 10, "scalar": 6}
"""How many errors are listed; beside a scatter plot there is less room."""


def find_worst_errors(table: DataFrame, name: str, kind: str) -> dict[str, Any]:
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
    return {"rows": _rows(part.head(MOST_WORST["scalar"]), name, "_error"), "errors": len(part), "scored": True}


def _confident(part: DataFrame, name: str) -> dict[str, Any]:
    """Wrong predictions that the network was surest of."""
    wrong = part[part[f"{name}.true"] != part[f"{name}.pred"]]
    columns = {c.removeprefix(f"{name}.score."): c for c in part.columns if c.startswith(f"{name}.score.")}
    if wrong.empty or not columns:
        return {"rows": [], "errors": len(wrong), "scored": bool(columns)}
    sure = [row[columns[row[f"{name}.pred"]]] for _, row in wrong.iterrows()]
    wrong = wrong.assign(_sure=sure).sort_values("_sure", ascending=False, kind="stable")
    return {"rows": _rows(wrong.head(MOST_WORST["label"]), name, "_sure"), "errors": len(wrong), "scored": True}


def _rows(part: DataFrame, name: str, by: str) -> list[list[Any]]:
    rows = part[["id", "group", f"{name}.true", f"{name}.pred", by]]
    return rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
