"""Fixtures of the tests of data sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.sources.patreco_arrays import (
    COUNTS,
    FEW,
    LONG,
    WrittenArrays,
    random_array,
    save_array,
    write_genre,
)
from tests.data.sources.tables import write_table

from etude.data.collection import Collection
from etude.data.sources import patreco, table


@pytest.fixture(scope="module")
def genre_arrays(tmp_path_factory: pytest.TempPathFactory) -> WrittenArrays:
    """Write twenty classes to both folders, with unordered ids of which some begin with a zero."""
    rng = np.random.default_rng(0)
    ids = rng.choice(99_999, sum(map(sum, COUNTS.values())), replace=False)
    names = [f"{number:05d}" if index % 7 == 0 else str(number) for index, number in enumerate(ids)]

    def lengths(number: int) -> tuple[int, int]:
        return (int(rng.integers(1291, 1294)), int(rng.integers(26, 130))) if number < LONG else (FEW, 3)

    return write_genre(tmp_path_factory.mktemp("data") / "fma_genre_spectrograms", COUNTS, names, lengths)


@pytest.fixture(scope="module")
def genre_collection(genre_arrays: WrittenArrays) -> Collection:
    return patreco.collection(str(genre_arrays.home))


@pytest.fixture
def affect_folder(tmp_path: Path) -> Path:
    """Write twelve clips with ratings and five without."""
    rng = np.random.default_rng(1)
    home = tmp_path / "multitask_dataset"
    lines = ["Id,valence,energy,danceability"]
    for clip in range(12):
        save_array(home, "train", str(clip), random_array(rng, FEW))
        lines.append(f"{clip},{clip / 11},{0.5},{1 - clip / 11}")
    for clip in range(100, 105):
        save_array(home, "test", str(clip), random_array(rng, FEW))
    (home / "train_labels.txt").write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture
def make_collection(tmp_path: Path) -> Callable[..., Collection]:
    """Return a function that writes a table and returns its collection."""

    def write_and_load(columns: Mapping[str, list[Any]], **options: Any) -> Collection:
        return table.collection(write_table(tmp_path, columns), **options)

    return write_and_load
