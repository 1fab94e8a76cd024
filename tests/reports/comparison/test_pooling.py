"""Folds are pooled by their predictions: one table, measured once, beside the runs that it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from etude.cli.compare import main
from etude.reports.comparison.compare import show
from etude.reports.comparison.pooling import pool_folds
from etude.runs.folder import RunFolder, find_runs
from etude.runs.results import write_metrics

FOLDS = 3
MakeFold = Callable[..., Path]


@pytest.fixture
def fold(make_run: Callable[..., Path], table: pd.DataFrame) -> MakeFold:
    """Write the finished run of one fold: a third of the clips is its test part, the next third its validation."""
    everything = table.reset_index(drop=True)

    def make(number: int, name: str = "mine", depth: int = 4, **data: object) -> Path:
        third = np.arange(len(everything)) % FOLDS
        parts = np.select([third == number, third == (number + 1) % FOLDS], ["test", "val"], "train")
        part = everything.assign(split=parts)[parts != "train"]
        about = {
            "name": "demo",
            "hash": "h",
            "split_hash": f"s{number}",
            "fold": number,
            "folds": FOLDS,
            "disjoint": True,
        }
        run = make_run(f"sweep/{number}_{name}", table=part, data=about | data)
        record = json.loads((run / "record.json").read_text("utf-8"))
        (run / "record.json").write_text(json.dumps(record | {"name": name}), encoding="utf-8")
        config = {"name": name, "backbone": {"depth": depth}, "data": {"split": {"fold": number, "folds": FOLDS}}}
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        write_metrics(RunFolder(run))
        return run

    return make


def test_every_clip_is_scored_once(fold: MakeFold, table: pd.DataFrame) -> None:
    runs = [fold(number) for number in range(FOLDS)]
    (pooled,) = pool_folds(runs[0].parent, runs)
    together = pd.read_parquet(pooled / "predictions.parquet")
    tested = together[together["split"] == "test"]
    assert sorted(tested["id"]) == sorted(table["id"])
    metrics = json.loads((pooled / "metrics.json").read_text("utf-8"))["targets"]["genre"]["splits"]["test"]
    assert metrics["n"] == len(table)
    expected = f1_score(table["genre.true"], table["genre.pred"], average="macro")
    assert metrics["scores"]["macro_f1"]["value"] == pytest.approx(expected)
    means = [json.loads((run / "metrics.json").read_text("utf-8")) for run in runs]
    mean = np.mean([m["targets"]["genre"]["splits"]["test"]["scores"]["macro_f1"]["value"] for m in means])
    assert abs(mean - expected) > 1e-6  # a mean of scores is another number


def test_the_record_says_what_was_pooled(fold: MakeFold) -> None:
    runs = [fold(number, disjoint=number != 1) for number in range(FOLDS)]
    (pooled,) = pool_folds(runs[0].parent, runs)
    record = json.loads((pooled / "record.json").read_text("utf-8"))
    assert record["data"]["pooled"] == [0, 1, 2]
    assert record["data"]["fold"] is None
    assert record["data"]["disjoint"] is False  # one fold is not
    assert record["seconds"]["total"] == pytest.approx(3 * 512.8)
    assert "best_epoch" not in record["model"]
    page = (pooled / "report.html").read_text("utf-8")
    assert "3 pooled folds" in page
    assert "Cross-validation" in page


def test_only_runs_that_differ_in_nothing_else_are_pooled(fold: MakeFold) -> None:
    runs = [fold(n) for n in range(FOLDS)] + [fold(n, "deep", depth=8) for n in (0, 2)] + [fold(1, "lone", depth=1)]
    runs.append(fold(2, "other-data", hash="another"))
    pooled = pool_folds(runs[0].parent, runs)
    tested = [json.loads((folder / "record.json").read_text("utf-8"))["data"]["pooled"] for folder in pooled]
    assert tested == [[0, 1, 2], [0, 2]]


def test_a_clip_tested_twice_is_refused(fold: MakeFold) -> None:
    runs = [fold(0), fold(1)]
    table = pd.read_parquet(runs[0] / "predictions.parquet")
    other = pd.read_parquet(runs[1] / "predictions.parquet")
    pd.concat([other, table[table["split"] == "test"]]).to_parquet(runs[1] / "predictions.parquet")
    with pytest.raises(ValueError, match="is tested in two folds"):
        pool_folds(runs[0].parent, runs)


def test_a_table_shows_what_is_pooled_in_place_of_its_folds(fold: MakeFold, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [fold(number, name) for name in ("one", "two") for number in range(FOLDS)]
    sweep = runs[0].parent
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "one, 3 of 3 folds" in out
    assert ", fold 1" not in out
    kept = pd.read_csv(sweep / "compare.csv", dtype={"fold": str})
    assert set(kept["fold"]) == {"0", "1", "2", "3 of 3 folds"}
    show(find_runs(sweep)[:FOLDS])
    assert "one, fold 1" in capsys.readouterr().out
    assert main([str(sweep)]) == 0  # pooled anew from the folds, not from what was pooled
    assert pd.read_csv(sweep / "compare.csv", dtype={"fold": str}).equals(kept)
