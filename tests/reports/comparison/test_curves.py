"""Tests of the page of learning curves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tests.reports.dataset.dataset_page import DatasetPage

from etude.reports.charts import log_ticks
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare_folders
from etude.reports.comparison.curves import render_curves
from etude.reports.comparison.scores import read_runs

LOG_LINE = "2026-11-22 14:03:11,000 INFO etude.training.callbacks: epoch 2/9"


def write_curves(folder: Path, loss: list[object], f1: list[float]) -> None:
    log = pd.DataFrame({"epoch": range(1, len(loss) + 1), "train/loss": loss, "val/loss": loss, "val/genre/loss": loss})
    log.assign(**{"val/genre/macro_f1": f1, "val/score": f1}).to_csv(folder / "curves.csv", index=False, na_rep="nan")


@pytest.fixture(scope="module")
def sweep(
    tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path], make_table: Callable[..., pd.DataFrame]
) -> Path:
    """Two seeds of one setting, another setting, and runs that diverged, are running, and have no curves."""
    sweep = tmp_path_factory.mktemp("curves") / "sweep"
    table = make_table().drop(columns=[name for name in make_table() if name.startswith("valence")])
    for name, backbone, seed in (("a", "lstm", 0), ("b", "lstm", 1), ("c", "cnn", 0), ("d", "cnn", 1)):
        choices = {"backbone": backbone, "feature": "x", "head": "x", "task": "x"}
        config = {"choices": choices, "trainer": {"max_epochs": 9}}
        write_run(sweep / name, table, config, backbone=backbone, seed=seed, name=name)
    write_curves(sweep / "a", [1.0, 0.8, 0.6], [0.2, 0.5, 0.4])
    write_curves(sweep / "b", [1.1, 0.9, 0.7], [0.1, 0.2, 0.3])
    write_curves(sweep / "c", [1.0, float("nan")], [0.2, 0.1])
    record = (sweep / "a" / "record.json").read_text().replace('"model": {', '"model": {"best_epoch": 3, ')
    (sweep / "a" / "record.json").write_text(record)
    shutil.copytree(sweep / "a", sweep / "running")
    for path in ("metrics.json", "record.json", "predictions.parquet"):
        (sweep / "running" / path).unlink()
    (sweep / "running" / "train.log").write_text(LOG_LINE)
    write_curves(sweep / "running", [1.0, 0.9], [0.2, 0.3])
    return sweep


def test_comparison_writes_page_of_curves_with_all_states(sweep: Path, tmp_path: Path) -> None:
    paths = compare_folders([sweep], CompareOptions(out=tmp_path))[1]
    assert paths[-1] == tmp_path / "curves.html" and 'href="curves.html"' in (tmp_path / "compare.html").read_text()
    page = DatasetPage(paths[-1].read_text("utf-8"))
    rows = {row[0]: row[3:] for row in page.tables["Epochs of each run"][1:]}
    assert rows["a"] == ["val/score", "2", "0.500", "3", "0.400", "finished"]
    assert rows["b"] == ["val/score", "3", "0.300", "–", "–", "finished"]
    assert rows["c"][-1] == "Diverged: values are not finite from epoch 2."
    assert rows["running"][-1] == "Not finished: 2 of 9 epochs." and rows["running"][3] == "–"
    assert "d: there is no curves.csv." in page.text
    assert "http" not in paths[-1].read_text("utf-8").replace("http://www.w3.org", "") and "<script" not in page.text
    only_tables = compare_folders([sweep], CompareOptions(out=tmp_path / "t", formats=("csv",)))[1]
    assert [path.name for path in only_tables] == ["compare.csv"]


def test_seeds_share_a_colour_and_panels_share_their_axes(sweep: Path) -> None:
    text = render_curves(read_runs(sweep))
    assert "2 settings." in text and "lstm (3 runs)" in text
    lines = re.findall(
        r'<path d="M([^"]*)" style="fill:none;stroke:var\(--(group-\d)\)"[^>]*><title>(\w+)</title>', text
    )
    colours = {title: colour for _, colour, title in lines}
    assert colours["a"] == colours["b"] == colours["running"] != colours["c"]
    score_lines = {title: points for points, _, title in lines[-4:]}  # the last overlay
    assert set(score_lines) == {"a", "b", "c", "running"}
    height = {title: [float(point.split()[1]) for point in points.split("L")] for title, points in score_lines.items()}
    scale = (height["a"][0] - height["a"][1]) / 0.3  # pixels per unit of macro-F1
    assert height["b"][2] == pytest.approx(height["a"][0] - 0.1 * scale, abs=0.1)
    assert height["running"][0] == height["a"][0] == height["c"][0]
    panels = re.findall(r'<svg class="panel" viewBox="0 0 250 150".*?</svg>', text, flags=re.DOTALL)
    labels = [re.findall(r"<text[^>]*>([^<]*)</text>", panel) for panel in panels[4:]]  # of the score
    assert len(panels) == 8 and all(label == labels[0] for label in labels[:2])


def test_logarithmic_ticks_are_round_and_inside_the_axis() -> None:
    ticks = log_ticks((-2.2, 0.4), 7)
    assert [label for _, label in ticks] == ["0.01", "0.03", "0.1", "0.3", "1"]
    assert all(10**position == pytest.approx(float(label)) for position, label in ticks)
    assert len(log_ticks((-9, 9), 5)) <= 5


def test_runs_without_curves_are_listed_by_reason(sweep: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(sweep / name, tmp_path / name)
        (tmp_path / name / "curves.csv").unlink()
    text = render_curves(read_runs(tmp_path))
    assert "<h1>Learning curves</h1>" in text and "No run has learning curves." in text
    assert "<li>a; b: there is no curves.csv.</li>" in text
    assert not re.search(r'href="#(overlay|runs|table)"', text)


def test_linear_probes_have_readouts_and_no_page_of_curves(
    tmp_path: Path, write_run: Callable[..., Path], make_table: Callable[..., pd.DataFrame]
) -> None:
    probe = {"optim": {"_target_": "etude.training.optimiser.LinearProbe"}}
    layers: list[dict[str, str | None]] = [{"layers": "all", "pooling": "mean_std"}, {"layers": None}, {}]
    for i, (name, readout) in enumerate(zip(("a", "b", "mean"), layers, strict=True)):
        write_run(tmp_path / name, make_table(i), probe | {"readout": {"combine": "concat"} | readout}, name="probe")
        record = json.loads((tmp_path / name / "record.json").read_text())
        fit = {"linear_probe": {"genre": {"penalty": {"C": 0.01}}}}
        record = record | {"ensemble": {"members": []}} if name == "mean" else record | {"model": record["model"] | fit}
        (tmp_path / name / "record.json").write_text(json.dumps(record))
    comparison, paths = compare_folders([tmp_path])
    (table,) = comparison.tables
    i = table.row_axes.index("readout")
    assert [row[i] for row in table.rows[:3]] == ["all_mean_std", "default", "–"]
    assert [row[0] for row in table.rows[:3]] == ["a", "b", "mean"]
    (note,) = [note for note in table.notes if "penalty" in note]
    assert note.endswith("penalty C=0.01 (–), one of each member (ensemble).")
    assert [path.name for path in paths] == ["compare.csv", "compare.md", "compare.tex", "compare.html"]
    assert not (tmp_path / "curves.html").exists() and "curves.html" not in paths[-1].read_text()
    page = render_curves(read_runs(tmp_path))
    assert "<li>a; b: a linear probe has no epochs.</li>" in page and "an ensemble is not trained" in page
