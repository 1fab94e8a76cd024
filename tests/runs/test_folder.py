"""Tests of file names, readers and the monitored score of a run folder."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from etude.errors import UserError
from etude.runs import folder as names
from etude.runs.folder import (
    OUTPUTS,
    RunFolder,
    find_weights,
    locate_run,
    monitored_score,
    write_metrics,
    write_predictions,
    write_record,
)

SOURCE = Path(__file__).parents[2] / "src" / "etude"
OWNER = "runs/folder.py"
FILES = {
    *(names.CONFIG, names.RECORD, names.METRICS, names.PREDICTIONS, names.SPLIT, names.CURVES, names.LOG, names.REPORT),
    *(names.TRACKERS, names.LR_TABLE, names.LR_PLOT, names.BEST, names.LAST, names.JOBS, names.MULTIRUN),
}
ELSEWHERE = {  # files of the same name in other folders
    ("config/instantiate.py", "config.yaml"): "this folder comes before runs/, and reads the config of another run",
    ("files/safe_read.py", "config.yaml"): "this folder comes before runs/, and recognises run folders",
    ("files/safe_read.py", "record.json"): "this folder comes before runs/, and recognises run folders",
    ("sweeps/callback.py", "config.yaml"): "file of Hydra in hydra.output_subdir",
}


def find_file_names() -> Iterator[tuple[str, str]]:
    """Yield module and value of every string constant that equals the name of a file of a run."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and node.value in FILES:
                yield path.relative_to(SOURCE).as_posix(), node.value


def test_file_names_of_a_run_are_defined_in_one_module() -> None:
    names_by_module = set(find_file_names())
    assert {name for module, name in names_by_module if module == OWNER} == FILES
    assert {(module, name) for module, name in names_by_module if module != OWNER} == set(ELSEWHERE)


def test_every_file_that_a_run_writes_has_a_path() -> None:
    run = RunFolder("outputs/run")
    paths = {path.relative_to(run.path).as_posix() for path in vars(run).values() if path != run.path}
    assert {name.rstrip("/") for name in OUTPUTS} - paths == {"wandb", "tensorboard"}  # of other libraries


def test_written_results_are_read_again(run: Path, tmp_path: Path) -> None:
    source, copy = RunFolder(run), RunFolder(tmp_path)
    write_predictions(copy, source.predictions)
    write_record(copy, source.record)
    write_metrics(copy)
    before = copy.metrics
    assert copy.predictions.equals(source.predictions)
    write_predictions(copy, source.predictions.assign(**{"genre.pred": source.predictions["genre.true"]}))
    with pytest.raises(UserError, match="was changed after it was written"):
        _ = copy.predictions  # the record has the hash of the old table
    write_record(copy, source.record)
    write_metrics(copy)
    assert copy.metrics["targets"]["genre"]["splits"]["test"]["scores"]["accuracy"]["value"] == 1.0
    assert copy.metrics["targets"]["valence"] == before["targets"]["valence"]


def test_run_and_weights_are_located(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.checkpoints_path.mkdir(parents=True)
    run.config_path.touch()
    with pytest.raises(
        UserError, match=r"run: has no checkpoint in checkpoints/; a trial run \(debug=\.\.\.\) does not keep"
    ):
        find_weights(run.path)
    run.record_path.write_text('{"targets": {}, "data": {"pooled": ["0", "1"]}}')
    with pytest.raises(UserError, match="run: has the pooled predictions of several runs and no network; name one run"):
        find_weights(run.path)
    run.last_path.touch()
    assert find_weights(run.path) == run.checkpoint == run.last_path
    run.best_path.touch()
    assert find_weights(run.path) == run.best_path and find_weights(run.last_path) == run.last_path
    assert locate_run(run.path) == locate_run(tmp_path / "run" / ".") == (run.path, None)
    assert locate_run(run.last_path) == (run.path, run.last_path)


def test_strict_curves_keep_cells_and_refuse_damaged_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_curves().empty and run.read_curve_rows() == []
    with pytest.raises(UserError, match=r"curves\.csv: cannot be read as a table"):
        run.read_curves(strict=True)
    run.curves_path.write_text("epoch,step,val/loss\n1,3,inf\n", "utf-8")
    assert run.read_curves(strict=True)["val/loss"].tolist() == [float("inf")]
    assert pd.isna(run.read_curves()["val/loss"].tolist()[0])
    assert run.read_curve_rows() == [{"epoch": "1", "step": "3", "val/loss": "inf"}]


def test_sweep_of_a_run_is_its_parent_with_a_hydra_file(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "0").sweep is None
    (tmp_path / "multirun.yaml").touch()
    assert RunFolder(tmp_path / "0").sweep == tmp_path.name


def make_score(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None}


def make_target(val: float | None, primary: str = "spearman") -> dict[str, Any]:
    """Return a target of metrics.json. Its test split has another score, which must not be used."""
    values = {"val": make_score(val), "test": make_score(0.99)}
    splits = {
        split: {"n": 9, "groups": 3, "scores": {primary: score}, "baselines": {}} for split, score in values.items()
    }
    kind = {"kind": "scalar", "low": 0.0, "high": 1.0}
    if primary == "macro_f1":
        kind = {"kind": "label", "classes": ["a", "b"]}
    return {**kind, "primary": primary, "splits": splits}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    targets = {"genre": make_target(0.5, "macro_f1"), "valence": make_target(0.3), "energy": make_target(None)}
    (tmp_path / "metrics.json").write_text(json.dumps({"targets": targets}))
    (tmp_path / "record.json").write_text(json.dumps({"targets": {}, "model": {"best_epoch": 2}}))
    (tmp_path / "curves.csv").write_text(
        "epoch,step,val/loss,val/energy/spearman\n1,3,0.9,\n2,6,0.7,0.4\n3,9,nan,0.6\n"
    )
    return tmp_path


def monitored(folder: Path, monitor: str) -> float | None:
    (folder / "config.yaml").write_text(f"task:\n  monitor: {monitor}\n  mode: max\n")
    return monitored_score(RunFolder(folder))


def test_undefined_scores_count_as_zero_in_the_mean(folder: Path) -> None:
    assert monitored(folder, "val/score") == pytest.approx((0.5 + 0.3 + 0) / 3)


def test_other_monitors_are_read_at_the_best_epoch(folder: Path) -> None:
    assert monitored(folder, "val/loss") == 0.7
    assert monitored(folder, "val/energy/spearman") == 0.4


@pytest.mark.parametrize("monitor", ["train/loss", "test/score", "val/nothing"])
def test_only_monitors_of_the_validation_split_have_a_score(folder: Path, monitor: str) -> None:
    assert monitored(folder, monitor) is None


def test_non_finite_loss_is_not_a_score(folder: Path) -> None:
    (folder / "record.json").write_text(json.dumps({"targets": {}, "model": {"best_epoch": 3}}))
    assert monitored(folder, "val/loss") is None


def test_unfinished_run_has_no_score(folder: Path) -> None:
    (folder / "metrics.json").unlink()
    assert monitored(folder, "val/score") is None
