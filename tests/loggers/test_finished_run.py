"""Tests of the numbers, tables and figures that trackers receive."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, f1_score
from tests.synthetic_runs import CLASSES, HOSTILE, SCALARS

from etude.evaluation.means import targets_and_mean
from etude.loggers import finished_run
from etude.loggers.finished_run import FinishedRun, confusion_table
from etude.reports.svg import ROLES, STAND_IN, Drawing, page_colours
from etude.runs.folder import RunFolder


@pytest.fixture(scope="module")
def finished(folder: Path) -> FinishedRun:
    return FinishedRun(RunFolder(folder))


def test_all_numbers_of_metrics_json_have_a_name(finished: FinishedRun) -> None:
    """Each name is resolved to its value in metrics.json."""
    splits = {"test": "test", "validation": "val"}
    count = 0
    for name, value in finished.numbers.items():
        keys = name.split("/")
        if keys[0] not in splits:
            continue
        node = targets_and_mean(finished.metrics)[keys[1]]["splits"][splits[keys[0]]]
        if keys[2] in ("n", "groups", "ungrouped"):
            assert value == node[keys[2]]
            continue
        baseline = keys[2].removeprefix("over_")
        if baseline in node["baselines"]:
            node = node["baselines"][baseline]["difference" if keys[2] != baseline else "scores"]
            keys = keys[1:]
        else:
            node = node["scores"] | node.get("calibration", {}) | node.get("agreement", {})
        assert value == node[keys[2]][keys[3] if len(keys) > 3 else "value"], name
        count += 1
    metrics = copy.deepcopy(finished.metrics)
    for target in metrics["targets"].values():
        for results in target["splits"].values():  # bins and chance are only for a page
            for key in ("bins", "chance"):
                results.get("calibration", {}).pop(key, None)
    text = json.dumps(metrics)
    assert count == sum(text.count(f'"{end}": ') - text.count(f'"{end}": null') for end in ("value", "low", "high")) - 8


def test_undefined_numbers_are_omitted(finished: FinishedRun) -> None:
    assert (
        finished.metrics["targets"]["valence"]["splits"]["test"]["baselines"]["constant"]["scores"]["spearman"]["value"]
        is None
    )
    assert "test/valence/constant/spearman" not in finished.numbers
    assert all(np.isfinite(value) for value in finished.numbers.values())


def test_numbers_equal_scikit_learn(finished: FinishedRun) -> None:
    test = finished.predictions[finished.predictions["split"] == "test"]
    expected = f1_score(test["genre.true"], test["genre.pred"], average="macro", labels=CLASSES, zero_division=0)
    assert finished.numbers["test/genre/macro_f1"] == pytest.approx(expected)


def test_confusion_table_equals_scikit_learn(finished: FinishedRun) -> None:
    test = finished.predictions[finished.predictions["split"] == "test"]
    counts = finished.tables["confusion/genre"].pivot(index="actual", columns="predicted", values="clips")
    expected = confusion_matrix(test["genre.true"], test["genre.pred"], labels=CLASSES)
    np.testing.assert_array_equal(counts.loc[CLASSES, CLASSES], expected)


def test_map_equals_singular_vectors(finished: FinishedRun) -> None:
    z, metadata = finished.embedding
    centred = (z - z.mean(0)).astype(np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    table = finished.tables["maps"]
    for axis, name in enumerate("xy"):
        np.testing.assert_allclose(np.abs(table[name]), np.abs(u[:, axis] * s[axis]), atol=1e-5)
    assert table["id"].tolist() == metadata["id"].tolist()
    assert HOSTILE in table["id"].tolist()  # pages and trackers escape it


@pytest.mark.parametrize(("rows", "dim"), [(0, 4), (1, 4), (5, 1), (2, 3)])
def test_map_of_few_clips_is_finite(rows: int, dim: int) -> None:
    z = list(np.random.default_rng(0).normal(size=(rows + 1, dim)).astype(np.float32))
    table = pd.DataFrame({"id": [str(i) for i in range(rows + 1)], "group": "g", "embedding": z})
    table["split"] = ["val"] + ["test"] * rows
    points = finished_run.map_table(table)
    assert len(points) == rows
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()


def test_predictions_table_has_all_rows_without_embeddings(finished: FinishedRun) -> None:
    expected = pd.read_parquet(finished.files.path / "predictions.parquet").drop(columns="embedding")
    pd.testing.assert_frame_equal(finished.tables["predictions"], expected)


def test_figures_have_the_colours_of_the_page(finished: FinishedRun) -> None:
    from matplotlib.image import imread

    assert set(finished.figures) == {"scores", *(f"scatter/{n}" for n in SCALARS)}
    real = {role: [int(colour[i : i + 2], 16) for i in (1, 3, 5)] for role, colour in page_colours().items()}
    for name, png in finished.figures.items():
        pixels = (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int).reshape(-1, 3)
        present = set(map(tuple, pixels))
        assert tuple(real["paper"]) in present, name
        stand_in = {tuple(int(STAND_IN[role][i : i + 2], 16) for i in (1, 3, 5)) for role in ROLES}
        assert not present & stand_in, name
    assert tuple(real["network"]) in set(
        map(tuple, (imread(io.BytesIO(finished.figures["scores"]))[..., :3] * 255).round().astype(int).reshape(-1, 3))
    )


def test_drawing_is_svg(finished: FinishedRun) -> None:
    from etude.reports import figures

    drawing = figures.forest_plot(finished.metrics["targets"])
    assert isinstance(drawing, Drawing)
    assert drawing.startswith("<svg")
    assert "var(--network)" in drawing


def test_confusion_table_of_many_classes_omits_empty_cells() -> None:
    names = [f"class {i:03d}" for i in range(101)]
    table = confusion_table(np.eye(101, dtype=int).tolist(), names)
    assert table["actual"].tolist() == table["predicted"].tolist() == names
    assert len(confusion_table(np.eye(100, dtype=int).tolist(), names[:100])) == 10_000
