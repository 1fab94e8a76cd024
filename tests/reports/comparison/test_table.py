"""Tests of table cells against scikit-learn and scipy, and of layouts, options and output files."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats
from sklearn import metrics as sk
from tests.commands import compare as main

from etude.errors import UserError
from etude.evaluation.formatting import NAMES
from etude.reports.comparison.axes import LAYOUTS, NAMED_AXES, CompareOptions, layout, options_from_config
from etude.reports.comparison.compare import compare
from etude.reports.comparison.runs import read_compared_run, run_titles
from etude.reports.comparison.scores import collect
from etude.reports.comparison.table import SCORE_AXES

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


def read_predictions(
    grid: Path, target: str, split: str = "test", **properties: object
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return true and predicted values of the runs whose records have the given properties."""
    predictions = []
    for run in sorted(grid.iterdir()):
        if not (run / "record.json").is_file():
            continue
        record = json.loads((run / "record.json").read_text())
        known = record["model"] | {"seed": record["seed"]}
        if all(known[key] == value for key, value in properties.items()):
            table = pd.read_parquet(run / "predictions.parquet")
            table = table[table["split"] == split]
            predictions.append((table[f"{target}.true"].to_numpy(), table[f"{target}.pred"].to_numpy()))
    return predictions


@pytest.mark.parametrize("split", ["test", "val"])
def test_means_over_seeds(grid: Path, split: str) -> None:
    options = CompareOptions(rows=("backbone",), cols=("feature",), metrics=("macro_f1",), split=split)
    (table,) = compare([grid], options, tests=False).tables
    assert (table.rows[:2], table.cols) == ([("lstm",), ("cnn",)], [("mel",), ("fused",)])
    for (backbone,) in table.rows[:2]:
        for (feature,) in table.cols:
            values = [
                LABEL["macro_f1"](*pair)
                for pair in read_predictions(grid, "genre", split, backbone=backbone, feature=feature)
            ]
            cell = table.cells[(backbone,), (feature,)]
            assert len(values) == 2
            assert cell.mean == pytest.approx(np.mean(values)) and cell.sd == pytest.approx(np.std(values, ddof=1))
            assert cell.n == {64 if split == "test" else 32} and cell.low is None
    best = {position for position, cell in table.cells.items() if cell.best}
    assert best == {max((p for p in table.cells if p[0] not in table.baselines), key=lambda p: table.cells[p].mean)}
    assert f"n = {64 if split == 'test' else 32}, mean ± sd over 2 seeds, same split" in table.heading()


def test_single_run_has_an_interval(grid: Path) -> None:
    folder = grid / "0_lstm_mel"
    (table, *_) = compare([folder], tests=False).tables
    stored = json.loads((folder / "metrics.json").read_text())["targets"]
    for (_, (col,)), cell in table.cells.items():
        name = col.split(":")[0]
        if cell.folders:
            score = stored[name]["splits"]["test"]["scores"][stored[name]["primary"]]
            assert (cell.mean, cell.low, cell.high) == (score["value"], score["low"], score["high"])


def test_table_1_has_scores_per_class(grid: Path) -> None:
    table, *_ = compare([grid], CompareOptions(layout="classes"), tests=False).tables
    assert [row for (row,) in table.rows[:3]] == ["folk", "jazz", "rock"]
    for backbone, feature, metric in table.cols:
        pairs = read_predictions(grid, "genre", backbone=backbone, feature=feature)
        names = {"precision": 0, "recall": 1, "F1": 2}
        references = [sk.precision_recall_fscore_support(*pair, labels=["folk", "jazz", "rock"]) for pair in pairs]
        for i, (row,) in enumerate(table.rows[:3]):
            cell = table.cells[(row,), (backbone, feature, metric)]
            assert cell.mean == pytest.approx(np.mean([scores[names[metric]][i] for scores in references]))
            assert cell.n == {int(references[0][3][i])}
        macro = np.mean([sk.precision_recall_fscore_support(*pair, average="macro")[names[metric]] for pair in pairs])
        assert table.cells[("macro mean",), (backbone, feature, metric)].mean == pytest.approx(macro)
        accuracy = np.mean([sk.accuracy_score(*pair) for pair in pairs])
        assert table.cells[("micro mean (accuracy)",), (backbone, feature, metric)].mean == pytest.approx(accuracy)


def test_table_2_has_all_metrics(grid: Path) -> None:
    labels, scalars = compare([grid], CompareOptions(layout="metrics"), tests=False).tables
    assert labels.row_axes == scalars.row_axes == ("target", "backbone", "feature")
    for table, reference in ((labels, LABEL), (scalars, SCALAR)):
        assert {col for (col,) in table.cols} == {NAMES[metric] for metric in reference}
        for row in set(table.rows) - table.baselines:
            pairs = read_predictions(grid, row[0], backbone=row[1], feature=row[2])
            for metric, score in reference.items():
                expected = np.mean([score(*pair) for pair in pairs])
                assert table.cells[row, (NAMES[metric],)].mean == pytest.approx(expected), metric
    best = [cell for (_, (col,)), cell in scalars.cells.items() if cell.best and col == "MSE"]
    assert best[0].mean == min(c.mean for (_, (col,)), c in scalars.cells.items() if col == "MSE" and c.folders)


