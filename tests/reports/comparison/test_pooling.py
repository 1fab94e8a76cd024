"""Tests of pooled folds: predictions are pooled, not scores."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score
from tests.commands import compare as main

from etude.reports.comparison.compare import compare, show
from etude.reports.comparison.pooling import pool_folds, score_repeats
from etude.runs.folder import RunFolder, find_runs, write_metrics, write_predictions, write_record

FOLDS = 3
WriteFold = Callable[..., Path]


@pytest.fixture
def write_fold(make_run: Callable[..., Path], table: pd.DataFrame) -> WriteFold:
    """Return a writer of the finished run of one fold, with a third of the clips each for test and validation."""
    clips = table.reset_index(drop=True)

    def write(number: int, name: str = "lstm", depth: int = 4, seed: int = 0, **data: object) -> Path:
        third = np.random.default_rng(seed).permutation(np.arange(len(clips)) % FOLDS)
        splits = np.select([third == number, third == (number + 1) % FOLDS], ["test", "val"], "train")
        predicted = clips.assign(split=splits)[splits != "train"]
        properties = {
            "name": "demo",
            "hash": "h",
            "split_hash": f"s{number}",
            "fold": number,
            "folds": FOLDS,
            "disjoint": True,
        }
        run = make_run(f"sweep/{number}_{name}_{seed}", table=predicted, data=properties | data)
        record = json.loads((run / "record.json").read_text("utf-8"))
        record |= {"name": name, "command": f"etude train data.split.fold={number} backbone=lstm hydra.mode=RUN"}
        (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
        split = {"fold": number, "folds": FOLDS, "seed": seed}
        config = {"name": name, "backbone": {"depth": depth}, "data": {"split": split}}
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        write_metrics(RunFolder(run))
        return run

    return write


def test_every_clip_is_scored_once(write_fold: WriteFold, table: pd.DataFrame) -> None:
    runs = [write_fold(number) for number in range(FOLDS)]
    (pooled,) = pool_folds(runs[0].parent, runs)
    predictions = pd.read_parquet(pooled / "predictions.parquet")
    tested = predictions[predictions["split"] == "test"]
    assert sorted(tested["id"]) == sorted(table["id"])
    metrics = json.loads((pooled / "metrics.json").read_text("utf-8"))["targets"]["genre"]["splits"]["test"]
    assert metrics["n"] == len(table)
    expected = f1_score(table["genre.true"], table["genre.pred"], average="macro")
    assert metrics["scores"]["macro_f1"]["value"] == pytest.approx(expected)
    of_folds = [json.loads((run / "metrics.json").read_text("utf-8")) for run in runs]
    mean = np.mean([m["targets"]["genre"]["splits"]["test"]["scores"]["macro_f1"]["value"] for m in of_folds])
    assert abs(mean - expected) > 1e-6  # the mean of the scores is different


def test_record_lists_the_pooled_folds(write_fold: WriteFold) -> None:
    runs = [write_fold(number, disjoint=number != 1) for number in range(FOLDS)]
    (pooled,) = pool_folds(runs[0].parent, runs)
    record = json.loads((pooled / "record.json").read_text("utf-8"))
    assert record["data"]["pooled"] == [0, 1, 2]
    assert record["data"]["fold"] is None
    assert record["command"] == "etude train -m data.split.fold=0,1,2 backbone=lstm"
    assert record["data"]["disjoint"] is False  # of one fold
    assert record["seconds"]["total"] == pytest.approx(3 * 512.8)
    assert "best_epoch" not in record["model"]
    page = (pooled / "report.html").read_text("utf-8")
    assert "3 pooled folds" in page
    assert "Cross-validation" in page


def test_complete_result_replaces_the_incomplete_results_of_its_folds(write_fold: WriteFold) -> None:
    runs = [write_fold(number) for number in range(FOLDS)]
    others = [write_fold(number, "deep", depth=8) for number in (0, 2)]
    sweep = runs[0].parent
    config = (runs[0] / "config.yaml").read_text("utf-8")
    for run in runs[:2]:
        (run / "config.yaml").write_text(config.replace("lstm", "old"), "utf-8")
    (incomplete,) = pool_folds(sweep, runs[:2])
    (kept,) = pool_folds(sweep, others)
    (foreign := sweep / "pooled" / "notes").mkdir()
    for run in runs[:2]:
        (run / "config.yaml").write_text(config, "utf-8")
    (complete,) = pool_folds(sweep, runs)
    assert complete != incomplete
    assert set((sweep / "pooled").iterdir()) == {complete, kept, foreign}


def test_only_runs_that_differ_in_their_fold_are_pooled(write_fold: WriteFold) -> None:
    runs = (
        [write_fold(n) for n in range(FOLDS)]
        + [write_fold(n, "deep", depth=8) for n in (0, 2)]
        + [write_fold(1, "lone", depth=1)]
    )
    runs.append(write_fold(2, "other-data", hash="another"))
    runs.append(write_fold(2, "lstm", seed=1, labels="changed"))  # the table changed after the other folds
    config = yaml.safe_load((runs[2] / "config.yaml").read_text("utf-8"))
    (runs[-1] / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    pooled = pool_folds(runs[0].parent, runs)
    folds = [json.loads((folder / "record.json").read_text("utf-8"))["data"]["pooled"] for folder in pooled]
    assert folds == [[0, 1, 2], [0, 2]]


def test_official_folds_with_names_are_pooled(write_fold: WriteFold) -> None:
    runs = [write_fold(n, fold=name, fold_names=["a", "b", "c"]) for n, name in enumerate("abc")]
    (pooled,) = pool_folds(runs[0].parent, runs)
    assert json.loads((pooled / "record.json").read_text("utf-8"))["data"]["pooled"] == ["a", "b", "c"]


def test_repeated_cross_validations_have_a_mean(write_fold: WriteFold, table: pd.DataFrame) -> None:
    runs = [write_fold(number, seed=seed) for seed in range(2) for number in range(FOLDS)]
    sweep = runs[0].parent
    runs.append(write_fold(0, "incomplete", seed=2))
    pooled = pool_folds(sweep, runs)
    assert len(pooled) == 2
    sentences = score_repeats(sweep, pooled)
    (result,) = json.loads((sweep / "pooled" / "repeats.json").read_text("utf-8"))["results"]
    assert sorted(result["runs"]) == sorted(folder.name for folder in pooled)
    genre = result["targets"]["genre"]
    assert genre["n"] == len(table)
    expected = f1_score(table["genre.true"], table["genre.pred"], average="macro")
    assert genre["scores"]["macro_f1"]["values"] == pytest.approx([expected] * 2)  # each clip has one prediction
    assert f"lstm, genre: mean macro-F1 {expected:.2f} [" in sentences[0]
    assert f"of 2 repeated cross-validations ({expected:.2f}, {expected:.2f}), 60 clips in 12 groups" in sentences[0]
    assert score_repeats(sweep, pooled[:1]) == []
    for shift, folder in enumerate(pooled):  # a baseline is fitted for each partition
        files = RunFolder(folder)
        genre = files.predictions["genre.baseline.statistics"].to_numpy().copy()
        write_predictions(files, files.predictions.assign(**{"genre.baseline.statistics": np.roll(genre, shift)}))
        write_record(files, files.record)
        write_metrics(files)
    comparison = compare([sweep / "pooled"])  # the folds differ, and the scored clips do not
    cells = {cell.score for cell in comparison.tables[0].cells.values() if not cell.folders}
    assert "varies" not in cells and any("±" in score for score in cells)
    assert not any("different clips" in note for table in comparison.tables for note in table.notes)
    assert not any("different clips" in remark for remark in comparison.remarks)


def test_pooled_classes_are_learnable_in_every_fold_that_tests_them(write_fold: WriteFold) -> None:
    runs = [write_fold(number) for number in range(FOLDS)]
    for number, run in enumerate(runs):
        record = json.loads((run / "record.json").read_text("utf-8"))
        counts = {"ambient": 4, "folk": 3 - number, "jazz": 0 if number == 1 else 2, "rock": 5}
        record["targets"]["genre"] = record["targets"]["genre"] | {"train_classes": counts}
        (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
    (pooled,) = pool_folds(runs[0].parent, runs)
    record = json.loads((pooled / "record.json").read_text("utf-8"))
    assert record["targets"]["genre"]["train_classes"] == {"ambient": 4, "folk": 1, "jazz": 0, "rock": 5}
    metrics = json.loads((pooled / "metrics.json").read_text("utf-8"))["targets"]["genre"]["splits"]["test"]
    assert metrics["learnable"]["untrained"] == ["jazz"]


def test_clip_in_the_test_split_of_two_folds_is_refused(write_fold: WriteFold) -> None:
    runs = [write_fold(0), write_fold(1)]
    table = pd.read_parquet(runs[0] / "predictions.parquet")
    other = pd.read_parquet(runs[1] / "predictions.parquet")
    pd.concat([other, table[table["split"] == "test"]]).to_parquet(runs[1] / "predictions.parquet")
    with pytest.raises(ValueError, match="is in the test split of two folds"):
        pool_folds(runs[0].parent, runs)


def test_table_shows_pooled_results_instead_of_folds(write_fold: WriteFold, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_fold(number, name) for name in ("one", "two") for number in range(FOLDS)]
    sweep = runs[0].parent
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Test split, 3 of 3 folds\n")
    assert out.count("3 of 3 folds") == 1 and ", fold 1" not in out
    written = pd.read_csv(sweep / "compare.csv", dtype={"fold": str})
    assert set(written["fold"]) == {"0", "1", "2", "3 of 3 folds"}
    show(find_runs(sweep)[:FOLDS])
    assert "one, fold 1" in capsys.readouterr().out
    assert main([str(sweep)]) == 0  # pooled again from the folds, not from the pooled results
    assert pd.read_csv(sweep / "compare.csv", dtype={"fold": str}).equals(written)


def test_pooled_folds_and_single_folds_have_no_common_mean(
    write_fold: WriteFold, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pooled result contains the clips of each fold, so their mean would count these clips twice."""
    runs = [write_fold(number) for number in range(FOLDS)]
    other = shutil.copytree(runs[0], runs[0].parent.parent / "other" / "0")
    assert main([str(runs[0].parent)]) == 0
    capsys.readouterr()
    assert main([str(runs[0].parent), str(other)]) == 0
    out = capsys.readouterr().out
    assert "means over runs with the same settings" not in out
    assert f"Folds are pooled; single folds are in the file that --out FOLDER writes ({FOLDS} runs)." in out


