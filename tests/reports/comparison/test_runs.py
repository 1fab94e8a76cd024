"""Tests of failed, interrupted, older and unreadable runs, which are compared and have a remark each."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.commands import compare as main

from etude.experiment.start import LOG_FORMAT
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare
from etude.reports.comparison.runs import read_compared_run
from etude.runs.folder import RunFolder, find_runs, write_metrics

Make = Callable[..., Any]


def write_log(run: Path, *lines: tuple[int, str, str]) -> None:
    """Write a train.log in the format of the configured handler."""
    formatter = logging.Formatter(LOG_FORMAT)
    records = [logging.LogRecord(name, level, "", 0, message, None, None) for level, name, message in lines]
    text = [formatter.format(record) for record in records]
    (run / "train.log").write_text("\n".join(text) + "\n", "utf-8")


@pytest.fixture
def sweep(shared_sweep: Path, tmp_path: Path) -> Path:
    """Copy of the sweep that a test may change."""
    return Path(shutil.copytree(shared_sweep, tmp_path / "sweep"))


@pytest.fixture(scope="module")
def shared_sweep(tmp_path_factory: pytest.TempPathFactory, write_run: Make, make_table: Make) -> Path:
    """Sweep of two complete runs and one run of every other status."""
    tmp_path = tmp_path_factory.mktemp("broken")
    for i, name in enumerate(["fine", "fine2", "old", "cut", "empty", "junk", "nothing", "array", "lost"]):
        write_run(tmp_path / name, make_table(i, right=0.1 * i))
    epoch = (logging.INFO, "etude.training.callbacks", "epoch 2/60  train/loss 1.089")
    for name in ("failed", "interrupted", "killed", "queued", "resumed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"name: {name}\nchoices: {{backbone: lstm}}\n")
    write_log(
        tmp_path / "failed",
        epoch,
        (logging.ERROR, "etude.cli.train", "epoch 1: the loss is not finite; lower optim.lr"),
    )
    write_log(
        tmp_path / "interrupted",
        epoch,
        (logging.WARNING, "etude.cli.train", "interrupted; resume with: python train.py"),
    )
    write_log(tmp_path / "resumed", (logging.ERROR, "etude.cli.train", "out of memory"), epoch)
    write_log(tmp_path / "killed", epoch)
    record = json.loads((tmp_path / "old" / "record.json").read_text())
    for key in ("seed", "data", "seconds"):
        del record[key]
    (tmp_path / "old" / "record.json").write_text(json.dumps(record))
    metrics = json.loads((tmp_path / "old" / "metrics.json").read_text())
    del metrics["checksum"]
    for target in metrics["targets"].values():
        del target["primary"], target["splits"]["val"]
        for key in ("groups", "baselines", "missing"):
            del target["splits"]["test"][key]
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "cut" / "metrics.json").write_text((tmp_path / "fine" / "metrics.json").read_text()[:400])
    (tmp_path / "empty" / "metrics.json").write_text("{}")
    (tmp_path / "array" / "record.json").write_text("[1, 2]")
    (tmp_path / "junk" / "config.yaml").write_bytes(b"\xff\xfe{{: !!python/object:os.system")
    (tmp_path / "nothing" / "predictions.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "lost" / "predictions.parquet").unlink()
    return tmp_path


STATUS = {
    "fine": ("finished", ""),
    "old": ("finished", "record.json has no seed, data"),
    "cut": ("unreadable", "metrics.json cannot be read"),
    "empty": ("unreadable", "metrics.json contains no target"),
    "array": ("finished", "record.json cannot be read"),
    "junk": ("finished", "config.yaml cannot be read"),
    "failed": ("failed", "failed: epoch 1: the loss is not finite; lower optim.lr."),
    "interrupted": ("interrupted", "interrupted before its end."),
    "resumed": ("unfinished", "the last log message is: epoch 2/60"),
    "killed": ("unfinished", "the last log message is: epoch 2/60"),
    "queued": ("unfinished", "without log messages"),
}


@pytest.mark.parametrize("name", STATUS)
def test_run_has_status_and_remark(sweep: Path, name: str) -> None:
    run = read_compared_run(sweep / name)
    status, remark = STATUS[name]
    assert run.status == status
    assert remark in run.remark and (remark or not run.remark)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--layout=classes"], ["--layout=metrics"], ["--layout=settings"], ["--rows=optim.lr"], ["--split=val"]],
)
def test_all_runs_are_compared(sweep: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if arguments == ["--rows=optim.lr"]:
        (sweep / "fine" / "config.yaml").write_text("optim: {lr: 0.1}")
    assert main([str(sweep), *arguments]) == 0
    out = capsys.readouterr().out
    for name, (_, remark) in STATUS.items():
        if remark:
            assert any(line.startswith(f"{name}: ") and remark in line for line in out.splitlines()), name
    assert "nothing: predictions.parquet cannot be used for paired tests" in out
    assert "lost: predictions.parquet cannot" in out
    assert {path.suffix for path in sweep.glob("compare.*")} == {".csv", ".md", ".tex", ".html"}


def test_complete_runs_are_still_tested(sweep: Path) -> None:
    comparison = compare([sweep])
    assert ("fine", "fine2") in {(pair.a, pair.b) for pair in comparison.pairs}
    table = comparison.tables[0]
    statuses = {row[0]: table.cell_text(row, table.cols[0]) for row in table.rows}
    assert statuses["failed"] == "failed" and statuses["cut"] == "unreadable" and statuses["queued"] == "unfinished"
    assert not table.has_best()  # data and split of two runs are unknown


def test_damaged_folds_do_not_prevent_pooling_of_the_others(tmp_path: Path, write_run, make_table) -> None:
    for fold in range(3):
        table = make_table(fold).assign(split="val")
        table.loc[fold::3, "split"] = "test"
        run = write_run(tmp_path / f"{fold}_a", table, {"data": {"split": {"fold": fold}}}, name="a")
        record = json.loads((run / "record.json").read_text())
        record["data"] |= {"fold": fold, "folds": 3}
        (run / "record.json").write_text(json.dumps(record))
    (tmp_path / "2_a" / "predictions.parquet").unlink()
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "record.json").write_text("{")
    comparison = compare([tmp_path])
    names = {comparison.names[run.folder] for run in comparison.runs}
    assert names == {"9", "a, fold 2", "a, 2 of 3 folds"}  # a fold that is not pooled is shown separately
    assert any("Folds are pooled" in remark and "2 runs" in remark for remark in comparison.remarks)
    single = compare([tmp_path], CompareOptions(rows=("fold",)), tests=False)
    assert {row for (row,) in single.tables[0].rows} >= {"0", "1", "2"}


@pytest.mark.parametrize("trial", ["overfit", "find_lr"])
def test_trial_without_scores_has_its_own_remark(trial: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"name: one\nchoices: {{debug: {trial}}}\n")
    write_log(tmp_path, (logging.INFO, "etude.run", "8 clips memorised"))
    assert read_compared_run(tmp_path).remark == f"a trial run (debug={trial}), which has no scores."


def test_sweep_inside_a_run_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    assert find_runs(tmp_path) == [tmp_path]
    (tmp_path / "multirun.yaml").touch()
    assert find_runs(tmp_path) == [tmp_path]  # no job has started
    job = tmp_path / "0_job"
    job.mkdir()
    (job / "config.yaml").touch()
    assert find_runs(tmp_path) == [job]


def with_probabilities(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return a table with random probabilities of each genre."""
    values = np.random.default_rng(seed).random((len(table), 3))
    return table.assign(**{f"genre.score.{name}": values[:, i] for i, name in enumerate(("folk", "jazz", "rock"))})


