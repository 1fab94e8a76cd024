"""Tests of the means over scalars in a comparison, of one run and of several single-task runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests.commands import compare as main

from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare
from etude.reports.comparison.table import _join_values
from etude.reports.comparison.text import to_markdown
from etude.runs.folder import RunFolder

SCALARS = ("valence", "energy", "danceability")


def scalar_predictions(seed: int) -> pd.DataFrame:
    """Return predictions of three scalars of 60 clips by 12 artists, all in the test split."""
    fixed, rng = np.random.default_rng(50), np.random.default_rng(seed)
    table = pd.DataFrame({"id": [f"clip {i}" for i in range(60)], "group": [f"artist {i % 12}" for i in range(60)]})
    table["split"] = "test"
    for i, name in enumerate(SCALARS):
        table[f"{name}.true"] = fixed.random(60)
        table[f"{name}.pred"] = table[f"{name}.true"] + (0.2 + 0.3 * i) * rng.normal(size=60)
        table[f"{name}.baseline.constant"] = 0.5
    table.loc[::7, "energy.true"] = np.nan
    return table


def target_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the predictions of one scalar."""
    return table[["id", "group", "split", *(column for column in table if column.startswith(f"{name}."))]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    """Runs of two seeds, with one network for three scalars and with one network each and the same predictions."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        table = scalar_predictions(seed)
        write_run(folder / f"multi_{seed}", table, task="multitask", seed=seed)
        for name in SCALARS:
            write_run(folder / f"{name}_{seed}", target_columns(table, name), task=name, seed=seed)
    return folder


def test_mean_of_single_task_runs_equals_that_of_one_run_with_the_same_predictions(runs: Path) -> None:
    options = CompareOptions(
        rows=("setting", "seed"), cols=("metric",), metrics=("spearman", "mse"), where={"target": ("mean",)}
    )
    (table,) = compare([runs], options, tests=False).tables
    assert table.rows[:4] == [(setting, seed) for setting in ("multitask", "single-task") for seed in "01"]
    for seed in (0, 1):
        predicted = scalar_predictions(seed)
        pairs = [predicted.loc[predicted[f"{name}.true"].notna(), [f"{name}.true", f"{name}.pred"]] for name in SCALARS]
        cells = [
            [table.cells[(setting, str(seed)), col] for setting in ("multitask", "single-task")] for col in table.cols
        ]
        for (multi, single), score in zip(
            cells, (lambda t, p: stats.spearmanr(t, p)[0], lambda t, p: np.mean((t - p) ** 2)), strict=True
        ):
            expected = np.mean([score(*pair.to_numpy().T) for pair in pairs])
            assert multi.mean == pytest.approx(expected) and single.mean == pytest.approx(expected)
            assert (multi.low, multi.high) == pytest.approx((single.low, single.high))
            assert multi.n == single.n == {60} and multi.low < multi.mean < multi.high
    notes = " ".join(table.notes)
    assert "mean: mean of the scores of valence, energy and danceability. For single-task runs," in notes
    assert "predictions of 3 runs, one for each target, with the same seed" in notes


def test_means_are_columns_tested_and_written(runs: Path, tmp_path: Path) -> None:
    arguments = ["--where", "target=mean", "--metric=spearman", f"--out={tmp_path}", "--format=csv,md"]
    assert main([str(runs), "--rows=setting", *arguments]) == 0
    frame = pd.read_csv(tmp_path / "compare.csv")
    assert frame["target"].unique().tolist() == ["mean"] and len(frame) == 4
    assert any(set(name.split(" + ")) == {f"{scalar}_1" for scalar in SCALARS} for name in frame["name"])
    assert "mean ± sd over 2 seeds, same split" in (tmp_path / "compare.md").read_text()
    comparison = compare([runs])
    table = comparison.tables[0]
    assert table.cols[-1] == ("mean: Spearman ρ",)
    assert sum((row, table.cols[-1]) in table.cells for row in table.rows if row not in table.baselines) == 2
    (pair,) = [pair for pair in comparison.pairs if pair.target == "mean"]
    stored = [RunFolder(runs / name).metrics["mean"]["splits"]["test"]["scores"]["spearman"]["value"]
              for name in ("multi_0", "multi_1")]  # fmt: skip
    assert pair.scores == pytest.approx(tuple(stored)) and pair.n == 60 and pair.groups == 12


def test_single_task_runs_that_cannot_be_combined_are_named(
    runs: Path, tmp_path: Path, write_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = scalar_predictions(0)
    write_run(tmp_path / "a", target_columns(table, "valence"), task="valence")
    write_run(tmp_path / "b", target_columns(table, "energy"), task="energy", split="other")
    options = CompareOptions(rows=("backbone",), cols=("target",))
    comparison = compare([tmp_path], options)
    assert not any(target == "mean" for target in comparison.frame["target"])
    assert "a, b: there is no mean over their targets, because they were scored on different" in " ".join(
        comparison.remarks
    )
    write_run(tmp_path / "c", target_columns(scalar_predictions(3), "valence"), task="valence", split="other")
    write_run(tmp_path / "d", target_columns(scalar_predictions(4), "valence"), task="valence", split="other")
    (remark,) = [remark for remark in compare([tmp_path], options).remarks if "no mean over" in remark]
    assert "several of them have the same target" in remark
    assert main([str(tmp_path), "--rows=backbone", "--where", "target=mean"]) == 2
    error = capsys.readouterr().err
    assert "--where target=mean: no run has such scores of test clips; " in error and remark.rstrip(".") in error
    assert "--split" not in error and "--metric" not in error
    assert main([str(tmp_path), "--where", "target=mean", "--split=val"]) == 2
    error = capsys.readouterr().err
    assert "--split val --where target=mean: no run has such scores of validation clips; a, b, c, d: " in error
    assert "the axis run, class, task or name; use --layout settings" in error


def test_run_of_older_version_without_mean_is_named(
    tmp_path: Path, write_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("new", "old")):
        write_run(tmp_path / name, scalar_predictions(i), seed=i)
    path = tmp_path / "old" / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    del metrics["mean"], metrics["checksum"]
    path.write_text(json.dumps(metrics), "utf-8")
    hint = "old: Its scores have no mean over the scalars, because they are from an older version: etude report"
    comparison = compare([tmp_path], CompareOptions(where={"target": ("mean",)}))
    assert f"{hint}." in comparison.remarks
    assert comparison.frame["name"].tolist() == ["new"]
    assert main([str(tmp_path / "old"), "--where", "target=mean"]) == 2
    assert f"--where target=mean: no run has such scores of test clips; {hint}" in capsys.readouterr().err


def test_means_over_different_targets_are_separate(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    table = scalar_predictions(0)
    write_run(tmp_path / "a", table, backbone="cnn")
    columns = [column for column in table if not column.startswith("valence.")]
    write_run(tmp_path / "b", table[columns], backbone="lstm")
    table = compare(
        [tmp_path], CompareOptions(rows=("backbone",), cols=("target",), where={"target": ("mean",)})
    ).tables[0]
    assert table.cols == [
        ("mean of danceability, energy, valence: Spearman ρ",),
        ("mean of danceability, energy: Spearman ρ",),
    ]
    assert not table.has_best()


def test_many_runs_with_other_settings_are_counted() -> None:
    labels = [(f"run_{i}",) for i in range(7)]
    values = {label: frozenset({str(i // 3)}) for i, label in enumerate(labels)}
    assert _join_values(values) == "(3 values)"
    few = {label: values[label] for label in labels[:4]}
    assert _join_values(few) == "0 (run_0, run_1, run_2), 1 (run_3)"


def test_settings_that_differ_between_rows_are_noted(
    tmp_path: Path, write_run: Callable[..., Path], make_table: Callable[..., pd.DataFrame]
) -> None:
    for i, backbone in enumerate(("lstm", "cnn", "ast", "cnn")):
        config = {
            "data": {
                "batch_size": 32 if backbone == "lstm" else 8,
                "crop": None if backbone == "ast" else {"seconds": 5.0, "beats": 16},
            },
            "callbacks": {"early_stopping": {"patience": 3}},
        }
        folder = write_run(tmp_path / str(i), make_table(i), config, backbone=backbone, seed=i // 3)
        record = json.loads((folder / "record.json").read_text("utf-8"))
        record["data"]["splits"] = {"train": {"clips": 90 if backbone == "cnn" else 100}}
        (folder / "record.json").write_text(json.dumps(record), "utf-8")
    text = (
        "Runs differ in more than backbone: data.batch_size 32 (lstm), 8 (cnn, ast); data.crop 5.0 s (lstm, cnn), "
        "whole clips (ast); training clips 100 (lstm, ast), 90 (cnn)."
    )

    def notes(**options: Any) -> list[str]:
        comparison = compare([tmp_path], CompareOptions(**options), tests=False)
        assert all(note in to_markdown(comparison) for table in comparison.tables for note in table.notes[:1])
        return [note for table in comparison.tables for note in table.notes if "differ in more" in note]

    assert notes(rows=("backbone",)) == [text]
    assert notes(rows=("metric",), cols=("backbone",), where={"target": ("genre",)}) == [text]
    shown = notes(rows=("backbone", "data.batch_size", "data.crop.seconds"))
    assert [note.partition(": ")[2] for note in shown] == ["training clips 100 (lstm, ast), 90 (cnn)."]
    assert notes(rows=("seed",), where={"backbone": ("cnn",)}) == []
