"""Tables of clips for the tests of splits, and properties of splits."""

from __future__ import annotations

import numpy as np
import pandas as pd

from etude.data.partition import SPLITS

FRACTIONS = (0.6, 0.15, 0.25)

GENRE = ("genre",)


def make_table(seed: int, groups: int, largest: int) -> pd.DataFrame:
    """Return a table of clips in groups of 1 to `largest`, with missing labels and groups."""
    rng = np.random.default_rng(seed)
    group = np.repeat([f"g{i}" for i in range(groups)], rng.integers(1, largest + 1, groups)).astype(object)
    genre = rng.choice(["a", "b", "c"], len(group)).astype(object)
    genre[rng.random(len(group)) < 0.1] = None
    group[rng.random(len(group)) < 0.1] = None
    table = pd.DataFrame({"id": [f"clip{i}" for i in range(len(group))], "group": group, "genre": genre})
    return table.sample(frac=1, random_state=seed)


def shares(assigned: np.ndarray) -> list[float]:
    return [(assigned == name).mean() for name in SPLITS]


def splits_per_group(assigned: np.ndarray, table: pd.DataFrame) -> int:
    """Return the largest number of splits of a group."""
    return int(pd.Series(assigned, index=table.index).groupby(table["group"]).nunique().max())