def test_equal_runs_with_equal_predictions_are_one_observation(tmp_path: Path, write_run, make_table) -> None:
    config = {"optim": {"lr": 0.1}}
    for i, seed in enumerate((0, 0, 0, 1)):
        write_run(tmp_path / str(i), with_probabilities(make_table(seed), seed), config, name="a", seed=seed)
    comparison = compare([tmp_path], CompareOptions(rows=("backbone",)))
    cell = comparison.tables[0].cells[("x",), ("genre: macro-F1",)]
    assert len(cell.values) == 2 and cell.repeats == "2 seeds, same split"
    assert [len([pair for pair in comparison.pairs if pair.target == t]) for t in ("genre", "valence")] == [1, 1]
    (remark,) = [remark for remark in comparison.remarks if "identical" in remark]
    assert remark == (
        "0, 1, 2: identical predictions and equal settings and seeds, so they are one observation; means and paired "
        "tests use only 0."
    )
    assert len(compare([tmp_path]).tables[0].rows) == 4 + 2  # each run has its row


def test_seeds_without_effect_are_reported(tmp_path: Path, write_run, make_table) -> None:
    for seed in range(3):
        write_run(tmp_path / f"run{seed}", make_table(0), {"data": {"split": {"seed": seed}}}, seed=5)
    write_run(tmp_path / "other", make_table(0), {"optim": {"lr": 0.1}}, seed=5)
    comparison = compare([tmp_path], CompareOptions(rows=("seed",)))
    remarks = " ".join(comparison.remarks)
    assert "identical predictions although they differ in data.split.seed, so they are one observation" in remarks
    assert "other, run0: identical predictions although they differ in optim.lr." in remarks
    (pair, *_) = comparison.pairs
    assert "the predictions are identical" in pair.conclusion


