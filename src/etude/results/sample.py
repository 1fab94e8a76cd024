"""Fewer clips than there are, for a drawing: more marks would hide one another and make the page large."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

MOST = 2000


def sample(part: DataFrame, most: int = MOST) -> tuple[DataFrame, int]:
    """At most so many rows, drawn at random with a fixed seed and left in order; and how many are left out."""
    if len(part) <= most:
        return part, 0
    return part.sample(most, random_state=0).sort_index(), len(part) - most
