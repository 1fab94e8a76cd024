"""What would let a network be tested on what it has learned by heart, apart from copies of a recording."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.splits import PARTS, group_codes

if TYPE_CHECKING:
    import pandas as pd

    from etude.results.exploration.views import File


def sides(index: pd.DataFrame, assigned: np.ndarray | None) -> list[dict[str, Any]]:
    """Groups with clips in more than one part: `group` and its clips by part."""
    if assigned is None:
        return []
    known = index["group"].notna().to_numpy() & np.isin(assigned, PARTS)
    found = []
    for name, rows in index[known].groupby("group", sort=True).indices.items():
        counts = {part: int((assigned[known][rows] == part).sum()) for part in PARTS}
        if sum(count > 0 for count in counts.values()) > 1:
            found.append({"group": str(name), "parts": counts})
    return found


def lonely(index: pd.DataFrame, name: str, classes: list[str]) -> list[dict[str, str]]:
    """Classes all of whose clips are one group's: `class` and `group`."""
    groups, column = group_codes(index), index[name].to_numpy()
    found = []
    for kind in classes:
        here = column == kind
        if here.sum() > 1 and len(set(groups[here])) == 1:
            found.append({"class": kind, "group": str(index["group"].to_numpy()[here][0])})
    return found


def absent(label: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of a class and a part that has no clip of it, of a label as `counts.label` gives it."""
    return [(row["class"], part) for row in label["classes"] for part in PARTS if row["parts"].get(part) == 0]


def repeated(known: dict[str, File], ids: list[str]) -> list[dict[str, Any]] | None:
    """File names that stand in several folders: `name` and `ids`, the most frequent first; None without files."""
    if not known:
        return None
    names: dict[str, list[str]] = {}
    for clip in ids:
        if clip in known:
            names.setdefault(PurePath(known[clip].path).name, []).append(clip)
    twice = [{"name": name, "ids": found} for name, found in names.items() if len(found) > 1]
    return sorted(twice, key=lambda row: -len(row["ids"]))