def test_equal_labels_without_probabilities_are_no_repetition(tmp_path: Path, write_run, make_table) -> None:
    """On few clips, two networks can predict equal labels by chance."""
    table = make_table(0)[lambda t: [name for name in t if not name.startswith("valence")]]
    write_run(tmp_path / "a", table, seed=0)
    write_run(tmp_path / "b", table, seed=1)
    assert not [remark for remark in compare([tmp_path]).remarks if "identical" in remark]
    write_run(tmp_path / "c", table, seed=1)
    assert [remark for remark in compare([tmp_path]).remarks if remark.startswith("b, c: identical predictions")]


def test_caption_says_what_varies(tmp_path: Path, write_run, make_table) -> None:
    def heading(folder: Path) -> str:
        return compare([folder], CompareOptions(rows=("backbone",)), tests=False).tables[0].heading()

    for seed in range(3):
        write_run(tmp_path / "same" / str(seed), make_table(seed), seed=seed)
        split = {"data": {"split": {"seed": seed}}}
        write_run(tmp_path / "both" / str(seed), make_table(seed, split=seed), split, seed=seed, split=f"s{seed}")
        write_run(tmp_path / "splits" / str(seed), make_table(seed, split=seed), split, split=f"s{seed}")
        write_run(tmp_path / "settings" / str(seed), make_table(seed), {"optim": {"lr": seed}}, seed=seed)
    assert heading(tmp_path / "same").endswith("mean ± sd over 3 seeds, same split")
    assert heading(tmp_path / "both").endswith("mean ± sd over 3 seeds and splits")
    assert heading(tmp_path / "splits").endswith("mean ± sd over 3 splits, same seed")
    assert heading(tmp_path / "settings").endswith("mean ± sd over 3 runs")


@pytest.mark.parametrize(("monitors", "text"), [
    (("val/score", "val/score"), "used to select the weights, so scores are optimistic"),
    (("val/score", None), "used to select the weights of some runs"),
    ((None, None), "not used to select the weights"),
])  # fmt: skip
def test_title_of_validation_says_whether_it_selected_weights(
    monitors: tuple, text: str, tmp_path: Path, write_run, make_table
) -> None:
    for i, monitor in enumerate(monitors):
        path = write_run(tmp_path / str(i), make_table(i)) / "record.json"
        record = json.loads(path.read_text())
        record["model"]["monitor"] = monitor
        path.write_text(json.dumps(record))
    assert text in compare([tmp_path], CompareOptions(split="val"), tests=False).tables[0].title


