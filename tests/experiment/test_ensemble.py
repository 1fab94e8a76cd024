"""Tests of ensembles on small made-up run folders with untrained networks."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tests.synthetic_runs import CLASSES, SCALARS, predictions, record

from etude.config.instantiate import make
from etude.config.stored import RECIPE_GROUPS
from etude.data.pack import PackOptions
from etude.data.training_record import ClipKeys, TrainingRecord, stored_record
from etude.errors import UserError
from etude.experiment import earlier_training, ensemble
from etude.experiment.ensemble import EnsembleOptions, make_ensemble
from etude.files.safe_read import read_checkpoint
from etude.inference.model import Model
from etude.runs.folder import RunFolder, write_predictions, write_record, write_split
from etude.training.network import build_network

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path, config: Callable[..., dict[str, Any]]) -> WriteRun:
    """Return a function that writes the folder of a run with an untrained network."""

    def write(
        name: str,
        seed: int = 0,
        table: pd.DataFrame | None = None,
        overrides: tuple[str, ...] = (),
        **data: Any,
    ) -> Path:
        plain = config("task=joint", "backbone=lstm", "backbone.hidden=4", *overrides)
        table = predictions(seed=0) if table is None else table
        stored = record(name) | {"started": "2026-11-22T14:03:11+00:00"}
        stored["data"] |= {"labels": "l", "groups_known": "all", **data}
        feature = make(plain["feature"])
        keys = ClipKeys.of_clips(table.assign(sound_hash=table["id"]), "space")
        splits = np.where(table["split"] == "test", "test", "train")
        recipe = {
            "config": {key: plain.get(key) for key in RECIPE_GROUPS},
            "targets": stored["targets"], "bins": feature.bins, "front": feature.front.to_dict(),
            "columns": [feature.columns.start, feature.columns.stop],
            "evaluation": {"frames": 431, "longest": 431, "shortest": 1.0, "crop": None, "crops": None},
            "training_record": {"own": TrainingRecord.of_run(keys, splits, name, "demo").to_plain(),
                                "earlier": TrainingRecord().to_plain()},
        }  # fmt: skip
        torch.manual_seed(seed)
        run = RunFolder(tmp_path / name)
        run.checkpoints_path.mkdir(parents=True)
        network = build_network(recipe)
        torch.save({"state_dict": network.state_dict(), "etude": recipe, "epoch": 0}, run.best_path)
        run.config_path.write_text(yaml.safe_dump(plain), encoding="utf-8")
        write_split(run, table[["id", "split"]])
        write_predictions(run, table)
        write_record(run, stored)
        stub_results(run)
        return run.path

    return write


def stub_results(run: RunFolder) -> None:
    """Write empty metrics and an empty report, with which a run counts as finished."""
    run.metrics_path.write_text("{}", encoding="utf-8")
    run.report_path.write_text("", encoding="utf-8")


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no metrics and no report of an ensemble, which takes most of the time."""
    monkeypatch.setattr(ensemble.run_folder, "write_metrics", stub_results)
    monkeypatch.setattr(ensemble, "write_report", lambda run: None)


def noisy(seed: int) -> pd.DataFrame:
    """Return predictions of other probabilities and values for the same clips."""
    table, other = predictions(), predictions(seed=seed)
    for column in (column for column in table if ".pred" in column or ".score." in column or column == "embedding"):
        table[column] = other[column]
    return table


def select(table: pd.DataFrame, test: list[int]) -> pd.DataFrame:
    """Return a table in which only some clips are in the test split, and the others were trained on."""
    return table.iloc[test].assign(split="test").reset_index(drop=True)


