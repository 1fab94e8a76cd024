"""Tests of scores, predictions, checkpoint and report of a finished run."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats
from sklearn import metrics
from tests.end_to_end.fork_server import ForkServer

import etude
from etude.audio.decode import decode
from etude.config.instantiate import make
from etude.data.sources.demo import collection
from etude.runs.folder import RunFolder, monitored_score
from etude.training.build import load_learner

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def table(finished: Path) -> pd.DataFrame:
    """Return the predictions of the run."""
    return pd.read_parquet(finished / "predictions.parquet")


@pytest.fixture(scope="module")
def scores(finished: Path) -> dict:
    """Return the results of each target in metrics.json."""
    return json.loads((finished / "metrics.json").read_text())["targets"]


def test_finished_run_has_all_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("checkpoints", "config.yaml", "curves.csv", "metrics.json", "predictions.parquet", "record.json"),
        *("errors", "report.html", "split.csv", "train.log", ".etude-files", ".lock"),
    }
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_every_validation_and_test_clip_has_one_row(finished: Path, table: pd.DataFrame) -> None:
    split = pd.read_csv(finished / "split.csv", dtype=str)
    expected = split[split["split"] != "train"]
    assert sorted(zip(table["id"], table["split"], strict=True)) == sorted(
        zip(expected["id"], expected["split"], strict=True)
    )
    assert len(split) == 196


def test_no_artist_is_in_two_splits(finished: Path) -> None:
    split = pd.read_csv(finished / "split.csv", dtype=str).merge(collection().table[["id", "artist"]], on="id")
    assert (split.groupby("artist")["split"].nunique() == 1).all()


@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_can_be_recomputed_from_the_table(table: pd.DataFrame, scores: dict, split: str) -> None:
    rows = table[table["split"] == split]
    genre = scores["genre"]["splits"][split]["scores"]
    true, predicted = rows["genre.true"], rows["genre.pred"]
    assert genre["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(true, predicted))
    present = sorted(true.unique())
    macro = metrics.f1_score(true, predicted, labels=present, average="macro", zero_division=0)
    assert genre["macro_f1"]["value"] == pytest.approx(macro)
    for name in ("valence", "energy", "danceability"):
        actual = scores[name]["splits"][split]["scores"]
        true, predicted = rows[f"{name}.true"], rows[f"{name}.pred"]
        assert actual["spearman"]["value"] == pytest.approx(stats.spearmanr(true, predicted).statistic)
        assert actual["mae"]["value"] == pytest.approx(metrics.mean_absolute_error(true, predicted))
        assert actual["r2"]["value"] == pytest.approx(metrics.r2_score(true, predicted))


def test_prediction_is_the_most_probable_class(table: pd.DataFrame) -> None:
    columns = [c for c in table if str(c).startswith("genre.score.")]
    most_probable = [str(columns[i]).removeprefix("genre.score.") for i in table[columns].to_numpy().argmax(1)]
    assert most_probable == table["genre.pred"].tolist()
    np.testing.assert_allclose(table[columns].sum(axis=1), 1, atol=1e-5)


def test_checkpoint_gives_the_same_predictions_for_audio_files(finished: Path, table: pd.DataFrame) -> None:
    network = load_learner(finished / "checkpoints" / "best.ckpt")
    front, paths = make(network.recipe["front"]), collection().table.set_index("id")["path"]
    for row in table.iloc[::16].to_dict("records"):
        x = front.frames(decode(Path(paths[row["id"]]), front.rate))[:, slice(*network.recipe["columns"])]
        batch = torch.from_numpy(x.astype(np.float16))[None]
        with torch.no_grad():
            z, out = network(batch, torch.tensor([len(x)]))
        predicted = network.task.predict(out)
        np.testing.assert_allclose(z[0], row["embedding"], atol=1e-4)
        assert float(predicted["valence"]) == pytest.approx(row["valence.pred"], abs=1e-4)
        assert float(predicted["genre"][0, 0]) == pytest.approx(row["genre.score.electronic"], abs=1e-4)


def test_predict_gives_the_predictions_of_the_table(finished: Path, table: pd.DataFrame) -> None:
    rows = table.iloc[::16]
    predicted = etude.load(finished).predict(collection().table.set_index("id")["path"][rows["id"]]).files
    columns = [name for name in rows if ".score." in name or (name.endswith(".pred") and name != "genre.pred")]
    assert len(columns) == 6 and list(predicted["genre.pred"]) == list(rows["genre.pred"])
    np.testing.assert_allclose(predicted[columns].to_numpy(float), rows[columns].to_numpy(float), rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.stack(predicted["embedding"]), np.stack(rows["embedding"]), rtol=0, atol=1e-4)


def test_documented_example_loads_a_network(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "network = load" in block]
    code = code.replace("outputs/<run>", str(finished)).replace("song.mp3", collection().table["path"][0])
    names: dict = {}
    exec(code, names)
    assert names["outputs"]["genre"].shape == (1, 3)
    assert "valence" in capsys.readouterr().out


def test_standardiser_has_statistics_of_the_training_split(finished: Path) -> None:
    network = load_learner(finished / "checkpoints" / "best.ckpt")
    split = pd.read_csv(finished / "split.csv", dtype=str).set_index("id")["split"]
    packs = Path(OmegaConf.load(finished / "config.yaml").data.packs)
    packed = json.loads((finished / "record.json").read_text(encoding="utf-8"))["data"]["hash"]
    (folder,) = (
        path.parent for path in packs.glob("demo-*/manifest.json") if json.loads(path.read_text())["sha256"] == packed
    )
    index = pd.read_parquet(folder / "index.parquet")
    frames = np.fromfile(folder / "frames.f16", np.float16).reshape(-1, 140)[:, :128].astype(np.float64)
    frame_split = np.repeat(split[index["id"]].to_numpy(), index["frames"])
    train = frames[frame_split == "train"]
    np.testing.assert_allclose(network.standardiser.mean, train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(network.standardiser.std, train.std(0), rtol=1e-5)


def test_best_epoch_is_evaluated(finished: Path, scores: dict) -> None:
    curves, record = pd.read_csv(finished / "curves.csv"), json.loads((finished / "record.json").read_text())
    best = curves["val/score"].max()
    assert record["model"]["best_score"] == pytest.approx(best, abs=1e-5)
    splits = [scores[name]["splits"]["val"]["scores"] for name in ("genre", "valence", "energy", "danceability")]
    primary = [split["macro_f1" if "macro_f1" in split else "spearman"]["value"] for split in splits]
    assert np.mean(primary) == pytest.approx(best, abs=1e-5)
    # a hyper-parameter search uses this score
    assert monitored_score(RunFolder(finished)) == pytest.approx(record["model"]["best_score"], abs=1e-6)


def test_report_has_scores_and_the_note_of_targets(finished: Path, scores: dict) -> None:
    page = (finished / "report.html").read_text()
    assert f"{scores['genre']['splits']['test']['scores']['macro_f1']['value']:.2f}" in page
    assert "not rated by listeners" in page
    assert "artist" in page


def test_report_shows_and_plays_the_worst_errors(finished: Path, table: pd.DataFrame) -> None:
    errors = json.loads((finished / "errors" / "index.json").read_text())["clips"]
    wrong = table[(table["split"] == "test") & (table["genre.true"] != table["genre.pred"])]
    worst = wrong.loc[wrong.filter(like="genre.score.").max(axis=1).idxmax(), "id"]
    clips = collection().table.set_index("id")
    assert errors[0]["id"] == worst and errors[0]["credit"]["licence"] == clips["licence"][worst]
    page = (finished / "report.html").read_text()
    assert page.count("<audio ") == page.count("<image ") == len(errors)
    assert f"by {clips['artist'][worst].replace('&', '&amp;')}"[:8] in page
    assert len(page.encode()) < 5_000_000


def test_same_command_gives_the_same_predictions(
    finished: Path, table: pd.DataFrame, train: Callable[..., Result], tmp_path: Path
) -> None:
    result = train(tmp_path, "task=joint", "backbone=lstm", "callbacks=best_epoch", "trainer.max_epochs=3")
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "outputs").glob("*_demo_joint_lstm_mel_*")
    repeated = pd.read_parquet(run / "predictions.parquet")
    pd.testing.assert_frame_equal(repeated.drop(columns="embedding"), table.drop(columns="embedding"))


FUNCTIONS = """
import numpy as np
import torch