def test_target_of_two_kinds_has_a_table_for_each_metric(tmp_path: Path, write_run, make_table) -> None:
    """A label and a scalar of one name are not averaged."""
    write_run(tmp_path / "a", make_table(1)[lambda t: [name for name in t if not name.startswith("valence")]])
    table = make_table(2)
    scalar = table[["id", "group", "split"]].assign(
        **{f"genre.{key}": table[f"valence.{key}"] for key in ("true", "pred")}
    )
    run = write_run(tmp_path / "b", table)
    scalar.to_parquet(run / "predictions.parquet")
    record = json.loads((run / "record.json").read_text())
    record["targets"] = {"genre": record["targets"]["valence"]}
    (run / "record.json").write_text(json.dumps(record))
    write_metrics(RunFolder(run))
    tables = compare([tmp_path], CompareOptions(rows=("backbone",), cols=("feature",))).tables
    assert [table.title for table in tables] == [
        "Test split: genre, macro-F1",
        "Test split: genre, Spearman ρ",
    ]
    assert all(len(cell.values) == 1 for table in tables for cell in table.cells.values())


def test_runs_on_two_collections_with_equal_ids_have_a_remark(tmp_path: Path, write_run, make_table) -> None:
    write_run(tmp_path / "a", make_table(1))
    path = write_run(tmp_path / "b", make_table(2)) / "record.json"
    record = json.loads(path.read_text())
    record["data"]["name"] = "noisy"
    path.write_text(json.dumps(record))
    assert any(
        remark.startswith("a (made), b (noisy): these runs used different collections")
        for remark in compare([tmp_path]).remarks
    )


def test_intervals_of_an_older_version_have_a_remark(tmp_path: Path, write_run, make_table) -> None:
    path = write_run(tmp_path / "a", make_table(1)) / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in metrics.items() if key != "checksum"} | {"version": 1}))
    assert "too narrow for few groups" in read_compared_run(tmp_path / "a").remark


def test_scores_without_intervals_are_explained(tmp_path: Path, write_run, make_table) -> None:
    write_run(tmp_path / "a", make_table(1, right=1.0))
    assert any(note.startswith("A score without brackets") for note in compare([tmp_path]).tables[0].notes)
    classes = compare([tmp_path], CompareOptions(layout="classes")).tables[0]
    write_run(tmp_path / "b", make_table(2))
    assert not any(note.startswith("A score without brackets") for note in compare([tmp_path / "b"]).tables[0].notes)
    assert not any(note.startswith("A score without brackets") for note in classes.notes)


def test_runs_with_different_labelled_clips_are_not_called_comparable(tmp_path: Path, write_run, make_table) -> None:
    table = make_table(1)
    write_run(tmp_path / "a", table.assign(**{"valence.true": table["valence.true"].where(table.index % 5 > 0)}))
    write_run(tmp_path / "b", make_table(2))
    runs, means = compare([tmp_path]).tables
    for shown in (runs, means):
        assert any(note.startswith("valence: runs were scored on different clips") for note in shown.notes)
    assert not any(cell.best for (_, (col,)), cell in runs.cells.items() if col.startswith("valence"))


def test_undefined_scores_are_left_out_of_means_with_a_note(tmp_path: Path, write_run, make_table) -> None:
    for seed in range(3):
        table = make_table(seed) if seed else make_table(0).assign(**{"valence.pred": 0.5})
        write_run(tmp_path / str(seed), table, seed=seed)
    table = compare([tmp_path], CompareOptions(rows=("backbone",))).tables[0]
    assert "1 undefined" in table.cell_text(("x",), ("valence: Spearman ρ",))
    assert any(note.startswith("Runs with an undefined score") for note in table.notes)
