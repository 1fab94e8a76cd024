"""Text tables of six clips, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etude.data.collection import Collection

GENRES = ["rock", "jazz", "rock", "jazz", "rock", "jazz"]


def write_table(folder: Path, columns: Mapping[str, list[Any]], name: str = "My clips.csv") -> str:
    """Write a text table with commas or tabs between cells."""
    mark = "\t" if name.endswith(".tsv") else ","
    lines = [mark.join(columns), *(mark.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def six_clips(**columns: list[Any]) -> dict[str, list[Any]]:
    """Return the columns of six clips in two genres."""
    return {"path": [f"{i}.wav" for i in range(6)], "genre": GENRES, **columns}


Make = Callable[..., Collection]
