"""Tests of the search for duplicate recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.reports.dataset.dataset_page import Explored

from etude.data.pack import Pack
from etude.reports.dataset import leakage

pytestmark = pytest.mark.xdist_group("dataset")  # which share the page of a collection


def test_offset_between_two_clips_is_found() -> None:
    rng = np.random.default_rng(0)
    recording = rng.normal(size=(400, 128)).cumsum(0)  # a random walk, as the spectrum of a piece changes slowly
    x, y = leakage.spectral_contour(recording[:300]), leakage.spectral_contour(recording[90:])
    assert leakage.max_correlation(x, y) == (pytest.approx(1), 90)
    assert leakage.max_correlation(y, x) == (pytest.approx(1), -90)
    noisy = y + 0.3 * y.std() * rng.normal(size=y.shape)
    correlation, offset = leakage.max_correlation(x, noisy)
    overlap = np.stack([z - z.mean(0) for z in (x[90:], noisy[:210])]).reshape(2, -1)
    assert (correlation, offset) == (pytest.approx(np.corrcoef(overlap)[0, 1], abs=1e-4), 90)
    assert leakage.max_correlation(np.zeros((50, 16)), np.zeros((50, 16))) == (0.0, 0)


def test_nearest_pairs_are_equal_to_exhaustive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.normal(size=(10, 30)), 4, axis=0) + 0.3 * rng.normal(size=(40, 30))
    monkeypatch.setattr(leakage, "BLOCK", 7)
    unit = (vectors - vectors.mean(0)) / vectors.std(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(40)
    neighbours = np.argsort(-cosine, axis=1)[:, : leakage.NEIGHBOURS]
    expected = {(min(i, j), max(i, j)) for i in range(40) for j in neighbours[i] if cosine[i, j] >= leakage.MIN_COSINE}
    pairs = leakage.nearest_pairs(vectors)
    assert set(pairs) == expected and len(expected) >= 50
    assert all(value == pytest.approx(cosine[pair], abs=1e-5) for pair, value in pairs.items())
    assert leakage.nearest_pairs(vectors[:1]) == {}


def test_single_clip_has_no_similar_pairs(home: Path, explored: Explored) -> None:
    pack = Pack(next(path.parent for path in (home / "packs").glob("clips-*/manifest.json")))
    pack.index = pack.index.head(1)
    assert leakage.similar_pairs(pack, 128) == {"similar": [], "n_compared": 0, "closest": None}