def test_baselines_have_their_own_rows(grid: Path) -> None:
    options = CompareOptions(rows=("backbone",), metrics=("accuracy",))
    (table, *_) = compare([grid], options, tests=False).tables
    tested = pd.read_parquet(grid / "0_lstm_mel" / "predictions.parquet").query("split == 'test'")
    expected = sk.accuracy_score(tested["genre.true"], tested["genre.baseline.linear"])
    assert table.cells[("linear model",), ("genre: accuracy",)].mean == pytest.approx(expected, abs=1e-6)


def test_table_3_separates_tasks_and_pretrained_weights(tmp_path: Path, write_run, make_table) -> None:
    random, imagenet = {"backbone": {"weights": None}}, {"backbone": {"weights": "imagenet"}}
    transfer = {"transfer": {"train": "last_k", "init_from": "outputs/2026_genre/checkpoints/best.ckpt"}}
    valence = make_table(1)[lambda t: [c for c in t if not c.startswith("genre")]]
    write_run(tmp_path / "0", valence, random, task="valence", backbone="ast")
    write_run(tmp_path / "1", make_table(2), random, task="multitask", backbone="ast")
    write_run(tmp_path / "2", make_table(3), imagenet, task="multitask", backbone="ast")
    write_run(tmp_path / "3", valence, random | transfer, task="valence", backbone="ast")
    table, *_ = compare([tmp_path], CompareOptions(layout="settings"), tests=False).tables
    rows = [dict(zip(table.row_axes, row, strict=True)) for row in table.rows if row not in table.baselines]
    assert [(row["setting"], row["pretrained"], row["transfer"]) for row in rows] == [
        ("single-task", "random", "none"), ("multitask", "random", "none"),
        ("multitask", "imagenet", "none"), ("single-task", "from 2026_genre", "last_k"),
    ]  # fmt: skip
    assert (table.rows[0], ("genre: macro-F1",)) not in table.cells


def test_config_key_can_be_an_axis(grid: Path) -> None:
    options = CompareOptions(rows=("optim.lr",), cols=("seed",), metrics=("accuracy",), where={"target": ("genre",)})
    (table, *_) = compare([grid], options, tests=False).tables
    assert table.rows[:2] == [("0.01",), ("0.1",)] and table.cols == [("0",), ("1",)]
    values = [sk.accuracy_score(*pair) for pair in read_predictions(grid, "genre", backbone="cnn", seed=1)]
    assert table.cells[("0.1",), ("1",)].mean == pytest.approx(np.mean(values))
    assert any("Different settings are averaged: feature" in note for note in table.notes)
    where = {"optim.lr": ("1e-2",), "backbone": ("lstm",)}
    filtered = compare([grid], CompareOptions(rows=("feature",), cols=("target",), where=where), tests=False)
    assert {run.record["model"]["backbone"] for run in filtered.runs} == {"lstm"}


