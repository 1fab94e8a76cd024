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
    row_name,
    save_array,
)
from tests.data.sources.tables import write_table

from etude.data.collection import Collection
from etude.data.sources import patreco, table


@pytest.fixture(scope="module")
def genre_arrays(tmp_path_factory: pytest.TempPathFactory) -> WrittenArrays:
    """Write twenty classes to both folders, with unordered ids of which some begin with a zero."""
    rng = np.random.default_rng(0)
    written = WrittenArrays(tmp_path_factory.mktemp("data") / "fma_genre_spectrograms", {}, {}, {}, {})
    rows = [
        (split, genre)
        for genre, counts in COUNTS.items()
        for split, count in zip(("train", "test"), counts, strict=True)
        for _ in range(count)
    ]
    ids = rng.choice(99_999, len(rows), replace=False)
    for index in rng.permutation(len(rows)):
        clip, (split, genre) = f"{ids[index]:05d}" if index % 7 == 0 else str(ids[index]), rows[index]
        written.genre[clip], written.split[clip] = genre, split
        long = len(written.full) < LONG
        written.full[clip] = random_array(rng, int(rng.integers(1291, 1294)) if long else FEW)
        written.beat[clip] = random_array(rng, int(rng.integers(26, 130)) if long else 3)
    beats = written.home.with_name(written.home.name + "_beat")
    for home, arrays in ((written.home, written.full), (beats, written.beat)):
        for clip, values in arrays.items():
            save_array(home, written.split[clip], clip, values)
        for split in ("train", "test"):
            lines = [f"{row_name(clip, split, home is beats, index % 3 > 0)}\t{written.genre[clip]}"
                     for index, clip in enumerate(written.split) if written.split[clip] == split]  # fmt: skip
            (home / f"{split}_labels.txt").write_text("\n".join(["Id\tGenre", *lines]) + "\n")
    return written


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
