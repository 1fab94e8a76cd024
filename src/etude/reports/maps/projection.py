"""Projections of embeddings by PCA, t-SNE, UMAP, spectral embedding, MDS and Isomap.

Every method declares the minimum and maximum number of clips, and a caution about the interpretation of its maps.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from etude.errors import UserError
from etude.evaluation.formatting import format_count

log = logging.getLogger(__name__)
PERPLEXITY = 30.0
NO_LIMIT = 100_000
NEIGHBOURS = 15
"""Neighbourhood size of UMAP, Isomap and spectral embedding, including the clip itself."""


@dataclass(frozen=True)
class ProjectionMethod:
    """Method of projection.

    Args:
        title: Printed name.
        short: Printed name for narrow columns.
        fit: Function that computes coordinates (n, dimensions) from embeddings (n, D) float64, dimensions and seed.
        caution: Properties that the map preserves, and conclusions that it does not support.
        min_clips: Minimum number of clips.
        max_clips: Maximum number of clips in 2-D and in 3-D. If there are more, a random subset is projected.
        uses_graph: Whether the method uses a nearest-neighbour graph, which may have several connected components.
    """

    title: str
    short: str
    fit: Callable[[np.ndarray, int, int], np.ndarray]
    caution: str
    min_clips: int
    max_clips: tuple[int, int]
    uses_graph: bool = False


@dataclass(frozen=True)
class Projection:
    """Projection of clips.

    Args:
        rows: Rows of the projected clips (m,), int, ascending. All n rows, or a random subset if n exceeds the
            maximum of the method.
        coordinates: Coordinates of these clips (m, dims), float64.
        note: Remark about this map, or "".
    """

    rows: np.ndarray
    coordinates: np.ndarray
    note: str


class ProjectionError(UserError):
    """Reason why a map cannot be computed."""


def project(x: np.ndarray, method: str, dims: int, seed: int = 0) -> Projection:
    """Project embeddings into 2-D or 3-D. The result is deterministic.

    Args:
        x: Embeddings (n, D), finite.
        method: Key of METHODS.
        dims: 2 or 3.
        seed: Seed of the method and of the random subset.

    Raises:
        ProjectionError: There are too few clips, dimensions or distinct embeddings, or the method found no solution.
    """
    spec = METHODS[method]
    rows = subset(len(x), spec.max_clips[dims - 2], seed)
    total = len(x)
    x = np.asarray(x, dtype=np.float64)[rows]
    if len(x) < spec.min_clips:
        raise ProjectionError(
            f"{spec.title} needs at least {spec.min_clips} clips; there {'is' if len(x) == 1 else 'are'} {len(x)}."
        )
    if x.shape[1] < dims:
        size = format_count(x.shape[1], "dimension")
        raise ProjectionError(f"The embedding has {size}, too few for a map in {dims}-D.")
    distinct = len(np.unique(x, axis=0))
    if distinct == 1:
        raise ProjectionError(f"The embeddings of all {len(x)} clips are equal, so there is no map of them.")
    if distinct < spec.min_clips:
        raise ProjectionError(
            f"{spec.title} needs at least {spec.min_clips} distinct embeddings; there are {distinct}."
        )
    coordinates = _fit(x, method, dims, seed)
    notes = (
        [f"Computed from {len(x):,} of {total:,} clips, drawn at random. This is the maximum in {dims}-D."]
        if len(x) < total
        else []
    )
    return Projection(rows, coordinates, " ".join([*notes, *_map_notes(x, coordinates, method)]))


def subset(n: int, maximum: int, seed: int) -> np.ndarray:
    """Return at most `maximum` of n rows at random, ascending.

    With the same seed, a smaller subset is part of a larger one.
    """
    return np.sort(np.random.default_rng(seed).permutation(n)[:maximum]) if n > maximum else np.arange(n)


def tsne_library() -> str:
    """Return the library for t-SNE, openTSNE if it is installed, else scikit-learn.

    scikit-learn is slow for 10,000 clips.
    """
    return "openTSNE" if find_spec("openTSNE") else "scikit-learn"


def neighbourhood_size(x: np.ndarray) -> int:
    """Return the neighbourhood size of a nearest-neighbour graph of the clips."""
    return min(NEIGHBOURS, len(x) - 1)


def _pca(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(dims, svd_solver="full").fit_transform(x)


def _tsne(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    if tsne_library() == "openTSNE":
        from openTSNE import TSNE

        logging.getLogger("openTSNE").setLevel(logging.WARNING)  # it logs all of its default settings
        # for 10,000 clips its default is interpolation, which is implemented only in 2-D
        gradient = "auto" if dims == 2 else "bh"
        model = TSNE(dims, perplexity, negative_gradient_method=gradient, n_jobs=1, random_state=seed)
        return np.asarray(model.fit(x))
    from sklearn import manifold

    return manifold.TSNE(dims, perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)


def _umap(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    if "umap" not in sys.modules:
        log.info("UMAP: its functions are compiled first, which can take a minute")
    from umap import UMAP

    return UMAP(neighbourhood_size(x), dims, n_jobs=1, random_state=seed).fit_transform(x)


def _spectral(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    from sklearn.manifold import SpectralEmbedding

    return SpectralEmbedding(dims, n_neighbors=neighbourhood_size(x), random_state=seed).fit_transform(x)


def _mds(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    from sklearn.manifold import MDS

    return MDS(dims, n_init=1, random_state=seed).fit_transform(x, init=_pca(x, dims, seed))


def _isomap(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    from sklearn.manifold import Isomap

    # the sparse solver starts from a random vector that cannot be seeded
    return Isomap(n_neighbors=neighbourhood_size(x) - 1, n_components=dims, eigen_solver="dense").fit_transform(x)


METHODS = {
    "pca": ProjectionMethod(
        "PCA",
        "PCA",
        _pca,
        "Linear projection on the directions of largest variance. Clips that are far apart in the map are far apart in "
        "the full space. Clips that are close in the map may differ in the other directions.",
        min_clips=4,
        max_clips=(NO_LIMIT, NO_LIMIT),
    ),
    "tsne": ProjectionMethod(
        "t-SNE",
        "t-SNE",
        _tsne,
        "Preserves neighbourhoods. Distances between clusters, their sizes and their densities have no meaning, and "
        "clusters also appear in noise.",
        min_clips=10,
        max_clips=(NO_LIMIT, 2000),  # 3-D has no interpolation: 10,000 clips took over 150 s, 2,000 take 15 s
    ),
    "umap": ProjectionMethod(
        "UMAP",
        "UMAP",
        _umap,
        "Preserves neighbourhoods and exaggerates gaps. Distances between clusters, their sizes and their densities "
        "have little meaning.",
        min_clips=10,
        max_clips=(NO_LIMIT, NO_LIMIT),
        uses_graph=True,
    ),
    "spectral": ProjectionMethod(
        "Spectral embedding",
        "Spectral",
        _spectral,
        "Shows the weakest connections of the nearest-neighbour graph. Well connected clips collapse to a point and a "
        "few outliers fill the map. Distances in the map are not distances between embeddings.",
        min_clips=10,
        max_clips=(3000, 3000),
        uses_graph=True,
    ),
    "mds": ProjectionMethod(
        "MDS",
        "MDS",
        _mds,
        "Approximates all distances, large distances best. The error is distributed over all clips, so neighbours in "
        "the map are not always neighbours in the full space.",
        min_clips=4,
        max_clips=(2000, 2000),
    ),
    "isomap": ProjectionMethod(
        "Isomap",
        "Isomap",
        _isomap,
        "Preserves distances along the nearest-neighbour graph. A single wrong edge of that graph, or a region without "
        "clips, distorts the entire map.",
        min_clips=10,
        max_clips=(2000, 2000),
        uses_graph=True,
    ),
}


def _fit(x: np.ndarray, method: str, dims: int, seed: int) -> np.ndarray:
    """Return the coordinates of a method (n, dims), float64."""
    from scipy.sparse.linalg import ArpackError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # _map_notes detects their causes for the page
            coordinates = METHODS[method].fit(x, dims, seed)
    except (ArpackError, np.linalg.LinAlgError) as error:
        raise ProjectionError(f"{METHODS[method].title} found no solution for these clips ({error}).") from error
    if not np.isfinite(coordinates).all():
        raise ProjectionError(f"{METHODS[method].title} found no finite solution for these clips.")
    return np.asarray(coordinates, dtype=np.float64)


def _map_notes(x: np.ndarray, coordinates: np.ndarray, method: str) -> list[str]:
    """Return remarks on explained variance, library and connected components."""
    notes = []
    if method == "pca":
        notes.append(f"Explains {100 * coordinates.var(0).sum() / x.var(0).sum():.0f} % of the variance.")
    if method == "tsne" and tsne_library() != "openTSNE":
        notes.append("Computed by scikit-learn.")
    if METHODS[method].uses_graph and (count := _count_components(x)) > 1:
        notes.append(
            f"The nearest-neighbour graph has {count} connected components, and their relative positions in the map "
            "have no meaning."
        )
    return notes


def _count_components(x: np.ndarray) -> int:
    """Return the number of connected components of the nearest-neighbour graph."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import kneighbors_graph

    return int(connected_components(kneighbors_graph(x, neighbourhood_size(x), include_self=True), directed=False)[0])