def test_run_table_shows_differing_axes_and_is_followed_by_means(grid: Path) -> None:
    runs, means = compare([grid], tests=False).tables
    assert runs.row_axes == ("run", "backbone", "feature", "task", "seed")
    assert [row[0] for row in runs.rows[:2]] == ["0_lstm_mel", "1_lstm_mel"]  # one name in two folders
    assert means.row_axes == ("backbone", "feature", "task") and means.common_repeats() == "2 seeds, same split"
    assert runs.text_column[1][runs.rows[0]] == "1 min 01 s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows=backbon"], "did you mean backbone?"),
        (["--rows=optim.decay"], "optim.decay was renamed; use optim.schedule"),
        (["--rows=optim.lx"], "did you mean optim.lr?"),
        (["--metric=f2"], "--metric f2: is not one of accuracy, "),
        (["--rows=class", "--metric=macro_f1"], "is not a metric of a class; use precision"),
        (["--metric=f1"], "add --rows class"),
        (["--split=train"], "'--split': 'train' is not one of"),
        (["--layout=4"], "'--layout': '4' is not one of"),
        (["--format=pdf"], "'--format': 'pdf' is not one of csv, md, tex, html"),
        (["--rows=backbone", "--cols=backbone"], "in rows and in columns: backbone; keep each in only one"),
        (["--where=backbone=ast"], "--where backbone=ast: no run has this value; the known values are lstm, cnn"),
        (["--where", "backbone=ast"], "--where backbone=ast: no run has this value; the known values are lstm, cnn"),
        (["--where", "backbone"], "'backbone' is not of the form AXIS=VALUE,VALUE"),
        (["--where", "backbone="], "'backbone=' is not of the form AXIS=VALUE,VALUE"),
        (["backbone=ast"], "backbone=ast: options of etude compare have dashes; use --where backbone=ast"),
        (["part=val"], "part=val: options of etude compare have dashes; use --split val"),
        (["--rows="], "--rows=: empty value"),
        (["--rows=seed,"], "'--rows': an item of the list is empty"),
        (["--out="], "--out=: empty value"),
        (["--where", "target=genre", "--metric=spearman"], "genre: no run has such scores of test clips"),
    ],
)
def test_invalid_arguments_cause_one_line_message(grid: Path, arguments: list[str], message: str, capsys) -> None:
    before = sorted(grid.iterdir())
    assert main([str(grid), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(grid.iterdir()) == before


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (["rows=backbone"], "must be a mapping of options"),
        ({"row": ["backbone"]}, "row: is not an option of a table; available: rows, cols"),
        ({"rows": "backbone"}, "rows: must be a list, such as [backbone]"),
        ({"where": ["backbone=cnn"]}, "where: must be a mapping of axes"),
        ({"where": {"backbone": "cnn"}}, "where.backbone: must be a list, such as [cnn]"),
        ({"split": "train"}, "--split train: is not one of test, val"),
        ({"metrics": ["f2"]}, "--metric f2: is not one of"),
        ({"rows": ["seed"], "cols": ["seed"]}, "in rows and in columns: seed"),
    ],
)
def test_invalid_table_of_a_sweep_is_refused(table: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        options_from_config(OmegaConf.create(table))
    assert str(error.value).startswith(message)


def test_help_lists_axes_and_layouts(capsys) -> None:
    assert main(["--help"]) == 0
    words = re.findall(r"[\w.-]+", capsys.readouterr().out)
    axes = words[words.index("Axes") :]
    assert {*NAMED_AXES, *SCORE_AXES, "run", "optim.lr"} <= set(axes)
    assert {"--rows", "--cols", "--metric", "--where", "--out", *LAYOUTS} <= set(words)


def test_files_are_written_to_the_given_folder(grid: Path, tmp_path: Path) -> None:
    assert main([str(grid / "0_lstm_mel"), str(grid / "4_cnn_mel")]) == 0
    assert main([str(grid / "0_lstm_mel"), str(grid / "4_cnn_mel"), f"--out={tmp_path}", "--format=csv,tex"]) == 0
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["compare.csv", "compare.tex"]
    written = pd.read_csv(io.StringIO((tmp_path / "compare.csv").read_text()))
    assert written["seed"].tolist() == collect([grid / "0_lstm_mel", grid / "4_cnn_mel"])["seed"].tolist()


def test_scores_on_several_splits_are_noted_and_not_ranked(
    tmp_path: Path, write_run: Callable[..., Path], make_table
) -> None:
    for i in range(4):
        write_run(tmp_path / str(i), make_table(i, split=i % 2), backbone="ab"[i // 2], seed=i % 2, split=f"s{i % 2}")
    runs, means = compare([tmp_path]).tables
    assert not runs.has_best() and any("not comparable" in note for note in runs.notes)
    assert means.has_best() and any("Scored on 2 splits. All cells of a target have" in note for note in means.notes)
    (tmp_path / "3" / "record.json").unlink()
    _, means = compare([tmp_path]).tables
    assert not means.has_best()


def test_clip_wise_splits_are_marked_as_optimistic(tmp_path: Path, write_run: Callable[..., Path], make_table) -> None:
    for kind, shared, known in (("grouped", False, "all"), ("stratified", True, "all"), ("random", True, "none")):
        run = write_run(tmp_path / kind, make_table(), {"data": {"split": {"kind": kind}}})
        record = json.loads((run / "record.json").read_text())
        record["data"] |= {"disjoint": not shared, "groups_known": known}
        (run / "record.json").write_text(json.dumps(record))
    comparison = compare([tmp_path])
    table = comparison.tables[0]
    kinds = [row[table.row_axes.index("data.split.kind")] for row in table.rows if row not in table.baselines]
    marked = "stratified (clip-wise, artists shared between training and test: optimistic)"
    assert sorted(kinds) == ["grouped", "random", marked]
    assert sum("also measure memorised groups and are optimistic" in note for note in table.notes) == 1
    (only,) = compare([tmp_path], CompareOptions(where={"data.split.kind": ("stratified",)})).runs
    assert only.folder.name == "stratified"


def test_layouts_average_only_over_random_variation(grid: Path) -> None:
    runs = [read_compared_run(run) for run in sorted(grid.iterdir()) if run.is_dir()]
    for name in LAYOUTS:
        rows, cols, _ = layout(runs, CompareOptions(layout=name))
        assert {"backbone", "feature"} <= {*rows, *cols}
    assert len(set(run_titles(runs).values())) == len(runs)
    with pytest.raises(UserError):
        layout(runs, CompareOptions(rows=("class",), metrics=("mse",)))
