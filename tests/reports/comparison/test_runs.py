"""Runs that failed, were stopped, are of an older version or cannot be read: compared, and each said in a remark."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.cli.compare import main
from etude.experiment.start import LOG_FORMAT
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare
from etude.reports.comparison.runs import read
from etude.runs.folder import find_runs

Make = Callable[..., Any]


def log(run: Path, *lines: tuple[int, str, str]) -> None:
    """A train.log as the configured handler writes it."""
    write = logging.Formatter(LOG_FORMAT)
    text = [write.format(logging.LogRecord(name, level, "", 0, said, None, None)) for level, name, said in lines]
    (run / "train.log").write_text("\n".join(text) + "\n", "utf-8")


@pytest.fixture
def sweep(made: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(made, tmp_path / "sweep"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make: Make, table_of: Make) -> Path:
    """Two runs in order, and one of every other kind."""
    tmp_path = tmp_path_factory.mktemp("broken")
    for i, name in enumerate(["fine", "fine2", "old", "cut", "empty", "junk", "nothing", "array", "lost"]):
        make(tmp_path / name, table_of(i, right=0.1 * i))
    epoch = (logging.INFO, "etude.training.callbacks", "epoch 2/60  train/loss 1.089")
    for name in ("failed", "interrupted", "killed", "queued", "resumed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"name: {name}\nchoices: {{backbone: lstm}}\n")
    log(
        tmp_path / "failed",
        epoch,
        (logging.ERROR, "etude.cli.train", "epoch 1: the loss is not finite; lower optim.lr"),
    )
    log(
        tmp_path / "interrupted",
        epoch,
        (logging.WARNING, "etude.cli.train", "interrupted; resume with: python train.py"),
    )
    log(tmp_path / "resumed", (logging.ERROR, "etude.cli.train", "out of memory"), epoch)
    log(tmp_path / "killed", epoch)
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
    "old": ("finished", "record.json does not say its seed, data"),
    "cut": ("unreadable", "metrics.json cannot be read"),
    "empty": ("unreadable", "metrics.json holds no target"),
    "array": ("finished", "record.json cannot be read"),
    "junk": ("finished", "config.yaml cannot be read"),
    "failed": ("failed", "failed: epoch 1: the loss is not finite; lower optim.lr."),
    "interrupted": ("interrupted", "interrupted before its end."),
    "resumed": ("unfinished", "its log ends with: epoch 2/60"),
    "killed": ("unfinished", "its log ends with: epoch 2/60"),
    "queued": ("unfinished", "without a log that says why"),
}


@pytest.mark.parametrize("name", STATUS)
def test_each_has_a_status_and_says_why(sweep: Path, name: str) -> None:
    run = read(sweep / name)
    status, said = STATUS[name]
    assert run.status == status
    assert said in run.remark and (said or not run.remark)


@pytest.mark.parametrize("words", [[], ["table=1"], ["table=2"], ["table=3"], ["rows=optim.lr"], ["part=val"]])
def test_all_of_them_are_compared(sweep: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words == ["rows=optim.lr"]:
        (sweep / "fine" / "config.yaml").write_text("optim: {lr: 0.1}")
    assert main([str(sweep), *words]) == 0
    out = capsys.readouterr().out
    for name, (_, said) in STATUS.items():
        if said:
            assert any(line.startswith(f"{name}: ") and said in line for line in out.splitlines()), name
    assert "nothing: predictions.parquet cannot be tested" in out and "lost: predictions.parquet cannot" in out
    assert {path.suffix for path in sweep.glob("compare.*")} == {".csv", ".md", ".tex", ".html"}


def test_what_is_in_order_is_still_tested(sweep: Path) -> None:
    made = compare([sweep])
    assert ("fine", "fine2") in {(pair.a, pair.b) for pair in made.pairs}
    statuses = {row[0]: made.tables[0].text(row, made.tables[0].cols[0]) for row in made.tables[0].rows}
    assert statuses["failed"] == "failed" and statuses["cut"] == "unreadable" and statuses["queued"] == "unfinished"
    assert not made.tables[0].best_mark()  # two of them do not say what they were scored on


def test_broken_folds_do_not_keep_the_others_from_being_pooled(tmp_path: Path, make, table_of) -> None:
    for fold in range(3):
        table = table_of(fold).assign(split="val")
        table.loc[fold::3, "split"] = "test"
        run = make(tmp_path / f"{fold}_a", table, {"data": {"split": {"fold": fold}}}, name="a")
        record = json.loads((run / "record.json").read_text())
        record["data"] |= {"fold": fold, "folds": 3}
        (run / "record.json").write_text(json.dumps(record))
    (tmp_path / "2_a" / "predictions.parquet").unlink()
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "record.json").write_text("{")
    made = compare([tmp_path])
    names = {made.names[run.folder] for run in made.runs}
    assert names == {"9", "a, fold 2", "a, 2 of 3 folds"}  # a fold that is in no pool stands by itself
    assert any("Folds are pooled" in remark and "2 runs" in remark for remark in made.remarks)
    single = compare([tmp_path], CompareOptions(rows=("fold",)), tests=False)
    assert {row for (row,) in single.tables[0].rows} >= {"0", "1", "2"}


@pytest.mark.parametrize("trial", ["overfit", "lr"])
def test_a_trial_that_has_no_scores_is_not_taken_for_a_training_that_goes_on(trial: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"name: one\nchoices: {{debug: {trial}}}\n")
    log(tmp_path, (logging.INFO, "etude.run", "8 clips memorised"))
    assert read(tmp_path).remark == f"a trial run (debug={trial}), which has no scores."


def test_a_sweep_in_the_folder_of_a_run_is_found(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    assert find_runs(tmp_path) == [tmp_path]
    (tmp_path / "multirun.yaml").touch()
    assert find_runs(tmp_path) == [tmp_path]  # no job has begun
    job = tmp_path / "0_job"
    job.mkdir()
    (job / "config.yaml").touch()
    assert find_runs(tmp_path) == [job]
