"""Tests of projections against direct calls of the libraries, and of error messages."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from etude.reports.maps.projection import METHODS, ProjectionError, project, subset, tsne_library

pytestmark = pytest.mark.xdist_group("maps")  # numba compiles for half a minute in each process


def call_library(method: str, x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    """Return the coordinates from a direct call of the library, as in its documentation."""
    if method == "pca":
        centred = x - x.mean(0)
        u, s, vt = np.linalg.svd(centred, full_matrices=False)
        signs = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(1)])
        return (u * s * signs)[:, :dims]
    if method == "tsne" and tsne_library() == "openTSNE":
        from openTSNE import TSNE

        return np.asarray(TSNE(n_components=dims, perplexity=(len(x) - 1) / 3, random_state=seed, n_jobs=1).fit(x))
    if method == "umap":
        from umap import UMAP

        return UMAP(n_neighbors=15, n_components=dims, random_state=seed, n_jobs=1).fit_transform(x)
    from sklearn import manifold

    if method == "tsne":
        model = manifold.TSNE(dims, perplexity=(len(x) - 1) / 3, init="pca", random_state=seed)
    elif method == "spectral":
        model = manifold.SpectralEmbedding(dims, affinity="nearest_neighbors", n_neighbors=15, random_state=seed)
    elif method == "isomap":
        model = manifold.Isomap(n_neighbors=14, n_components=dims)
    else:
        model = manifold.MDS(dims, n_init=1, random_state=seed)
        return model.fit_transform(x, init=call_library("pca", x, dims, seed))
    return model.fit_transform(x)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(60, 6)) + 4 * np.eye(6)[rng.integers(3, size=60)]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "method",  # the full suite includes those that compile functions of numba for half a minute
    [pytest.param(name, marks=pytest.mark.full if name in ("tsne", "umap") else []) for name in METHODS],
)
def test_projection_equals_the_library_and_is_reproducible(x: np.ndarray, method: str, dims: int) -> None:
    projection = project(x, method, dims, seed=5)
    assert projection.rows.tolist() == list(range(60))
    assert projection.coordinates.shape == (60, dims)
    np.testing.assert_array_equal(project(x, method, dims, seed=5).coordinates, projection.coordinates)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = call_library(method, x, dims, 5)
    if method == "isomap":  # the axes of another solver are equal up to their sign
        expected = expected * np.sign((expected * projection.coordinates).sum(0))
    np.testing.assert_allclose(projection.coordinates, expected, atol=1e-6 * np.abs(expected).max())


def test_pca_note_has_explained_variance(x: np.ndarray) -> None:
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert project(x, "pca", 2).note == f"Explains {100 * values[:2].sum() / values.sum():.0f} % of the variance."


def test_random_subset_of_too_many_clips_is_projected(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mds", replace(METHODS["mds"], max_clips=(20, 30)))
    projection = project(x, "mds", 2, seed=1)
    assert projection.rows.tolist() == subset(60, 20, 1).tolist()
    assert "20 of 60 clips, drawn at random. This is the maximum in 2-D." in projection.note
    assert len(project(x, "mds", 3, seed=1).rows) == 30
    np.testing.assert_array_equal(projection.coordinates, project(x[projection.rows], "mds", 2, seed=1).coordinates)
    assert set(subset(60, 20, 1)) < set(subset(60, 40, 1)), "small subsets are part of large ones"


def test_connected_components_are_noted(x: np.ndarray) -> None:
    separate = np.concatenate([x[:30], x[:30] + 1000])
    assert "has 2 connected components" in project(separate, "isomap", 2).note
    assert "components" not in project(x, "isomap", 2).note


@pytest.mark.parametrize(
    "method",  # openTSNE compiles for half a minute; its replacement by scikit-learn is tested below
    [pytest.param(name, marks=pytest.mark.full if name == "tsne" else []) for name in METHODS],
)
def test_minimum_number_of_clips_is_enough(x: np.ndarray, method: str) -> None:
    for dims in (2, 3):
        assert np.isfinite(project(x[: METHODS[method].min_clips], method, dims).coordinates).all()


@pytest.mark.parametrize("method", METHODS)
def test_too_few_clips_or_dimensions_are_refused(x: np.ndarray, method: str) -> None:
    minimum = METHODS[method].min_clips
    with pytest.raises(ProjectionError, match=f"needs at least {minimum} clips; there are {minimum - 1}"):
        project(x[: minimum - 1], method, 2)
    with pytest.raises(ProjectionError, match="all 20 clips are equal"):
        project(np.ones((20, 6)), method, 2)
    with pytest.raises(ProjectionError, match=f"{minimum} distinct embeddings; there are 2"):
        project(np.repeat(x[:2], 10, axis=0), method, 2)
    with pytest.raises(ProjectionError, match="has 2 dimensions, too few for a map in 3-D"):
        project(x[:, :2], method, 3)


def test_tsne_without_opentsne_is_that_of_scikit_learn(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.reports.maps.projection.find_spec", lambda name: None)
    projection = project(x, "tsne", 2, seed=5)
    assert "scikit-learn" in projection.note
    np.testing.assert_allclose(projection.coordinates, call_library("tsne", x, 2, 5), atol=1e-4)


def test_umap_is_only_imported_for_its_map() -> None:
    code = (
        "import sys, numpy as np\nfrom etude.cli.app import run_command\nassert run_command('maps', ['--help']) == 0\n"
        "heavy = {'torch', 'umap', 'numba', 'openTSNE', 'sklearn', 'plotly'}\nassert not heavy & set(sys.modules)\n"
        "from etude.reports.maps.projection import project\nx = np.random.default_rng(0).normal(size=(20, 4))\n"
        "[project(x, method, 2) for method in ('pca', 'mds', 'isomap', 'spectral')]\n"
        "assert not {'umap', 'torch', 'openTSNE'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
