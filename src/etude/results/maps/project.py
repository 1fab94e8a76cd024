"""From embeddings to one map, or to the reason in words why there is none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from etude.errors import UserError
from etude.results.maps.methods import METHODS, nearest, tsne_library
from etude.results.text import plural


class NoMap(UserError):
    """This map cannot be made; the message says why."""


@dataclass(frozen=True)
class Map:
    """Where clips lie.

    Args:
        rows: Which clips (m,), int, in ascending order: all n, or a random subset of what the method can bear.
        at: Their coordinates (m, dims), float64.
        note: What has to be known about this very map; "" when there is nothing.
    """

    rows: np.ndarray
    at: np.ndarray
    note: str


def project(x: np.ndarray, method: str, dims: int, seed: int = 0) -> Map:
    """Map embeddings into the plane or into space; the same input gives the same map.

    Args:
        x: Embeddings (n, D), finite.
        method: A key of METHODS.
        dims: 2 or 3.
        seed: Of all that is random in the method, and of the subset.

    Raises:
        NoMap: Too few clips, or dimensions, or differing embeddings, for this method; or it found no solution.
    """
    chosen = METHODS[method]
    rows = subset(len(x), chosen.most[dims - 2], seed)
    every = len(x)
    x = np.asarray(x, dtype=np.float64)[rows]
    if len(x) < chosen.least:
        raise NoMap(
            f"{chosen.title} needs at least {chosen.least} clips; there {'is' if len(x) == 1 else 'are'} {len(x)}."
        )
    if x.shape[1] < dims:
        raise NoMap(f"The embedding has {plural(x.shape[1], 'dimension')}: there is no map of it in {dims}.")
    distinct = len(np.unique(x, axis=0))
    if distinct == 1:
        raise NoMap(f"The embeddings of all {len(x)} clips are equal: no map tells them apart.")
    if distinct < chosen.least:
        raise NoMap(f"{chosen.title} needs at least {chosen.least} embeddings that differ; there are {distinct}.")
    at = _fit(x, method, dims, seed)
    notes = (
        [f"Made of {len(x):,} of {every:,} clips, drawn at random: what this method bears in {dims}-D."]
        if len(x) < every
        else []
    )
    return Map(rows, at, " ".join([*notes, *_notes(x, at, method)]))


def subset(n: int, most: int, seed: int) -> np.ndarray:
    """At most so many of n rows at random, in ascending order; of one seed, smaller subsets lie within larger ones."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most]) if n > most else np.arange(n)


def _fit(x: np.ndarray, method: str, dims: int, seed: int) -> np.ndarray:
    from scipy.sparse.linalg import ArpackError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is looked for in _notes, and said on the page
            at = METHODS[method].fit(x, dims, seed)
    except (ArpackError, np.linalg.LinAlgError) as error:
        raise NoMap(f"{METHODS[method].title} found no solution on these clips ({error}).") from error
    if not np.isfinite(at).all():
        raise NoMap(f"{METHODS[method].title} found no finite solution on these clips.")
    return np.asarray(at, dtype=np.float64)


def _notes(x: np.ndarray, at: np.ndarray, method: str) -> list[str]:
    notes = []
    if method == "pca":
        notes.append(f"Holds {100 * at.var(0).sum() / x.var(0).sum():.0f} % of the variance.")
    if method == "tsne" and tsne_library() != "openTSNE":
        notes.append("Computed by scikit-learn.")
    if METHODS[method].graph and (parts := _parts(x)) > 1:
        notes.append(
            f"The graph of nearest clips falls into {parts} parts; how these lie to one another is the method’s "
            "choice, not the data’s."
        )
    return notes


def _parts(x: np.ndarray) -> int:
    """Connected parts of the graph of nearest clips."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import kneighbors_graph

    return int(connected_components(kneighbors_graph(x, nearest(x), include_self=True), directed=False)[0])
