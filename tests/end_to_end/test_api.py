"""Tests that `etude.run` equals `python train.py`, and that `etude.load` reads the runs of both."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

import etude
from etude.data.sources.demo import collection
from etude.errors import UserError
from etude.runs.readers import CHECKSUM

OVERRIDES = ["backbone=lstm", "task=joint", "data.crop=1.0", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the working folder of all runs of this module."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def run(home: Path, packs: Path) -> etude.Run:
    """Return a run that was started from Python."""
    return etude.run([*OVERRIDES, f"data.packs={packs}"])


def process_state() -> tuple[object, ...]:
    """Return the state of this process that a run must not change."""
    root = logging.getLogger()
    return Path.cwd(), list(sys.argv), list(root.handlers), root.level, GlobalHydra.instance().is_initialized()


def test_importing_the_package_imports_no_dependency() -> None:
    code = "import sys, etude; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "hydra", "numpy", "pandas", "yaml"} & set(loaded)


def test_version_equals_the_project_version() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert etude.__version__ == project["version"]


def test_run_from_python_equals_the_run_of_the_command(
    run: etude.Run, packs: Path, tmp_path: Path, train: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    result = train(tmp_path, *OVERRIDES)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    assert folder.name[20:-5] == run.folder.name[20:-5] == "demo_joint_lstm_mel"  # without date and suffix
    assert yaml.safe_load((folder / "config.yaml").read_text()) == run.config
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "predictions.parquet"), run.predictions)
    files, expected = ({path.relative_to(root) for path in root.rglob("*")} for root in (run.folder, folder))
    assert files == expected
    assert run.record["command"] == f"python train.py {' '.join(OVERRIDES)} data.packs={packs}"
    logs = [(root / "train.log").read_text().splitlines() for root in (run.folder, folder)]
    for lines in logs:
        assert sum(" INFO etude.training.callbacks: epoch 1/1 " in line for line in lines) == 1
        assert lines[-1].endswith("/report.html") and ": report: outputs/" in lines[-1]


def test_scores_equal_metrics_json(run: etude.Run) -> None:
    scores = run.scores().set_index(["target", "split", "metric"])
    assert scores.index.is_unique
    for name, target in json.loads((run.folder / "metrics.json").read_text())["targets"].items():
        for split, results in target["splits"].items():
            for metric, score in results["scores"].items():
                row = scores.loc[(name, split, metric)]
                for key in ("value", "low", "high"):
                    assert row[key] == score[key] or (score[key] is None and pd.isna(row[key]))
                assert (row["n"], row["groups"]) == (results["n"], results["groups"])
                for baseline in ("constant", "statistics"):
                    expected = results["baselines"][baseline]["scores"][metric]["value"]
                    assert row[baseline] == expected or (expected is None and pd.isna(row[baseline]))
    assert ("genre", "test", "ece") in scores.index and ("energy", "test", "bias") in scores.index
    assert int(run.confusion().to_numpy().sum()) == 52
    assert list(run.curves["epoch"].dropna().unique()) == [1]
    assert set(run.figures()) == {
        "scores", "reliability/genre", "scatter/valence", "scatter/energy", "scatter/danceability",
    }  # fmt: skip


def test_run_is_loaded_from_its_folder_and_from_its_checkpoint(run: etude.Run, home: Path) -> None:
    assert run.checkpoint.name == "best.ckpt" and not run.folder.is_absolute()
    for path in (run.folder, str(run.folder), run.checkpoint):
        loaded = etude.load(path)
        assert loaded.metrics == run.metrics and loaded._repr_html_() == run._repr_html_()
    assert set(run.network().task.targets) == {"genre", "valence", "energy", "danceability"}


def test_given_checkpoint_is_used_for_predictions(run: etude.Run, tmp_path: Path) -> None:
    last = run.folder / "checkpoints" / "last.ckpt"
    assert etude.load(last).checkpoint == last and etude.load(last).metrics == run.metrics
    copy = tmp_path / "<b>.ckpt"
    shutil.copy(run.checkpoint, copy)
    loaded = etude.load(copy)
    clip = collection().table["path"][0]
    assert loaded.predict(clip).files.equals(run.predict(clip).files)
    assert repr(loaded) == f"etude.load({str(copy)!r})"
    shown = loaded._repr_html_()
    assert "checkpoint without a run folder" in shown and "&lt;b&gt;.ckpt" in shown and "<b>" not in shown
    for read in (loaded.scores, loaded.show, lambda: loaded.predictions):
        with pytest.raises(UserError, match=r"ckpt: a checkpoint has no .*; load the folder of its run"):
            read()


def test_loading_another_folder_raises_user_error(run: etude.Run, tmp_path: Path) -> None:
    for job in ("0_a", "1_b", "pooled/a"):  # pooled folds have no network
        (tmp_path / "sweep" / job).mkdir(parents=True)
        shutil.copy(run.folder / "config.yaml", tmp_path / "sweep" / job)
    with pytest.raises(UserError, match=r"etude ensemble \S+sweep, or load one of: \S+0_a, \S+1_b$"):
        etude.load(tmp_path / "sweep")
    with pytest.raises(UserError, match="there is no such folder"):
        etude.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is neither a run folder"):
        etude.load(Path(__file__).parent)
    unfinished = etude.load(tmp_path / "sweep" / "0_a")
    assert "not finished" in unfinished._repr_html_()
    with pytest.raises(UserError, match=r"has no metrics\.json; the run is not finished; resume with"):
        unfinished.scores()


def test_html_in_a_notebook_is_escaped(run: etude.Run, tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)"
    shutil.copytree(run.folder, folder)
    for name in ("record.json", "metrics.json"):
        text = (folder / name).read_text().replace("joint_lstm_mel", "<b>bold").replace('"energy"', '"<i>energy"')
        values = json.loads(text)
        del values[CHECKSUM]  # the checksum is optional, so it does not protect against such a file
        (folder / name).write_text(json.dumps(values))
    shown = etude.load(folder)._repr_html_()
    assert not any(tag in shown for tag in ("<script>", "<b>", "<i>"))
    assert "&lt;b&gt;bold" in shown and "&lt;i&gt;energy" in shown


def test_resuming_from_python_does_not_change_the_process(run: etude.Run, home: Path) -> None:
    folder = home / "outputs" / "unfinished"
    shutil.copytree(run.folder, folder)
    (folder / "metrics.json").unlink()
    before, record = process_state(), (folder / "record.json").read_bytes()
    resumed = etude.run([f"resume={folder}"])
    assert process_state() == before
    assert (folder / "record.json").read_bytes() == record  # with the times and the command of the training
    assert resumed.folder.resolve() == folder.resolve()
    assert resumed.metrics == run.metrics
    with pytest.raises(UserError, match="this run is finished"):
        etude.run([f"resume={folder}"])
    with pytest.raises(UserError, match=r"transfer=full: cannot be changed"):
        etude.run([f"resume={folder}", "transfer=full"])
    assert resumed.report.is_file()  # a refused command does not remove files


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["backbone=lsmt", "seed=-1"],
            "the command has 2 errors:\n  backbone=lsmt: no such option; did you mean lstm?",
        ),
        (["task=genre,valence"], "task=genre,valence: several values define a sweep; start it from the command line"),
        (["sweep=folds"], "sweep=folds: several values define a sweep; start it from the command line"),
        (["hydra.mode=MULTIRUN"], "several values define a sweep; start it from the command line"),
        (["trainer=ddp_cpu"], "trainer: training uses several processes; start it from the command line"),
        (["trainer.devices=2"], "trainer: training uses several processes; start it from the command line"),
        (["-m"], "-m: is a flag of the command line"),
        (["resume=nowhere"], "resume=nowhere: is not a run folder"),
        (["transfer=full"], "transfer.init_from: needs a value"),
        (["+backbone.colour=red"], "backbone.colour: no such config key"),
        (["data.split.kind=official"], "needs a column `split`"),
    ],
    ids=lambda value: value[0],
)
def test_refused_run_raises_user_error_and_writes_nothing(
    overrides: list[str], message: str, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = process_state()
    with pytest.raises(UserError) as refused:
        etude.run([*overrides, *([] if overrides[0].startswith("resume") else [f"data.packs={packs}"])])
    assert message in str(refused.value)
    assert process_state() == before
    assert not [path for path in tmp_path.rglob("*") if path.name != "outputs"]


def test_public_names_are_listed_for_completion() -> None:
    assert {"Run", "embed", "load", "run", "__version__"} <= set(dir(etude))
