"""A finished run as tables that a tracker can sort, filter and plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MOST_CELLS = 10_000  # Weights & Biases cuts a table of more rows


def predictions(table: pd.DataFrame) -> pd.DataFrame:
    """predictions.parquet without the embeddings: a row per clip of test and validation."""
    return table.drop(columns="embedding")


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> pd.DataFrame:
    """A confusion matrix (C, C) as C² rows: actual, predicted, clips; of many classes without empty cells."""
    import pandas as pd

    every = len(classes) ** 2 <= MOST_CELLS
    pairs = [(classes[i], classes[j], n) for i, row in enumerate(counts) for j, n in enumerate(row) if n or every]
    return pd.DataFrame(pairs, columns=["actual", "predicted", "clips"])


def classes(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Precision, recall, F1 and support of each class."""
    import pandas as pd

    return pd.DataFrame(list(rows))


def embedding(table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Embeddings of the test part (n, D), float32, and beside them what is known of each clip (n rows)."""
    test = table[table["split"] == "test"].reset_index(drop=True)
    known = [c for c in test.columns if c in ("id", "group") or str(c).endswith((".true", ".pred"))]
    dim = len(table["embedding"].iloc[0]) if len(table) else 0
    return np.array(test["embedding"].tolist(), np.float32).reshape(len(test), dim), test[known]


def latent(table: pd.DataFrame) -> pd.DataFrame:
    """The latent map: each clip of the test part at the first two principal components of its embedding.

    Columns `x` and `y`, then those of `embedding`. Where there is only one direction, `y` is 0.
    """
    from sklearn.decomposition import PCA

    z, known = embedding(table)
    place = np.zeros((len(z), 2))
    if (most := min(2, *z.shape)) and len(z) > 1:
        place[:, :most] = PCA(most, svd_solver="full").fit_transform(z.astype(np.float64))
    known = known.copy()
    known.insert(0, "x", place[:, 0])
    known.insert(1, "y", place[:, 1])
    return known
