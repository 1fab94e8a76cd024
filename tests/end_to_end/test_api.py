"""`etude.run` is `python train.py` in this process, and `etude.load` reads what both leave."""

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

WORDS = ["backbone=lstm", "task=joint", "data.crop=1.0", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the runs of this file are made."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def run(home: Path, packs: Path) -> etude.Run:
    """A run that was made from Python."""
    return etude.run([*WORDS, f"data.packs={packs}"])


def state() -> tuple[object, ...]:
    """What a run must leave as it was."""
    root = logging.getLogger()
    return Path.cwd(), list(sys.argv), list(root.handlers), root.level, GlobalHydra.instance().is_initialized()


def test_importing_the_package_imports_nothing() -> None:
    code = "import sys, etude; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "hydra", "numpy", "pandas", "yaml"} & set(loaded)


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert etude.__version__ == project["version"]


def test_a_run_from_python_is_the_run_of_the_command(
    run: etude.Run, packs: Path, tmp_path: Path, train: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    result = train(tmp_path, *WORDS)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    assert folder.name[20:] == run.folder.name[20:] == "joint_lstm_mel"  # behind the date
    assert yaml.safe_load((folder / "config.yaml").read_text()) == run.config
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "predictions.parquet"), run.predictions)
    here, there = ({path.relative_to(home) for path in home.rglob("*")} for home in (run.folder, folder))
    assert here == there
    assert run.record["command"] == f"python train.py {' '.join(WORDS)} data.packs={packs}"
    logs = [(home / "train.log").read_text().splitlines() for home in (run.folder, folder)]
    for lines in logs:
        assert sum(" INFO etude.training.callbacks: epoch 1/1 " in line for line in lines) == 1
        assert lines[-1].endswith("/report.html") and ": report: outputs/" in lines[-1]


def test_scores_are_those_of_the_file(run: etude.Run) -> None:
    scores = run.scores().set_index(["target", "split", "metric"])
    assert scores.index.is_unique
    for name, target in json.loads((run.folder / "metrics.json").read_text())["targets"].items():
        for split, part in target["splits"].items():
            for metric, score in part["scores"].items():
                row = scores.loc[(name, split, metric)]
                assert [row["value"], row["low"], row["high"]] == [score["value"], score["low"], score["high"]]
                assert (row["n"], row["groups"]) == (part["n"], part["groups"])
                for baseline in ("constant", "linear"):
                    said = part["baselines"][baseline]["scores"][metric]["value"]
                    assert row[baseline] == said or (said is None and pd.isna(row[baseline]))
    assert ("genre", "test", "ece") in scores.index and ("energy", "test", "bias") in scores.index
    assert int(run.confusion().to_numpy().sum()) == 52
    assert list(run.curves["epoch"].dropna().unique()) == [1]
    assert set(run.figures()) == {
        "scores", "reliability/genre", "scatter/valence", "scatter/energy", "scatter/danceability",
    }  # fmt: skip


def test_a_run_is_loaded_from_its_folder_and_from_its_checkpoint(run: etude.Run, home: Path) -> None:
    assert run.checkpoint.name == "best.ckpt" and not run.folder.is_absolute()
    for path in (run.folder, str(run.folder), run.checkpoint):
        loaded = etude.load(path)
        assert loaded.metrics == run.metrics and loaded._repr_html_() == run._repr_html_()
    assert set(run.network().task.targets) == {"genre", "valence", "energy", "danceability"}


def test_a_checkpoint_that_is_named_is_the_one_that_predicts(run: etude.Run, tmp_path: Path) -> None:
    other = run.folder / "checkpoints" / "last.ckpt"
    assert etude.load(other).checkpoint == other and etude.load(other).metrics == run.metrics
    alone = tmp_path / "<b>.ckpt"
    shutil.copy(run.checkpoint, alone)
    loaded = etude.load(alone)
    clip = collection().table["path"][0]
    assert loaded.predict(clip).files.equals(run.predict(clip).files)
    assert repr(loaded) == f"etude.load({str(alone)!r})"
    shown = loaded._repr_html_()
    assert "a checkpoint alone" in shown and "&lt;b&gt;.ckpt" in shown and "<b>" not in shown
    for read in (loaded.scores, loaded.show, lambda: loaded.predictions):
        with pytest.raises(UserError, match=r"ckpt: a checkpoint has no .*; load the folder of its run"):
            read()


def test_what_is_no_run_is_a_sentence(run: etude.Run, tmp_path: Path) -> None:
    for job in ("0_a", "1_b"):
        (tmp_path / "sweep" / job).mkdir(parents=True)
        shutil.copy(run.folder / "config.yaml", tmp_path / "sweep" / job)
    with pytest.raises(UserError, match=r"sweep: contains 2 runs; load one of them: .*0_a, .*1_b"):
        etude.load(tmp_path / "sweep")
    with pytest.raises(UserError, match="there is no such folder"):
        etude.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is neither a run folder"):
        etude.load(Path(__file__).parent)
    begun = etude.load(tmp_path / "sweep" / "0_a")
    assert "not finished" in begun._repr_html_()
    with pytest.raises(UserError, match=r"has no metrics\.json; the run is not finished; resume with"):
        begun.scores()


def test_what_a_notebook_shows_is_escaped(run: etude.Run, tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)"
    shutil.copytree(run.folder, evil)
    for name in ("record.json", "metrics.json"):
        text = (evil / name).read_text().replace("joint_lstm_mel", "<b>bold").replace('"energy"', '"<i>energy"')
        values = json.loads(text)
        del values[CHECKSUM]  # as somebody who writes such a file would
        (evil / name).write_text(json.dumps(values))
    shown = etude.load(evil)._repr_html_()
    assert not any(tag in shown for tag in ("<script>", "<b>", "<i>"))
    assert "&lt;b&gt;bold" in shown and "&lt;i&gt;energy" in shown


def test_a_run_goes_on_from_python_and_leaves_the_process_as_it_was(run: etude.Run, home: Path) -> None:
    begun = home / "outputs" / "begun"
    shutil.copytree(run.folder, begun)
    (begun / "metrics.json").unlink()
    before, record = state(), (begun / "record.json").read_bytes()
    again = etude.run([f"resume={begun}"])
    assert state() == before
    assert (begun / "record.json").read_bytes() == record  # the times and the command are those of the training
    assert again.folder.resolve() == begun.resolve()
    assert again.metrics == run.metrics
    with pytest.raises(UserError, match="this run is finished"):
        etude.run([f"resume={begun}"])
    with pytest.raises(UserError, match=r"leave out transfer=full"):
        etude.run([f"resume={begun}", "transfer=full"])
    assert again.report.is_file()  # whatever is wrong with the words, the run is still there


@pytest.mark.parametrize(
    ("words", "said"),
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
def test_what_cannot_be_run_here_is_raised_and_leaves_nothing(
    words: list[str], said: str, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = state()
    with pytest.raises(UserError) as refused:
        etude.run([*words, *([] if words[0].startswith("resume") else [f"data.packs={packs}"])])
    assert said in str(refused.value)
    assert state() == before
    assert not [path for path in tmp_path.rglob("*") if path.name != "outputs"]
