"""Tests of the quality of maps against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from etude.reports.maps.embeddings import NEIGHBOURS, neighbour_scores, neighbourhood_preservation

N = 70


@pytest.fixture(scope="module")
def space() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, groups of different sizes, and classes and numbers that depend on the points."""
    rng = np.random.default_rng(0)
    classes = rng.integers(4, size=N)
    groups = rng.integers(9, size=N) * 3
    x = rng.normal(size=(N, 5)) + 2 * np.eye(5)[classes] + rng.normal(size=(30, 5))[groups]
    return x, groups, classes, x[:, 0] + rng.normal(size=N)


def test_identical_map_preserves_all_neighbours(space) -> None:
    assert neighbourhood_preservation(space[0], space[0]) == {"trustworthiness": 1.0, "continuity": 1.0}
    assert neighbourhood_preservation(space[0], 3 - 2 * space[0]) == {"trustworthiness": 1.0, "continuity": 1.0}


def test_continuity_is_trustworthiness_with_exchanged_spaces(space) -> None:
    x, coordinates = space[0], space[0][:, :2]
    scores = neighbourhood_preservation(x, coordinates)
    assert scores["trustworthiness"] == trustworthiness(x, coordinates, n_neighbors=NEIGHBOURS)
    assert (
        scores["continuity"]
        == neighbourhood_preservation(coordinates, x)["trustworthiness"]
        != scores["trustworthiness"]
    )
    assert neighbourhood_preservation(x[:2], coordinates[:2]) == {"trustworthiness": None, "continuity": None}


def test_neighbour_scores_equal_predictions_of_scikit_learn(space) -> None:
    x, groups, classes, numbers = space
    scores = neighbour_scores(x, groups, {"genre": ("label", classes), "energy": ("scalar", numbers)})
    vote, mean = KNeighborsClassifier(NEIGHBOURS), KNeighborsRegressor(NEIGHBOURS)
    for key, folds in (("all_clips", LeaveOneOut()), ("other_groups", LeaveOneGroupOut())):
        predicted = cross_val_predict(vote, x, classes, groups=groups, cv=folds)
        assert scores["genre"][key] == pytest.approx((predicted == classes).mean())
        predicted = cross_val_predict(mean, x, numbers, groups=groups, cv=folds)
        assert scores["energy"][key] == pytest.approx(spearmanr(predicted, numbers).statistic)
    assert scores["genre"]["silhouette"] == pytest.approx(silhouette_score(x, classes))
    assert scores["genre"]["majority"] == np.bincount(classes).max() / N
    assert scores["genre"]["n_other_groups"] == scores["genre"]["n"] == N


def test_neighbours_are_fewer_than_the_clips_of_a_class() -> None:
    """With ten neighbours and three clips of each class, no clip could be predicted."""
    classes = np.repeat(np.arange(6), 3)
    x = np.random.default_rng(0).normal(size=(18, 2)) + 100 * classes[:, None]
    scores = neighbour_scores(x, np.arange(18), {"genre": ("label", classes), "energy": ("scalar", classes * 1.0)})
    assert scores["genre"]["neighbours"] == 2 and scores["genre"]["all_clips"] == 1
    assert scores["energy"]["neighbours"] == NEIGHBOURS


def test_clips_without_true_value_are_ignored(space) -> None:
    x, groups, classes, numbers = space
    unknown = np.arange(N) % 5 == 0
    targets = {
        "genre": ("label", np.where(unknown, -1, classes)),
        "energy": ("scalar", np.where(unknown, np.nan, numbers)),
    }
    known = {"genre": ("label", classes[~unknown]), "energy": ("scalar", numbers[~unknown])}
    assert neighbour_scores(x, groups, targets) == neighbour_scores(x[~unknown], groups[~unknown], known)


def test_score_with_other_groups_excludes_classes_of_a_single_group(space) -> None:
    x, groups, classes, _ = space
    changed = np.where(classes == 0, 1, groups)  # class 0 occurs only in group 1, and no other class does
    scores = neighbour_scores(x, changed, {"genre": ("label", classes)})["genre"]
    predicted = cross_val_predict(KNeighborsClassifier(NEIGHBOURS), x, classes, groups=changed, cv=LeaveOneGroupOut())
    assert scores["n_other_groups"] == (classes != 0).sum()
    assert scores["other_groups"] == pytest.approx((predicted == classes)[classes != 0].mean())


def test_undefined_scores_are_none(space) -> None:
    x, groups, classes, _ = space
    single = neighbour_scores(x, np.zeros(N, int), {"genre": ("label", classes), "energy": ("scalar", np.ones(N))})
    assert single["genre"]["other_groups"] is None and single["genre"]["all_clips"] is not None, (
        "there is only one group"
    )
    assert single["energy"]["all_clips"] is None, "a constant has no ranks"
    same = neighbour_scores(x, groups, {"genre": ("label", np.zeros(N, int))})["genre"]
    assert (same["all_clips"], same["silhouette"]) == (1.0, None)
    none = neighbour_scores(x, groups, {"genre": ("label", np.full(N, -1))})["genre"]
    assert (none["n"], none["all_clips"], none["majority"]) == (0, None, None)
