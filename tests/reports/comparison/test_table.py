"""Every cell is recomputed from predictions.parquet by scikit-learn and scipy, and read back from what was written."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from etude.cli.compare import main
from etude.errors import UserError
from etude.evaluation.formatting import NAMES
from etude.reports.comparison.axes import VIEWS, CompareOptions, layout
from etude.reports.comparison.compare import compare, parse_options
from etude.reports.comparison.runs import read, titles
from etude.reports.comparison.scores import collect

LABEL = {
    "accuracy": sk.accuracy_score,
    **{
        f"{average}_{name}": (lambda t, p, f=score, a=average: f(t, p, average=a, labels=np.unique(t), zero_division=0))
        for average in ("macro", "weighted")
        for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score))
    },
}
SCALAR = {
    "spearman": lambda t, p: stats.spearmanr(t, p).statistic,
    "pearson": lambda t, p: stats.pearsonr(t, p).statistic,
    "ccc": lambda t, p: 2 * np.cov(t, p, ddof=0)[0, 1] / (np.var(t) + np.var(p) + (np.mean(t) - np.mean(p)) ** 2),
    "r2": sk.r2_score,
    "mse": sk.mean_squared_error,
    "mae": sk.mean_absolute_error,
    "rmse": lambda t, p: sk.mean_squared_error(t, p) ** 0.5,
}


def asked(*words: str) -> CompareOptions:
    return parse_options(words)[0]


def truth(grid: Path, target: str, part: str = "test", **where: object) -> list[tuple[np.ndarray, np.ndarray]]:
    """True and predicted values of the runs whose record says so."""
    found = []
    for run in sorted(grid.iterdir()):
        if not (run / "record.json").is_file():
            continue
        record = json.loads((run / "record.json").read_text())
        known = record["model"] | {"seed": record["seed"]}
        if all(known[key] == value for key, value in where.items()):
            table = pd.read_parquet(run / "predictions.parquet")
            table = table[table["split"] == part]
            found.append((table[f"{target}.true"].to_numpy(), table[f"{target}.pred"].to_numpy()))
    return found


@pytest.mark.parametrize("part", ["test", "val"])
def test_means_over_seeds(grid: Path, part: str) -> None:
    made = compare([grid], asked("rows=backbone", "cols=feature", "metric=macro_f1", f"part={part}"), tests=False)
    (table,) = made.tables
    assert (table.rows[:2], table.cols) == ([("lstm",), ("cnn",)], [("mel",), ("fused",)])
    for (backbone,) in table.rows[:2]:
        for (feature,) in table.cols:
            values = [
                LABEL["macro_f1"](*pair) for pair in truth(grid, "genre", part, backbone=backbone, feature=feature)
            ]
            cell = table.cells[(backbone,), (feature,)]
            assert len(values) == 2
            assert cell.mean == pytest.approx(np.mean(values)) and cell.sd == pytest.approx(np.std(values, ddof=1))
            assert cell.n == {64 if part == "test" else 32} and cell.low is None
    best = {place for place, cell in table.cells.items() if cell.best}
    assert best == {max((p for p in table.cells if p[0] not in table.references), key=lambda p: table.cells[p].mean)}
    assert f"n = {64 if part == 'test' else 32}, mean ± sd of 2 runs" in table.heading()


def test_one_run_has_its_interval(grid: Path) -> None:
    folder = grid / "0_lstm_mel"
    made = compare([folder], tests=False)
    stored = json.loads((folder / "metrics.json").read_text())["targets"]
    for (_, (col,)), cell in made.tables[0].cells.items():
        name = col.split(":")[0]
        if cell.folders:
            score = stored[name]["splits"]["test"]["scores"][stored[name]["primary"]]
            assert (cell.mean, cell.low, cell.high) == (score["value"], score["low"], score["high"])


def test_table_one_is_per_class(grid: Path) -> None:
    table, *_ = compare([grid], asked("table=1"), tests=False).tables
    assert [row for (row,) in table.rows[:3]] == ["folk", "jazz", "rock"]
    for backbone, feature, metric in table.cols:
        pairs = truth(grid, "genre", backbone=backbone, feature=feature)
        names = {"precision": 0, "recall": 1, "F1": 2}
        each = [sk.precision_recall_fscore_support(*pair, labels=["folk", "jazz", "rock"]) for pair in pairs]
        for i, (row,) in enumerate(table.rows[:3]):
            cell = table.cells[(row,), (backbone, feature, metric)]
            assert cell.mean == pytest.approx(np.mean([scores[names[metric]][i] for scores in each]))
            assert cell.n == {int(each[0][3][i])}
        macro = np.mean([sk.precision_recall_fscore_support(*pair, average="macro")[names[metric]] for pair in pairs])
        assert table.cells[("macro mean",), (backbone, feature, metric)].mean == pytest.approx(macro)
        accuracy = np.mean([sk.accuracy_score(*pair) for pair in pairs])
        assert table.cells[("micro mean (accuracy)",), (backbone, feature, metric)].mean == pytest.approx(accuracy)


def test_table_two_is_every_metric(grid: Path) -> None:
    labels, scalars = compare([grid], asked("table=2"), tests=False).tables
    assert labels.heads == scalars.heads == ("target", "backbone", "feature")
    for table, reference in ((labels, LABEL), (scalars, SCALAR)):
        assert {col for (col,) in table.cols} == {NAMES[metric] for metric in reference}
        for row in set(table.rows) - table.references:
            pairs = truth(grid, row[0], backbone=row[1], feature=row[2])
            for metric, score in reference.items():
                expected = np.mean([score(*pair) for pair in pairs])
                assert table.cells[row, (NAMES[metric],)].mean == pytest.approx(expected), metric
    best = [cell for (_, (col,)), cell in scalars.cells.items() if cell.best and col == "MSE"]
    assert best[0].mean == min(c.mean for (_, (col,)), c in scalars.cells.items() if col == "MSE" and c.folders)


def test_baselines_stand_beside(grid: Path) -> None:
    (table, *_) = compare([grid], asked("rows=backbone", "metric=accuracy"), tests=False).tables
    part = pd.read_parquet(grid / "0_lstm_mel" / "predictions.parquet").query("split == 'test'")
    expected = sk.accuracy_score(part["genre.true"], part["genre.baseline.linear"])
    assert table.cells[("linear model",), ("genre: accuracy",)].mean == pytest.approx(expected, abs=1e-6)


def test_table_three_tells_tasks_and_weights_apart(tmp_path: Path, make, table_of) -> None:
    random, imagenet = {"backbone": {"weights": None}}, {"backbone": {"weights": "imagenet"}}
    other = {"transfer": {"train": "last_k", "init_from": "outputs/2026_genre/checkpoints/best.ckpt"}}
    one = table_of(1)[lambda t: [c for c in t if not c.startswith("genre")]]
    make(tmp_path / "0", one, random, task="valence", backbone="ast")
    make(tmp_path / "1", table_of(2), random, task="multitask", backbone="ast")
    make(tmp_path / "2", table_of(3), imagenet, task="multitask", backbone="ast")
    make(tmp_path / "3", one, random | other, task="valence", backbone="ast")
    table, *_ = compare([tmp_path], asked("table=3"), tests=False).tables
    kinds = [dict(zip(table.heads, row, strict=True)) for row in table.rows if row not in table.references]
    assert [(k["setting"], k["pretrained"], k["transfer"]) for k in kinds] == [
        ("single-task", "random", "none"), ("multitask", "random", "none"),
        ("multitask", "imagenet", "none"), ("single-task", "from 2026_genre", "last_k"),
    ]  # fmt: skip
    assert (table.rows[0], ("genre: macro-F1",)) not in table.cells


def test_any_key_of_the_config_is_an_axis(grid: Path) -> None:
    (table, *_) = compare(
        [grid], asked("rows=optim.lr", "cols=seed", "target=genre", "metric=accuracy"), tests=False
    ).tables
    assert table.rows[:2] == [("0.01",), ("0.1",)] and table.cols == [("0",), ("1",)]
    values = [sk.accuracy_score(*pair) for pair in truth(grid, "genre", backbone="cnn", seed=1)]
    assert table.cells[("0.1",), ("1",)].mean == pytest.approx(np.mean(values))
    assert any("Different settings are averaged: feature" in note for note in table.notes)
    only = compare([grid], asked("rows=feature", "cols=target", "optim.lr=1e-2", "backbone=lstm"), tests=False)
    assert {run.record["model"]["backbone"] for run in only.runs} == {"lstm"}


def test_rows_of_runs_name_what_differs_and_means_follow(grid: Path) -> None:
    runs, means = compare([grid], tests=False).tables
    assert runs.heads == ("run", "backbone", "feature", "task", "seed")
    assert [row[0] for row in runs.rows[:2]] == ["0_lstm_mel", "1_lstm_mel"]  # one name, two folders
    assert means.heads == ("backbone", "feature", "task") and means.repeats() == 2
    assert runs.aside[1][runs.rows[0]] == "1 min 01 s"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rows=backbon"], "did you mean backbone?"),
        (["rows=optim.lx"], "did you mean optim.lr?"),
        (["metric=f2"], "there is no f2"),
        (["rows=class", "metric=macro_f1"], "of a class there are precision"),
        (["metric=f1"], "add rows=class"),
        (["part=train"], "there is no train"),
        (["table=4"], "there is no 4"),
        (["format=pdf"], "there is no pdf"),
        (["rows=backbone", "cols=backbone"], "in rows and in cols"),
        (["backbone=ast"], "no run has it; there are lstm, cnn"),
        (["rows="], "needs a value"),
        (["target=genre", "metric=spearman"], "no run has scores of this kind"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(grid: Path, words: list[str], said: str, capsys) -> None:
    before = sorted(grid.iterdir())
    assert main([str(grid), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(grid.iterdir()) == before


def test_help_names_every_axis_and_view(capsys) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("backbone", "pretrained", "class", "rows=", "to=", "table=1", *VIEWS))


def test_files_go_where_they_are_asked_for(grid: Path, tmp_path: Path) -> None:
    assert main([str(grid / "0_lstm_mel"), str(grid / "4_cnn_mel")]) == 0
    assert main([str(grid / "0_lstm_mel"), str(grid / "4_cnn_mel"), f"to={tmp_path}", "format=csv,tex"]) == 0
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["compare.csv", "compare.tex"]
    kept = pd.read_csv(io.StringIO((tmp_path / "compare.csv").read_text()))
    assert kept["seed"].tolist() == collect([grid / "0_lstm_mel", grid / "4_cnn_mel"])["seed"].tolist()


def test_other_splits_are_said_and_not_ranked(tmp_path: Path, make: Callable[..., Path], table_of) -> None:
    for i in range(4):
        make(tmp_path / str(i), table_of(i, split=i % 2), backbone="ab"[i // 2], seed=i % 2, split=f"s{i % 2}")
    runs, means = compare([tmp_path]).tables
    assert not runs.best_mark() and any("do not compare" in note for note in runs.notes)
    assert means.best_mark() and any("Scored on 2 splits, the same ones" in note for note in means.notes)
    (tmp_path / "3" / "record.json").unlink()
    _, means = compare([tmp_path]).tables
    assert not means.best_mark()


def test_a_view_averages_over_nothing_but_chance(grid: Path) -> None:
    runs = [read(run) for run in sorted(grid.iterdir()) if run.is_dir()]
    for view in VIEWS:
        rows, cols, _ = layout(runs, CompareOptions(view=view))
        assert {"backbone", "feature"} <= {*rows, *cols}
    assert len(set(titles(runs).values())) == len(runs)
    with pytest.raises(UserError):
        layout(runs, CompareOptions(rows=("class",), metrics=("mse",)))
