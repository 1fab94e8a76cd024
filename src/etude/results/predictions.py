"""The table that every number comes from: one row per clip of validation and test.

Columns: `id`, `group`, `split`; for each target `<t>.true`, `<t>.pred`, for labels a probability
`<t>.score.<class>`, and what the two baselines say, `<t>.baseline.constant` and `<t>.baseline.linear`; last the
`embedding` before the heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.results import baselines

if TYPE_CHECKING:
    import pandas as pd


def assemble(
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
