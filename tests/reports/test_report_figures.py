"""Tests of the figures of a run report."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from tests.reports.report_page import ReportPage, build_report

from etude.reports import run_figures
from etude.reports.run_report import write_report
from etude.runs.folder import RunFolder, write_metrics


def test_figures_have_the_colours_of_the_page(run: Path, report: tuple[ReportPage, dict]) -> None:
    drawings = re.findall(r"<svg.*?</svg>", (run / "report.html").read_text(encoding="utf-8"), flags=re.DOTALL)
    described = [svg for svg in drawings if "aria-hidden" not in svg]
    # scores, two of calibration, one scatter and two residual plots for each scalar, three curves, and two maps
    assert len(described) == 1 + 2 + 3 * 3 + 3 + 2
    for svg in drawings:
        assert "var(--" in svg and not re.search(r"#[0-9a-f]{6}", svg) and "font-family" not in svg


def test_every_logged_value_has_a_panel(make_run) -> None:
    folder = make_run("joint")
    log = pd.DataFrame({"epoch": [1, 2, 3], "step": [9, 19, 29], "train/loss": [3, 2, 1], "val/loss": [3.1, 2.1, 1.9]})
    for name in ("genre", "valence"):
        log = log.assign(**{f"{split}/{name}/loss": [2, 1, 0.5] for split in ("train", "val")})
        log[f"train/{name}/weight"] = [1, 0.9, 0.8]
    log = log.assign(**{"val/genre/macro_f1": [0.1, 0.2, 0.3], "val/valence/spearman": [0.1, 0.3, 0.2]})
    log = log.assign(**{"val/score": [0.1, 0.25, 0.25], "lr": [1e-3, 5e-4, 0], "lr/1": [1e-4, 5e-5, 0]})
    log.to_csv(folder / "curves.csv", index=False)
    page, _ = build_report(folder)
    text = (folder / "report.html").read_text("utf-8").split('id="training"')[1].split("</section>")[0]
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert captions == [
        *("Loss", "Loss of genre", "Loss of valence", "Mean of the primary scores, validation"),
        *("Macro-F1 of genre, validation", "Spearman ρ of valence, validation"),
        *("Loss weight of genre", "Loss weight of valence", "Learning rate", "Learning rate of group 1"),
    ]
    assert "used for the predictions" not in text  # epoch 6 was not logged
    constant = log.assign(**{f"train/{name}/weight": 1.0 for name in ("genre", "valence")})
    constant.to_csv(folder / "curves.csv", index=False)
    page, _ = build_report(folder)
    assert "The loss weights of the targets were constant: genre 1.00, valence 1.00." in page.text


def test_maps_require_clips_embeddings_and_one_network(make_run, table: pd.DataFrame) -> None:
    page, _ = build_report(make_run("few", table=table[::6]))
    assert "There is no map: there are 5 test clips; a map requires 12." in page.text
    page, _ = build_report(make_run("bare", table=table.drop(columns="embedding")))
    assert "There is no map: the table of predictions has no embeddings." in page.text
    page, _ = build_report(make_run("pooled", data={"pooled": [0, 1], "folds": 2, "name": "demo"}))
    assert "There is no map: each fold has its own network" in page.text


def test_map_is_equal_to_scikit_learn_and_reproducible(table: pd.DataFrame, targets: dict) -> None:
    z = np.stack(table["embedding"].to_list()).astype(float)
    projection = run_figures.project_embeddings(z)["Principal components"]
    expected = PCA(2).fit_transform(StandardScaler().fit_transform(z))
    assert np.abs(projection) == pytest.approx(np.abs(expected), abs=1e-6)
    first, second = (run_figures.embedding_maps(table, targets) for _ in range(2))
    assert first == second and first["has_errors"] and first["coloured_by"] == "genre"
    n_wrong = (table["genre.true"] != table["genre.pred"])[table["split"] == "test"].sum()
    circles = first["maps"][0][1].split("fill:none;stroke:var(--ink)")[0].rsplit('d="', 1)[1]
    assert circles.count("M") == n_wrong


def test_report_of_many_clips_is_small(make_run, table: pd.DataFrame) -> None:
    folder = make_run("many")
    write_metrics(RunFolder(folder))  # of few clips, which is faster; the figures show the table below
    many = pd.concat([table] * 300, ignore_index=True)
    many.assign(id=[f"clip {i}" for i in many.index]).to_parquet(folder / "predictions.parquet")
    assert write_report(RunFolder(folder)).stat().st_size < 2_000_000
