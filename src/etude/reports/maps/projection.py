"""Projections of embeddings: PCA, t-SNE, UMAP, spectral, MDS and Isomap.

Every method states how few clips it needs, how many it can take, and what its map must not be read for.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from etude.errors import UserError
from etude.evaluation.formatting import format_count

PERPLEXITY = 30.0
EVERY = 100_000
NEIGHBOURS = 15
"""Nearest clips, a clip itself among them, whose graph UMAP, Isomap and spectral embedding follow."""


@dataclass(frozen=True)
class ProjectionMethod:
    """Method of projection.

    Args:
        title: Its name in print.
        short: The same where there is little room.
        fit: (n, D) float64, dimensions, seed -> coordinates (n, dimensions).
        caution: What the map keeps, and what not to read from it.
        least: Clips that it needs.
        most: Clips that it gets in the plane and in space; of more, so many drawn at random.
        graph: Whether it follows a graph of nearest clips, which may fall into parts.
    """

    title: str
    short: str
    fit: Callable[[np.ndarray, int, int], np.ndarray]
    caution: str
    least: int
    most: tuple[int, int]
    graph: bool = False


@dataclass(frozen=True)
class Projection:
    """Projection of clips.

    Args:
        rows: Which clips (m,), int, in ascending order: all n, or a random subset of what the method can bear.
        at: Their coordinates (m, dims), float64.
        note: What has to be known about this very map; "" when there is nothing.
    """

    rows: np.ndarray
    at: np.ndarray
    note: str


class ProjectionError(UserError):
    """Reason why a map cannot be made."""


def project(x: np.ndarray, method: str, dims: int, seed: int = 0) -> Projection:
    """Project embeddings into the plane or into space; the same input gives the same map.

    Args:
        x: Embeddings (n, D), finite.
        method: A key of METHODS.
        dims: 2 or 3.
        seed: Of all that is random in the method, and of the subset.

    Raises:
        ProjectionError: Too few clips, dimensions or differing embeddings for this method, or it found no solution.
    """
    chosen = METHODS[method]
    rows = subset(len(x), chosen.most[dims - 2], seed)
    every = len(x)
    x = np.asarray(x, dtype=np.float64)[rows]
    if len(x) < chosen.least:
        raise ProjectionError(
            f"{chosen.title} needs at least {chosen.least} clips; there {'is' if len(x) == 1 else 'are'} {len(x)}."
        )
    if x.shape[1] < dims:
        raise ProjectionError(
            f"The embedding has {format_count(x.shape[1], 'dimension')}: there is no map of it in {dims}."
        )
    distinct = len(np.unique(x, axis=0))
    if distinct == 1:
        raise ProjectionError(f"The embeddings of all {len(x)} clips are equal: no map tells them apart.")
    if distinct < chosen.least:
        needed = f"{chosen.title} needs at least {chosen.least} embeddings that differ"
        raise ProjectionError(f"{needed}; there are {distinct}.")
    at = _fit(x, method, dims, seed)
    notes = (
        [f"Made of {len(x):,} of {every:,} clips, drawn at random: what this method bears in {dims}-D."]
        if len(x) < every
        else []
    )
    return Projection(rows, at, " ".join([*notes, *_notes(x, at, method)]))


def subset(n: int, most: int, seed: int) -> np.ndarray:
    """Return at most so many of n rows at random, ascending; of one seed, smaller subsets lie within larger ones."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most]) if n > most else np.arange(n)


def tsne_library() -> str:
    """Return the library of t-SNE: openTSNE where it is installed, which 10,000 clips need, else scikit-learn."""
    return "openTSNE" if find_spec("openTSNE") else "scikit-learn"


def neighbourhood_size(x: np.ndarray) -> int:
    """Return the size of the neighbourhoods that a graph of these clips is made of."""
    return min(NEIGHBOURS, len(x) - 1)


def _pca(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(dims, svd_solver="full").fit_transform(x)


def _tsne(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    if tsne_library() == "openTSNE":
        from openTSNE import TSNE

        logging.getLogger("openTSNE").setLevel(logging.WARNING)  # it tells of every choice it makes
        # of 10,000 clips it would choose interpolation, which it has for the plane alone
        forces = "auto" if dims == 2 else "bh"
        model = TSNE(dims, perplexity, negative_gradient_method=forces, n_jobs=1, random_state=seed)
        return np.asarray(model.fit(x))
    from sklearn.manifold import TSNE as Exact

    return Exact(dims, perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)


def _umap(x: np.ndarray, dims: int, seed: int) -> np.ndarray:
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

    # the sparse solver begins at a vector that no seed of its own fixes
    return Isomap(n_neighbors=neighbourhood_size(x) - 1, n_components=dims, eigen_solver="dense").fit_transform(x)


METHODS = {
    "pca": ProjectionMethod(
        "PCA",
        "PCA",
        _pca,
        "The straight view along the directions of largest spread. Clips that are far apart here are far apart in the "
        "full space; clips that lie together here may differ in every other direction.",
        least=4,
        most=(EVERY, EVERY),
    ),
    "tsne": ProjectionMethod(
        "t-SNE",
        "t-SNE",
        _tsne,
        "Keeps who is near whom. How far two clusters are apart, how large they are and how dense says nothing, and "
        "clusters appear in noise, too.",
        least=10,
        most=(EVERY, 2000),  # in space without interpolation: 10,000 clips took over 150 s, 2,000 take 15 s
    ),
    "umap": ProjectionMethod(
        "UMAP",
        "UMAP",
        _umap,
        "Keeps who is near whom, and draws gaps wider than they are. Distances between clusters, their size and their "
        "density say little.",
        least=10,
        most=(EVERY, EVERY),
        graph=True,
    ),
    "spectral": ProjectionMethod(
        "Spectral embedding",
        "Spectral",
        _spectral,
        "Shows where the graph of nearest clips is easiest to cut. What is well connected shrinks to a point and a few "
        "outliers take the room; distances are not those of the embedding.",
        least=10,
        most=(3000, 3000),
        graph=True,
    ),
    "mds": ProjectionMethod(
        "MDS",
        "MDS",
        _mds,
        "Tries to keep every distance, far ones above all. So few dimensions cannot hold them, and the error is spread "
        "over all clips: close neighbours here need not be neighbours.",
        least=4,
        most=(2000, 2000),
    ),
    "isomap": ProjectionMethod(
        "Isomap",
        "Isomap",
        _isomap,
        "Keeps distances along the graph of nearest clips. One wrong bridge in that graph, or a region without clips, "
        "bends the whole map.",
        least=10,
        most=(2000, 2000),
        graph=True,
    ),
}


def _fit(x: np.ndarray, method: str, dims: int, seed: int) -> np.ndarray:
    from scipy.sparse.linalg import ArpackError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is looked for in _notes, and said on the page
            at = METHODS[method].fit(x, dims, seed)
    except (ArpackError, np.linalg.LinAlgError) as error:
        raise ProjectionError(f"{METHODS[method].title} found no solution on these clips ({error}).") from error
    if not np.isfinite(at).all():
        raise ProjectionError(f"{METHODS[method].title} found no finite solution on these clips.")
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
    """Return the number of connected parts of the graph of nearest clips."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import kneighbors_graph

    return int(connected_components(kneighbors_graph(x, neighbourhood_size(x), include_self=True), directed=False)[0])