def test_folds_of_sweeps_below_a_folder_are_not_pooled_again(
    write_fold: WriteFold, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_fold(number) for number in range(FOLDS)]
    sweep = runs[0].parent
    (sweep / "jobs.csv").write_text("job\n")
    assert main([str(sweep)]) == 0 and (sweep / "compare.html").is_file()
    capsys.readouterr()
    outputs = sweep.parent
    before = sorted(outputs.rglob("*"))
    for _ in range(2):
        assert main([str(outputs), "--rows=run"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Test split, 3 of 3 folds\n")
        assert len([line for line in out.splitlines() if re.match(r"(\S*pooled/)?lstm\S* ", line)]) == 1, out
    assert sorted(outputs.rglob("*")) == before


def test_pooled_baseline_has_a_common_name(write_fold: WriteFold) -> None:
    runs = [write_fold(number) for number in range(FOLDS)]
    for run, family in zip(runs, ("RBF SVM", "RBF SVM", "logistic regression"), strict=True):
        record = json.loads((run / "record.json").read_text("utf-8"))
        fit = {
            "name": f"{family} on mel and chroma statistics",
            "penalty": {"C": 1.0},
            "seconds": 0.5,
            "remark": family,
        }
        record["targets"]["genre"]["baselines"] = {"statistics": fit}
        (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
        write_metrics(RunFolder(run))
    (pooled,) = pool_folds(runs[0].parent, runs)
    targets = json.loads((pooled / "record.json").read_text("utf-8"))["targets"]
    name = "linear model or SVM on mel and chroma statistics"
    expected = {"name": name, "seconds": 1.5, "remark": "RBF SVM; logistic regression"}
    assert targets["genre"]["baselines"] == {"statistics": expected} and "baselines" not in targets["valence"]
    metrics = json.loads((pooled / "metrics.json").read_text("utf-8"))["targets"]
    assert metrics["genre"]["splits"]["test"]["baselines"]["statistics"]["name"] == name
