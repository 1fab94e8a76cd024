"""Every map is that of the library called by hand; what cannot be mapped says so in a sentence."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from etude.reports.maps.projection import METHODS, ProjectionError, project, subset, tsne_library

pytestmark = pytest.mark.xdist_group("maps")  # numba compiles for half a minute, in each process anew


def by_hand(method: str, x: np.ndarray, dims: int, seed: int) -> np.ndarray:
    """The libraries, as their own pages say to call them."""
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
        return model.fit_transform(x, init=by_hand("pca", x, dims, seed))
    return model.fit_transform(x)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(60, 6)) + 4 * np.eye(6)[rng.integers(3, size=60)]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_library_and_itself(x: np.ndarray, method: str, dims: int) -> None:
    made = project(x, method, dims, seed=5)
    assert made.rows.tolist() == list(range(60))
    assert made.at.shape == (60, dims)
    np.testing.assert_array_equal(project(x, method, dims, seed=5).at, made.at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = by_hand(method, x, dims, 5)
    if method == "isomap":  # another solver: its axes are the same up to their sign
        expected = expected * np.sign((expected * made.at).sum(0))
    np.testing.assert_allclose(made.at, expected, atol=1e-6 * np.abs(expected).max())


def test_pca_says_what_variance_it_holds(x: np.ndarray) -> None:
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert project(x, "pca", 2).note == f"Holds {100 * values[:2].sum() / values.sum():.0f} % of the variance."


def test_of_too_many_clips_some_are_drawn(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mds", replace(METHODS["mds"], most=(20, 30)))
    made = project(x, "mds", 2, seed=1)
    assert made.rows.tolist() == subset(60, 20, 1).tolist()
    assert "20 of 60 clips, drawn at random: what this method bears in 2-D." in made.note
    assert len(project(x, "mds", 3, seed=1).rows) == 30
    np.testing.assert_array_equal(made.at, project(x[made.rows], "mds", 2, seed=1).at)
    assert set(subset(60, 20, 1)) < set(subset(60, 40, 1)), "smaller subsets lie within larger ones"


def test_a_graph_in_parts_is_told(x: np.ndarray) -> None:
    apart = np.concatenate([x[:30], x[:30] + 1000])
    assert "falls into 2 parts" in project(apart, "isomap", 2).note
    assert "parts" not in project(x, "isomap", 2).note


@pytest.mark.parametrize("method", METHODS)
def test_the_fewest_clips_are_mapped_and_fewer_say_why(x: np.ndarray, method: str) -> None:
    least = METHODS[method].least
    for dims in (2, 3):
        assert np.isfinite(project(x[:least], method, dims).at).all()
    with pytest.raises(ProjectionError, match=f"needs at least {least} clips; there are {least - 1}"):
        project(x[: least - 1], method, 2)
    with pytest.raises(ProjectionError, match="all 20 clips are equal"):
        project(np.ones((20, 6)), method, 2)
    with pytest.raises(ProjectionError, match=f"{least} embeddings that differ; there are 2"):
        project(np.repeat(x[:2], 10, axis=0), method, 2)
    with pytest.raises(ProjectionError, match="has 2 dimensions: there is no map of it in 3"):
        project(x[:, :2], method, 3)


def test_without_its_extra_tsne_is_that_of_scikit_learn(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.reports.maps.projection.find_spec", lambda name: None)
    made = project(x, "tsne", 2, seed=5)
    assert "scikit-learn" in made.note
    np.testing.assert_allclose(made.at, by_hand("tsne", x, 2, 5), atol=1e-4)


def test_umap_is_imported_by_its_own_map_alone() -> None:
    code = (
        "import sys, numpy as np\nfrom etude.cli import maps\nmaps.main(['--help'])\n"
        "heavy = {'torch', 'umap', 'numba', 'openTSNE', 'sklearn', 'plotly'}\nassert not heavy & set(sys.modules)\n"
        "from etude.reports.maps.projection import project\nx = np.random.default_rng(0).normal(size=(20, 4))\n"
        "[project(x, method, 2) for method in ('pca', 'mds', 'isomap', 'spectral')]\n"
        "assert not {'umap', 'torch', 'openTSNE'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