def near(true, predicted, tolerance):
    return np.mean(np.abs(true - predicted) < tolerance)


def matrix(true, predicted):
    return np.ones((2, 2))


def pinball(predicted, true, quantile):
    error = true - predicted
    return torch.maximum(quantile * error, (quantile - 1) * error)
"""


@pytest.mark.full
def test_functions_of_a_config_are_metrics_and_losses(
    packs: Path, environment: dict[str, str], fork_server: ForkServer, tmp_path: Path
) -> None:
    """The command trusts its own functions. The network can be loaded without them."""
    (tmp_path / "own_functions.py").write_text(FUNCTIONS)
    variables = environment | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment.get('PYTHONPATH', '')}"}
    overrides = [f"data.packs={packs}", "task=valence", "backbone=lstm", "trainer.max_epochs=1"]
    refused = fork_server.run(tmp_path, variables, *overrides, "+task.targets.valence.metrics=[own_functions.matrix]")
    assert refused.returncode == 2 and "epoch 1" not in refused.stderr
    message = "own_functions.matrix returned an array of shape (2, 2); it must return one number"
    assert refused.stderr.strip().endswith(f"task.targets.valence.metrics.matrix: {message}")
    overrides += ["+task.targets.valence.metrics.near={_target_: own_functions.near, tolerance: 0.2, range: [0, 1]}"]
    overrides += ["task.targets.valence.loss={_target_: own_functions.pinball, quantile: 0.9}"]
    result = fork_server.run(tmp_path, variables, *overrides)
    assert result.returncode == 0, result.stderr
    run = RunFolder(max((tmp_path / "outputs").iterdir(), key=lambda path: path.stat().st_mtime))
    rows = run.predictions[run.predictions["split"] == "test"]
    expected = (rows["valence.true"] - rows["valence.pred"]).abs().lt(0.2).mean()
    assert run.metrics["targets"]["valence"]["splits"]["test"]["scores"]["near"]["value"] == pytest.approx(expected)
    loaded = load_learner(run.checkpoint)
    assert set(loaded.recipe["config"]["task"]["targets"]["valence"]) == {"_target_", "bounded"}
    (run.path / "report.html").unlink()  # otherwise there is nothing to resume
    resumed = fork_server.run(tmp_path, variables, f"resume={run.path}")
    assert resumed.returncode == 2 and "own_functions.pinball, which is not trusted" in resumed.stderr
