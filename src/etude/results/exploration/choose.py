"""Which clips are shown: those that were asked for, or random ones of different classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def named(words: str, index: pd.DataFrame, skipped: dict[str, str], key: str = "clips") -> list[int]:
    """Rows of the clips that a command names.

    Args:
        words: Ids with commas between; an id may hold a comma itself when it is the only one.
        index: Table of the pack, with `id`.
        skipped: Why clips gave no frames, by id.
        key: What the command calls them.

    Raises:
        UserError: One of them is not there; the message names ids that are spelt like it.
    """
    place = {str(clip): row for row, clip in enumerate(index["id"])}
    ids = [words] if words in place else list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if not ids:
        raise UserError(f"{key}=: names no clip; give ids with commas between, or leave {key}= out")
    for clip in ids:
        if clip in skipped:
            raise UserError(f"{key}={clip}: this clip was skipped: {skipped[clip]}")
        if clip not in place:
            raise UserError(f"{key}={clip}: there is no such clip; {_near(clip, place)}")
    return [place[clip] for clip in ids]


def random(index: pd.DataFrame, targets: dict[str, dict[str, Any]], count: int, seed: int) -> list[int]:
    """Random rows, one of each class before a second of any.

    Args:
        index: Table of the pack.
        targets: What its columns mean; the first label tells the classes.
        count: How many; fewer when there are fewer clips.
        seed: Another seed, other clips.
    """
    order = np.random.default_rng(seed).permutation(len(index))
    name = next((name for name, spec in targets.items() if spec["kind"] == "label"), None)
    column = None if name is None else index[name].astype(object)
    classes: Sequence[Any] = [""] * len(index) if column is None else list(column.where(column.notna(), None))
    seen: dict[Any, int] = {}
    turns: list[tuple[int, int, int]] = []
    for row in order:
        kind = classes[row]
        # a clip without a label waits until every class had its turn
        turns.append((seen.get(kind, 0) + (len(index) if kind is None else 0), len(turns), int(row)))
        seen[kind] = seen.get(kind, 0) + 1
    return [row for _, _, row in sorted(turns)[:count]]


def _near(clip: str, ids: Iterable[str]) -> str:
    """Ids like one: spelt alike, or holding it."""
    known = list(ids)
    near = get_close_matches(clip, known, n=3, cutoff=0.5) or [one for one in known if clip.lower() in one.lower()][:3]
    return f"near it are {', '.join(near)}" if near else f"ids look like {', '.join(known[:3])}"