def test_mean_equals_numpy(write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities and values are the mean, labels its largest class, and the results of a run are written."""
    monkeypatch.setattr(ensemble, "write_report", lambda run: run.report_path.write_text("", encoding="utf-8"))
    tables = [noisy(seed) for seed in (1, 2, 3)]
    runs = [write_run(f"run{i}", i, table) for i, table in enumerate(tables)]
    out = make_ensemble(EnsembleOptions(runs, tmp_path / "mean"))
    run = RunFolder(out)
    table = run.predictions.set_index(["split", "id"])
    expected = [member.set_index(["split", "id"]).loc[table.index] for member in tables]
    scores = [f"genre.score.{name}" for name in CLASSES]
    mean = np.mean([member[scores] for member in expected], axis=0)
    np.testing.assert_allclose(table[scores], mean, rtol=1e-12)
    assert (table["genre.pred"] == np.array(CLASSES)[mean.argmax(1)]).all()
    for name in SCALARS:
        np.testing.assert_allclose(table[f"{name}.pred"], np.mean([m[f"{name}.pred"] for m in expected], axis=0))
        assert (table[f"{name}.baseline.statistics"] == expected[0][f"{name}.baseline.statistics"]).all()
    assert table["embedding"].map(len).eq(24).all()
    assert run.is_finished
    assert not run.is_resumable
    assert run.metrics["targets"]["genre"]["splits"]["test"]["n"] == 30
    assert [member["name"] for member in run.record["ensemble"]["members"]] == ["run0", "run1", "run2"]


@pytest.mark.usefixtures("without_report")
def test_network_equals_mean_after_members_are_deleted(write_run: WriteRun, tmp_path: Path, clips: list[Path]) -> None:
    """The folder predicts audio by the mean of its members' predictions, without their folders."""
    from etude.inference.engine import predict

    runs = [write_run("a", 1), write_run("b", 2)]

    def values(path: Path) -> np.ndarray:
        model = Model(path, "cpu")
        (prediction,) = predict(model, clips[:1], model.plan(4.0), workers=1)
        assert len(prediction.windows) > 1
        return np.array([prediction.values, *(value for *_, value in prediction.windows)])

    expected = np.mean([values(path) for path in runs], axis=0)
    out = make_ensemble(EnsembleOptions(runs, tmp_path / "mean"))
    for path in runs:
        shutil.rmtree(path)
    np.testing.assert_allclose(values(out), expected, atol=1e-6)


@pytest.mark.usefixtures("without_report")
def test_folds_stay_out_of_fold(write_run: WriteRun, tmp_path: Path) -> None:
    """Each clip has the prediction of the fold in which it is a test clip, and the record pools the folds."""
    tables = [select(noisy(fold), [*range(fold * 20, fold * 20 + 20)]) for fold in range(3)]
    runs = [write_run(f"fold{i}", i, table, fold=i, folds=3, split_hash=str(i)) for i, table in enumerate(tables)]
    run = RunFolder(make_ensemble(EnsembleOptions(runs, tmp_path / "mean")))
    pd.testing.assert_frame_equal(
        run.predictions[["id", "genre.pred", "valence.pred"]],
        pd.concat(tables, ignore_index=True)[["id", "genre.pred", "valence.pred"]],
    )
    assert run.predictions["members"].eq(1).all()
    assert "embedding" not in run.predictions
    assert run.record["data"]["pooled"] == [0, 1, 2]


@pytest.mark.usefixtures("without_report")
def test_clips_are_scored_by_members_that_were_not_trained_on_them(write_run: WriteRun, tmp_path: Path) -> None:
    """Of two runs with overlapping splits, a clip is scored by those that have it in their test split."""
    first, second = select(noisy(1), [*range(30)]), select(noisy(2), [*range(20, 50)])
    runs = [write_run("a", 1, first, split_hash="a"), write_run("b", 2, second, split_hash="b")]
    table = RunFolder(make_ensemble(EnsembleOptions(runs, tmp_path / "mean"))).predictions
    assert table["members"].tolist() == [1] * 20 + [2] * 10 + [1] * 20
    both = (first["energy.pred"].iloc[20:30].to_numpy() + second["energy.pred"].iloc[:10].to_numpy()) / 2
    np.testing.assert_allclose(table["energy.pred"].iloc[20:30], both)
    np.testing.assert_allclose(table["energy.pred"].iloc[:20], first["energy.pred"].iloc[:20])


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("part", ["own", "earlier"])
@pytest.mark.parametrize("counted", [True, False])
def test_training_on_test_clips_is_found(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, counted: bool
) -> None:
    """A member does not score clips of its training record. Clips without a member are refused."""
    runs = [write_run("a", 1, noisy(1)), write_run("b", 2, noisy(2))]
    table = noisy(1)
    test = table["id"][table["split"] == "test"]
    keys = ClipKeys.of_clips(table.assign(sound_hash=table["id"]), "space")

    class Data:
        source = type("Source", (), {"id_space": "space"})
        pack_options = PackOptions(tmp_path)

        def open_pack(self) -> Any:
            return type("Pack", (), {"index": table.assign(sound_hash=table["id"], group=None)})

    monkeypatch.setattr(earlier_training, "build_datamodule", lambda config: Data())
    monkeypatch.setattr(earlier_training, "stored_config", lambda path: {})

    def plant(path: Path, trained: set[str]) -> None:
        run = RunFolder(path)
        stored = read_checkpoint(run.best_path)
        record = TrainingRecord.of_run(keys, np.where(table["id"].isin(trained), "train", "test"), "old", "demo")
        stored["etude"]["training_record"][part] = TrainingRecord(train=np.setdiff1d(record.train, keys.group),
                                                                  runs=record.runs).to_plain()  # fmt: skip
        torch.save(stored, run.best_path)
        counts = {"trained": len(trained) * counted, "same_group": 0, "validated": 0, "left_out": 0}
        write_record(run, run.record | {"earlier_training": {"overlap": "allow", "splits": {"test": counts}}})

    for run in runs:
        plant(run, set())
    trained = set(test.iloc[:5])
    plant(runs[0], trained)
    result = RunFolder(make_ensemble(EnsembleOptions(runs, tmp_path / "mean"))).predictions
    scored = result[result["split"] == "test"].set_index("id")["members"]
    assert scored[[*trained]].eq(1).all()
    assert scored.drop([*trained]).eq(2).all()
    plant(runs[1], trained)
    with pytest.raises(UserError, match="5 test clips cannot be scored, because all members were trained on them"):
        make_ensemble(EnsembleOptions(runs, tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("without_report")
def test_test_clip_in_training_split_is_not_scored(write_run: WriteRun, tmp_path: Path) -> None:
    """A test clip that split.csv assigns to training is not scored by this member."""
    runs = [write_run("a", 1, noisy(1)), write_run("b", 2, noisy(2))]
    table = noisy(1)
    trained = table["id"][table["split"] == "test"].iloc[0]
    write_split(RunFolder(runs[0]), table.assign(split=table["split"].where(table["id"] != trained, "train")))
    result = RunFolder(make_ensemble(EnsembleOptions(runs, tmp_path / "mean"))).predictions
    assert result.set_index("id")["members"].eq(1).sum() == 1
    assert result.set_index("id")["members"][trained] == 1


@pytest.mark.usefixtures("without_report")
def test_training_record_is_union(write_run: WriteRun, tmp_path: Path) -> None:
    """The checkpoint records the training clips of all members."""
    tables = [select(noisy(1), [*range(30)]), predictions()]
    runs = [write_run(f"run{i}", i, table, split_hash=str(i)) for i, table in enumerate(tables)]
    out = make_ensemble(EnsembleOptions(runs, tmp_path / "mean"))
    union, own = (stored_record(read_checkpoint(RunFolder(path).best_path)["etude"], "x") for path in (out, runs[0]))
    other = stored_record(read_checkpoint(RunFolder(runs[1]).best_path)["etude"], "x")
    assert set(union.train) == set(own.train) | set(other.train)
    assert {run["name"] for run in union.runs} == {"run0", "run1"}


@pytest.mark.usefixtures("without_report")
def test_unfit_members_are_refused(write_run: WriteRun, tmp_path: Path) -> None:
    """Duplicates, other targets and other data are refused in one sentence, and no folder is left."""
    first, out = write_run("first", 1), tmp_path / "mean"

    def refuse(message: str, *runs: Path, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            make_ensemble(EnsembleOptions([*runs], out, **options))
        assert not out.exists()

    refuse("first: is given twice; name each run once", first, first)
    refuse("copy: has the same weights as .*first", first, write_run("copy", 1))
    refuse("its data differ from those of", first, write_run("labels", 2, labels="other"))
    refuse("its data differ from those of", first, write_run("audio", 3, hash="other"))
    refuse("an ensemble needs at least two runs", first)
    refuse("weights are fitted only to such clips", first, write_run("second", 4), fit_weights=True)
    other = write_run("targets", 5)
    stored = copy.deepcopy(RunFolder(other).record)
    stored["targets"]["energy"]["high"] = 2.0
    write_record(RunFolder(other), stored)
    refuse("targets: energy has another high than in .*first", first, other)
    (other / "report.html").unlink()
    refuse("targets: is not finished", first, other)
    made = make_ensemble(EnsembleOptions([first, tmp_path / "second"], tmp_path / "made"))
    refuse("made: is an ensemble; name its members instead", first, made)


@pytest.mark.usefixtures("without_report")
def test_weights_are_fitted_to_inner_folds(write_run: WriteRun, tmp_path: Path) -> None:
    """The better run has the larger weight, by validation clips with out-of-fold predictions alone."""
    good, bad = (noisy(seed).assign(out_of_fold=lambda table: table["split"] == "val") for seed in (1, 2))
    rows = good["split"] == "val"
    for name in SCALARS:
        good.loc[rows, f"{name}.pred"] = good.loc[rows, f"{name}.true"].fillna(0.5)
        bad.loc[rows, f"{name}.pred"] = 1 - good.loc[rows, f"{name}.pred"]
    runs = [write_run("good", 1, good), write_run("bad", 2, bad)]
    run = RunFolder(make_ensemble(EnsembleOptions(runs, tmp_path / "mean", fit_weights=True)))
    weights = run.record["ensemble"]["weights"]
    assert weights["energy"][0] > 0.99
    assert sum(weights["genre"]) == pytest.approx(1)
    table = run.predictions.set_index("id")
    mixed = sum(w * t.set_index("id")["genre.score.rock"] for w, t in zip(weights["genre"], (good, bad), strict=True))
    np.testing.assert_allclose(table["genre.score.rock"], mixed[table.index])
    assert table["out_of_fold"].sum() == rows.sum()
    assert Model(run.path, "cpu").network.recipe["weights"] == weights
