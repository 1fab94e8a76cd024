"""What a tracker gets: the same numbers, tables and figures as the run's folder holds."""

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

from etude.loggers import finished_run
from etude.loggers.finished_run import FinishedRun, confusion_table
from etude.reports.svg import ROLES, STAND_IN, Drawing, colours
from etude.runs.folder import RunFolder


@pytest.fixture(scope="module")
def finished(folder: Path) -> FinishedRun:
    return FinishedRun(RunFolder(folder))


def test_every_number_of_metrics_json_is_there_under_its_name(finished: FinishedRun) -> None:
    """Walked the other way round: from each name to its place."""
    parts = {"test": "test", "validation": "val"}
    seen = 0
    for name, value in finished.numbers.items():
        where = name.split("/")
        if where[0] not in parts:
            continue
        node = finished.metrics["targets"][where[1]]["splits"][parts[where[0]]]
        if where[2] in ("n", "groups"):
            assert value == node[where[2]]
            continue
        baseline = where[2].removeprefix("over_")
        if baseline in node["baselines"]:
            node = node["baselines"][baseline]["difference" if where[2] != baseline else "scores"]
            where = where[1:]
        else:
            node = node["scores"] | node.get("calibration", {}) | node.get("agreement", {})
        assert value == node[where[2]][where[3] if len(where) > 3 else "value"], name
        seen += 1
    metrics = copy.deepcopy(finished.metrics)
    for target in metrics["targets"].values():
        for part in target["splits"].values():  # what a bin or chance comes to is for a page
            for key in ("bins", "chance"):
                part.get("calibration", {}).pop(key, None)
    held = json.dumps(metrics)
    assert seen == sum(held.count(f'"{end}": ') - held.count(f'"{end}": null') for end in ("value", "low", "high")) - 6


def test_what_is_undefined_is_left_out(finished: FinishedRun) -> None:
    assert (
        finished.metrics["targets"]["valence"]["splits"]["test"]["baselines"]["constant"]["scores"]["spearman"]["value"]
        is None
    )
    assert "test/valence/constant/spearman" not in finished.numbers
    assert all(np.isfinite(value) for value in finished.numbers.values())


def test_the_numbers_are_scikit_learn_s(finished: FinishedRun) -> None:
    test = finished.predictions[finished.predictions["split"] == "test"]
    expected = f1_score(test["genre.true"], test["genre.pred"], average="macro", labels=CLASSES, zero_division=0)
    assert finished.numbers["test/genre/macro_f1"] == pytest.approx(expected)


def test_the_confusion_table_is_scikit_learn_s(finished: FinishedRun) -> None:
    test = finished.predictions[finished.predictions["split"] == "test"]
    counts = finished.tables["confusion/genre"].pivot(index="actual", columns="predicted", values="clips")
    expected = confusion_matrix(test["genre.true"], test["genre.pred"], labels=CLASSES)
    np.testing.assert_array_equal(counts.loc[CLASSES, CLASSES], expected)


def test_the_latent_map_is_that_of_the_singular_vectors(finished: FinishedRun) -> None:
    z, known = finished.embedding
    centred = (z - z.mean(0)).astype(np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    latent = finished.tables["latent"]
    for axis, name in enumerate("xy"):
        np.testing.assert_allclose(np.abs(latent[name]), np.abs(u[:, axis] * s[axis]), atol=1e-5)
    assert latent["id"].tolist() == known["id"].tolist()
    assert HOSTILE in latent["id"].tolist()  # whoever shows it escapes it


@pytest.mark.parametrize(("rows", "dim"), [(0, 4), (1, 4), (5, 1), (2, 3)])
def test_a_latent_map_of_hardly_anything_is_finite(rows: int, dim: int) -> None:
    z = list(np.random.default_rng(0).normal(size=(rows + 1, dim)).astype(np.float32))
    table = pd.DataFrame({"id": [str(i) for i in range(rows + 1)], "group": "g", "embedding": z})
    table["split"] = ["val"] + ["test"] * rows
    latent = finished_run.map_table(table)
    assert len(latent) == rows
    assert np.isfinite(latent[["x", "y"]].to_numpy()).all()


def test_predictions_are_all_rows_without_embeddings(finished: FinishedRun) -> None:
    expected = pd.read_parquet(finished.files.path / "predictions.parquet").drop(columns="embedding")
    pd.testing.assert_frame_equal(finished.tables["predictions"], expected)


def test_figures_are_pictures_in_the_page_s_colours(finished: FinishedRun) -> None:
    from matplotlib.image import imread

    assert set(finished.figures) == {"scores", *(f"scatter/{n}" for n in SCALARS)}
    real = {role: [int(colour[i : i + 2], 16) for i in (1, 3, 5)] for role, colour in colours().items()}
    for name, png in finished.figures.items():
        pixels = (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int).reshape(-1, 3)
        seen = set(map(tuple, pixels))
        assert tuple(real["paper"]) in seen, name
        stand_in = {tuple(int(STAND_IN[role][i : i + 2], 16) for i in (1, 3, 5)) for role in ROLES}
        assert not seen & stand_in, name
    assert tuple(real["network"]) in set(
        map(tuple, (imread(io.BytesIO(finished.figures["scores"]))[..., :3] * 255).round().astype(int).reshape(-1, 3))
    )


def test_a_drawing_is_its_svg_still(finished: FinishedRun) -> None:
    from etude.reports import figures

    drawing = figures.forest(finished.metrics["targets"])
    assert isinstance(drawing, Drawing)
    assert drawing.startswith("<svg")
    assert "var(--network)" in drawing


def test_confusion_of_many_classes_has_no_empty_cells() -> None:
    names = [f"class {i:03d}" for i in range(101)]
    table = confusion_table(np.eye(101, dtype=int).tolist(), names)
    assert table["actual"].tolist() == table["predicted"].tolist() == names
    assert len(confusion_table(np.eye(100, dtype=int).tolist(), names[:100])) == 10_000
