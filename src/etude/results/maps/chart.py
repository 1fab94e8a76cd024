"""One map of one run, with what it preserves; or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.results.maps import quality
from etude.results.maps.project import Map, NoMap, project, subset
from etude.results.maps.read import Run

SHOWN = 2000
"""Clips that a page draws and measures; more are a blot on the screen, and distances of all pairs."""

Cache = dict[tuple[str, int], dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Chart:
    """A map with its numbers.

    Args:
        run: Name of the run.
        method: Key of METHODS.
        dims: 2 or 3.
        map: None when there is none.
        why: The reason for that.
        drawn: Positions in the map of the clips that are drawn and measured (s,).
        preserved: Trustworthiness and continuity.
        told: What neighbours in the map tell of each target.
        full: What neighbours in the full space tell, of the same clips.
    """

    run: str
    method: str
    dims: int
    map: Map | None
    why: str
    drawn: np.ndarray
    preserved: dict[str, float | None]
    told: dict[str, dict[str, Any]]
    full: dict[str, dict[str, Any]]


def chart(run: Run, method: str, dims: int, seed: int, cache: Cache) -> Chart:
    """Make a map and measure it.

    Args:
        run: With embeddings, or the problem for which it has none.
        method: A key of METHODS.
        dims: 2 or 3.
        seed: Of the method, and of the subset of many clips that is drawn.
        cache: What neighbours in the full space tell, by run and number of clips; it is filled here.
    """
    try:
        if run.problem:
            raise NoMap(run.problem)
        made = project(run.x, method, dims, seed)
    except NoMap as error:
        return Chart(run.name, method, dims, None, str(error), np.arange(0), {}, {}, {})
    rows = subset(len(run.x), min(SHOWN, len(made.rows)), seed)
    drawn = np.searchsorted(made.rows, rows)  # smaller subsets of a seed lie within larger ones
    x, at, groups = run.x[rows], made.at[drawn], run.groups()[rows]
    truths = {name: (kind, true[rows]) for name, (kind, true) in run.truths().items()}
    key = (run.name, len(rows))
    if key not in cache:
        cache[key] = quality.told(x, groups, truths)
    preserved = quality.preserved(x, at)
    return Chart(run.name, method, dims, made, "", drawn, preserved, quality.told(at, groups, truths), cache[key])
