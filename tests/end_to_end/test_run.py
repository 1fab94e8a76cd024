"""A run leaves numbers that anyone can check, and a network that says the same again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import metrics

import etude
from etude.audio.decode import decode
from etude.config.instantiate import make
from etude.data.sources.demo import collection
from etude.runs.folder import RunFolder, monitored_score
from etude.training.build import load_learner

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def table(finished: Path) -> pd.DataFrame:
    return pd.read_parquet(finished / "predictions.parquet")


@pytest.fixture(scope="module")
def scores(finished: Path) -> dict:
    return json.loads((finished / "metrics.json").read_text())["targets"]


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("checkpoints", "config.yaml", "curves.csv", "metrics.json", "predictions.parquet", "record.json"),
        *("errors", "report.html", "split.csv", "train.log", ".etude-files", ".lock"),
    }
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_every_clip_of_validation_and_test_has_one_row(finished: Path, table: pd.DataFrame) -> None:
    split = pd.read_csv(finished / "split.csv", dtype=str)
    expected = split[split["split"] != "train"]
    assert sorted(zip(table["id"], table["split"], strict=True)) == sorted(
        zip(expected["id"], expected["split"], strict=True)
    )
    assert len(split) == 196


def test_no_artist_is_on_two_sides(finished: Path) -> None:
    split = pd.read_csv(finished / "split.csv", dtype=str).merge(collection().table[["id", "artist"]], on="id")
    assert (split.groupby("artist")["split"].nunique() == 1).all()


@pytest.mark.parametrize("part", ["val", "test"])
def test_scores_follow_from_the_table(table: pd.DataFrame, scores: dict, part: str) -> None:
    rows = table[table["split"] == part]
    genre = scores["genre"]["splits"][part]["scores"]
    true, said = rows["genre.true"], rows["genre.pred"]
    assert genre["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(true, said))
    present = sorted(true.unique())
    macro = metrics.f1_score(true, said, labels=present, average="macro", zero_division=0)
    assert genre["macro_f1"]["value"] == pytest.approx(macro)
    for name in ("valence", "energy", "danceability"):
        got = scores[name]["splits"][part]["scores"]
        true, said = rows[f"{name}.true"], rows[f"{name}.pred"]
        assert got["spearman"]["value"] == pytest.approx(stats.spearmanr(true, said).statistic)
        assert got["mae"]["value"] == pytest.approx(metrics.mean_absolute_error(true, said))
        assert got["r2"]["value"] == pytest.approx(metrics.r2_score(true, said))


def test_the_prediction_is_the_likeliest_class(table: pd.DataFrame) -> None:
    columns = [c for c in table if str(c).startswith("genre.score.")]
    likeliest = [str(columns[i]).removeprefix("genre.score.") for i in table[columns].to_numpy().argmax(1)]
    assert likeliest == table["genre.pred"].tolist()
    np.testing.assert_allclose(table[columns].sum(axis=1), 1, atol=1e-5)


def test_a_checkpoint_alone_gives_the_same_predictions_from_sound(finished: Path, table: pd.DataFrame) -> None:
    network = load_learner(finished / "checkpoints" / "best.ckpt")
    front, paths = make(network.recipe["front"]), collection().table.set_index("id")["path"]
    for row in table.iloc[::16].to_dict("records"):
        x = front.frames(decode(Path(paths[row["id"]]), front.rate))[:, slice(*network.recipe["columns"])]
        batch = torch.from_numpy(x.astype(np.float16))[None]
        with torch.no_grad():
            z, out = network(batch, torch.tensor([len(x)]))
        said = network.task.predict(out)
        np.testing.assert_allclose(z[0], row["embedding"], atol=1e-4)
        assert float(said["valence"]) == pytest.approx(row["valence.pred"], abs=1e-4)
        assert float(said["genre"][0, 0]) == pytest.approx(row["genre.score.electronic"], abs=1e-4)


def test_a_run_predicts_its_own_clips_as_its_table_has_them(finished: Path, table: pd.DataFrame) -> None:
    rows = table.iloc[::16]
    found = etude.load(finished).predict(collection().table.set_index("id")["path"][rows["id"]]).files
    columns = [name for name in rows if ".score." in name or (name.endswith(".pred") and name != "genre.pred")]
    assert len(columns) == 6 and list(found["genre.pred"]) == list(rows["genre.pred"])
    np.testing.assert_allclose(found[columns].to_numpy(float), rows[columns].to_numpy(float), rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.stack(found["embedding"]), np.stack(rows["embedding"]), rtol=0, atol=1e-4)


def test_the_readme_shows_how(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "network = load" in block]
    code = code.replace("outputs/<run>", str(finished)).replace("song.mp3", collection().table["path"][0])
    names: dict = {}
    exec(code, names)
    assert names["outputs"]["genre"].shape == (1, 3)
    assert "valence" in capsys.readouterr().out


def test_the_standardiser_knows_the_training_part_only(finished: Path, packs: Path) -> None:
    network = load_learner(finished / "checkpoints" / "best.ckpt")
    split = pd.read_csv(finished / "split.csv", dtype=str).set_index("id")["split"]
    (folder,) = (
        mark.parent for mark in packs.glob("demo-*/manifest.json") if json.loads(mark.read_text())["bins"] == 140
    )
    index = pd.read_parquet(folder / "index.parquet")
    every = np.fromfile(folder / "frames.f16", np.float16).reshape(-1, 140)[:, :128].astype(np.float64)
    owner = np.repeat(split[index["id"]].to_numpy(), index["frames"])
    train = every[owner == "train"]
    np.testing.assert_allclose(network.standardiser.mean, train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(network.standardiser.std, train.std(0), rtol=1e-5)


def test_the_best_epoch_was_scored_not_the_last(finished: Path, scores: dict) -> None:
    curves, record = pd.read_csv(finished / "curves.csv"), json.loads((finished / "record.json").read_text())
    best = curves["val/score"].max()
    assert record["model"]["best_score"] == pytest.approx(best, abs=1e-5)
    parts = [scores[name]["splits"]["val"]["scores"] for name in ("genre", "valence", "energy", "danceability")]
    leading = [p["macro_f1"]["value"] if "macro_f1" in p else p["spearman"]["value"] for p in parts]
    assert np.mean(leading) == pytest.approx(best, abs=1e-5)
    assert monitored_score(RunFolder(finished)) == pytest.approx(
        record["model"]["best_score"], abs=1e-6
    )  # what a search goes by


def test_the_report_shows_the_numbers_and_says_what_the_labels_are(finished: Path, scores: dict) -> None:
    page = (finished / "report.html").read_text()
    assert f"{scores['genre']['splits']['test']['scores']['macro_f1']['value']:.2f}" in page
    assert "not rated by listeners" in page
    assert "artist" in page


def test_the_report_shows_and_plays_the_worst_errors(finished: Path, table: pd.DataFrame) -> None:
    kept = json.loads((finished / "errors" / "index.json").read_text())["clips"]
    wrong = table[(table["split"] == "test") & (table["genre.true"] != table["genre.pred"])]
    surest = wrong.loc[wrong.filter(like="genre.score.").max(axis=1).idxmax(), "id"]
    known = collection().table.set_index("id")
    assert kept[0]["id"] == surest and kept[0]["credit"]["licence"] == known["licence"][surest]
    page = (finished / "report.html").read_text()
    assert page.count("<audio ") == page.count("<image ") == len(kept)
    assert f"by {known['artist'][surest].replace('&', '&amp;')}"[:8] in page
    assert len(page.encode()) < 5_000_000


def test_the_same_command_gives_the_same_numbers(
    finished: Path, table: pd.DataFrame, train: Callable[..., Result], tmp_path: Path
) -> None:
    result = train(tmp_path, "task=joint", "backbone=lstm", "callbacks=best_epoch", "trainer.max_epochs=3")
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "outputs").glob("*_joint_lstm_mel")
    again = pd.read_parquet(run / "predictions.parquet")
    pd.testing.assert_frame_equal(again.drop(columns="embedding"), table.drop(columns="embedding"))
