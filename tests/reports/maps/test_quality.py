"""The numbers beside a map are those of scikit-learn."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from etude.reports.maps.quality import NEIGHBOURS, neighbour_scores, neighbourhood_preservation

N = 70


@pytest.fixture(scope="module")
def space() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, groups of unlike sizes, classes that nearly follow the points, a number that does."""
    rng = np.random.default_rng(0)
    classes = rng.integers(4, size=N)
    groups = rng.integers(9, size=N) * 3
    x = rng.normal(size=(N, 5)) + 2 * np.eye(5)[classes] + rng.normal(size=(30, 5))[groups]
    return x, groups, classes, x[:, 0] + rng.normal(size=N)


def test_a_map_that_is_the_space_keeps_everything(space) -> None:
    assert neighbourhood_preservation(space[0], space[0]) == {"trustworthiness": 1.0, "continuity": 1.0}
    assert neighbourhood_preservation(space[0], 3 - 2 * space[0]) == {"trustworthiness": 1.0, "continuity": 1.0}


def test_continuity_is_trustworthiness_with_the_spaces_exchanged(space) -> None:
    x, at = space[0], space[0][:, :2]
    here = neighbourhood_preservation(x, at)
    assert here["trustworthiness"] == trustworthiness(x, at, n_neighbors=NEIGHBOURS)
    assert here["continuity"] == neighbourhood_preservation(at, x)["trustworthiness"] != here["trustworthiness"]
    assert neighbourhood_preservation(x[:2], at[:2]) == {"trustworthiness": None, "continuity": None}


def test_neighbours_tell_what_a_pipeline_of_scikit_learn_predicts(space) -> None:
    x, groups, classes, numbers = space
    here = neighbour_scores(x, groups, {"genre": ("label", classes), "energy": ("scalar", numbers)})
    vote, mean = KNeighborsClassifier(NEIGHBOURS), KNeighborsRegressor(NEIGHBOURS)
    for key, folds in (("all", LeaveOneOut()), ("others", LeaveOneGroupOut())):
        said = cross_val_predict(vote, x, classes, groups=groups, cv=folds)
        assert here["genre"][key] == pytest.approx((said == classes).mean())
        said = cross_val_predict(mean, x, numbers, groups=groups, cv=folds)
        assert here["energy"][key] == pytest.approx(spearmanr(said, numbers).statistic)
    assert here["genre"]["silhouette"] == pytest.approx(silhouette_score(x, classes))
    assert here["genre"]["chance"] == np.bincount(classes).max() / N
    assert here["genre"]["asked"] == here["genre"]["n"] == N


def test_clips_without_a_truth_do_not_count(space) -> None:
    x, groups, classes, numbers = space
    lacking = np.arange(N) % 5 == 0
    targets = {
        "genre": ("label", np.where(lacking, -1, classes)),
        "energy": ("scalar", np.where(lacking, np.nan, numbers)),
    }
    kept = {"genre": ("label", classes[~lacking]), "energy": ("scalar", numbers[~lacking])}
    assert neighbour_scores(x, groups, targets) == neighbour_scores(x[~lacking], groups[~lacking], kept)


def test_other_groups_are_asked_about_classes_that_they_have(space) -> None:
    x, groups, classes, _ = space
    alone = np.where(classes == 0, 1, groups)  # class 0 is in one group, of which all other classes have none
    here = neighbour_scores(x, alone, {"genre": ("label", classes)})["genre"]
    said = cross_val_predict(KNeighborsClassifier(NEIGHBOURS), x, classes, groups=alone, cv=LeaveOneGroupOut())
    assert here["asked"] == (classes != 0).sum()
    assert here["others"] == pytest.approx((said == classes)[classes != 0].mean())


def test_what_is_undefined_is_none(space) -> None:
    x, groups, classes, _ = space
    one = neighbour_scores(x, np.zeros(N, int), {"genre": ("label", classes), "energy": ("scalar", np.ones(N))})
    assert one["genre"]["others"] is None and one["genre"]["all"] is not None, "one group has no others"
    assert one["energy"]["all"] is None, "one value has no order"
    same = neighbour_scores(x, groups, {"genre": ("label", np.zeros(N, int))})["genre"]
    assert (same["all"], same["silhouette"]) == (1.0, None)
    none = neighbour_scores(x, groups, {"genre": ("label", np.full(N, -1))})["genre"]
    assert (none["n"], none["all"], none["chance"]) == (0, None, None)
