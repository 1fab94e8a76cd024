"""Tests of complete runs with linear probes against scikit-learn, two processes and an interruption."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.end_to_end.fork_server import ForkServer

from etude.config.stored import read_config
from etude.data.datamodule import build_datamodule
from etude.data.training_record import ClipKeys, stored_record
from etude.evaluation.linear_candidates import inner_folds
from etude.files.safe_read import read_checkpoint
from etude.runs.folder import RunFolder
from etude.training.network import load_network

pytestmark = pytest.mark.xdist_group("linear_probe")  # one process, so that the shared run is fitted once
Result = subprocess.CompletedProcess[str]
GRID = ["optim.C=[1e-4,1e-3,1e-2,0.1]", "optim.alpha=[1e4,1e3,1e2,10.0]"]
KILL = """
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback

from etude.training import linear_probe


def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)


class Interruption(Callback):
    def on_train_start(self, trainer, learner) -> None:
        if not Path("interrupted").exists():
            Path("interrupted").touch()
            linear_probe.fit_probe = kill
"""


def overrides(source: Path) -> list[str]:
    """Return the overrides of a probe of a finished run."""
    return [
        "backbone=lstm",
        "task=joint",
        "transfer=probe",
        f"transfer.init_from={source}",
        "optim=linear_probe",
        *GRID,
    ]


@pytest.fixture(scope="module")
def probe_run(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Result], finished: Path) -> Path:
    """Return the folder of a run with linear probes, which tests must not change."""
    folder = tmp_path_factory.mktemp("probe")
    result = train(folder, *overrides(finished))
    assert result.returncode == 0, result.stderr
    return next((folder / "outputs").iterdir())


def embed_all(run: Path) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return the embeddings (N, D), the splits (N,) and the table of all clips of a run, one clip at a time."""
    network, data = load_network(run / "checkpoints" / "best.ckpt"), build_datamodule(read_config(run / "config.yaml"))
    data.setup()
    with torch.no_grad():
        clips = [torch.tensor(data.pack.clip(row)[:, data.feature.columns])[None] for row in range(len(data.splits))]
        z = torch.cat([network(clip, torch.tensor([clip.shape[1]]))[0] for clip in clips])
    return z.double().numpy(), data.splits, data.pack.index


def test_probe_equals_a_search_with_scikit_learn(probe_run: Path) -> None:
    z, splits, index = embed_all(probe_run)
    run = RunFolder(probe_run)
    table, record = run.predictions.set_index("id"), run.record["model"]["linear_probe"]
    fitted, test = splits != "test", splits == "test"
    ids, y = index["id"].to_numpy(), index["genre"].to_numpy().astype(str)
    folds = inner_folds(y[fitted], index["group"][fitted].tolist(), "label")
    models: list[Any] = [
        LogisticRegression(C=c, class_weight=weight, tol=1e-8, max_iter=100_000)
        for weight in (None, "balanced")
        for c in (1e-4, 1e-3, 1e-2, 0.1)
    ]
    pipelines = [make_pipeline(StandardScaler(), model) for model in models]
    inner = [cross_val_predict(model, z[fitted], y[fitted], cv=folds, method="predict_proba") for model in pipelines]
    losses = [log_loss(y[fitted], predicted) for predicted in inner]
    best = int(np.argmin(losses))
    assert record["genre"]["penalty"] == {"C": models[best].C}
    assert record["genre"]["class_weight"] == (models[best].class_weight or "equal")
    np.testing.assert_allclose([-c["inner_score"] for c in record["genre"]["candidates"]], losses, atol=1e-4)
    columns = [f"genre.score.{name}" for name in np.unique(y)]
    expected = pipelines[best].fit(z[fitted], y[fitted]).predict_proba(z[test])
    np.testing.assert_allclose(table.loc[ids[test], columns], expected, atol=1e-4)
    validation = ids[fitted][splits[fitted] == "val"]
    np.testing.assert_allclose(table.loc[validation, columns], inner[best][splits[fitted] == "val"], atol=1e-4)
    assert table.loc[validation, "out_of_fold"].all() and not table.loc[ids[test], "out_of_fold"].any()
    value = index["valence"].to_numpy(float)
    folds = inner_folds(value[fitted], index["group"][fitted].tolist(), "scalar")
    ridges = [make_pipeline(StandardScaler(), Ridge(alpha)) for alpha in (1e4, 1e3, 1e2, 10.0)]
    inner = [cross_val_predict(model, z[fitted], value[fitted], cv=folds) for model in ridges]
    best = int(np.argmin([mean_squared_error(value[fitted], predicted) for predicted in inner]))
    assert record["valence"]["penalty"] == {"alpha": ridges[best][-1].alpha}
    low, high = run.record["targets"]["valence"]["low"], run.record["targets"]["valence"]["high"]
    expected = ridges[best].fit(z[fitted], value[fitted]).predict(z[test])
    np.testing.assert_allclose(table.loc[ids[test], "valence.pred"], expected.clip(low, high), atol=1e-4)
    expected = inner[best][splits[fitted] == "val"].clip(low, high)
    np.testing.assert_allclose(table.loc[validation, "valence.pred"], expected, atol=1e-4)


def test_record_of_training_contains_the_joined_validation_clips(probe_run: Path) -> None:
    _, splits, index = embed_all(probe_run)
    record = stored_record(read_checkpoint(probe_run / "checkpoints" / "best.ckpt")["etude"], "run", ("own",))
    overlap = record.find(ClipKeys.of_clips(index, None))
    assert (overlap.trained == (splits != "test")).all()


def test_report_shows_inner_scores_instead_of_learning_curves(probe_run: Path) -> None:
    page = (probe_run / "report.html").read_text()
    assert "Linear probe of genre" in page and "(chosen)" in page
    assert "out-of-fold predictions of the inner folds" in page
    assert "epoch" not in page.partition('id="training-title"')[2].partition("</section>")[0]
    model = json.loads((probe_run / "record.json").read_text())["model"]
    heads = load_network(probe_run / "checkpoints" / "best.ckpt").task.heads
    assert model["epochs"] is None and model["trainable"] == sum(p.numel() for p in heads.parameters())
    assert f"of which {model['trainable']:,} are trained" in page
    assert f"the backbone’s own: {model['dim']} values" in page.replace("&#39;", "’")


def test_run_that_was_killed_before_the_fit_is_resumed(
    probe_run: Path, finished: Path, packs: Path, environment: dict[str, str], fork_server: ForkServer, tmp_path: Path
) -> None:
    (tmp_path / "interruption.py").write_text(KILL)
    path = f"{tmp_path}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    variables = environment | {"PYTHONPATH": path, "ETUDE_TRUST": "interruption"}
    callback = "+callbacks.interruption={_target_: interruption.Interruption}"
    killed = fork_server.run(tmp_path, variables, *overrides(finished), f"data.packs={packs}", callback)
    assert killed.returncode == -9, killed.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    resumed = fork_server.run(tmp_path, variables, f"resume={run.relative_to(tmp_path)}")
    assert resumed.returncode == 0, resumed.stderr
    pd.testing.assert_frame_equal(*(pd.read_parquet(path / "predictions.parquet") for path in (run, probe_run)))


@pytest.mark.full
def test_two_processes_give_the_predictions_of_one(
    probe_run: Path, finished: Path, train: Callable[..., Result], tmp_path: Path
) -> None:
    result = train(tmp_path, *overrides(finished), "trainer=ddp_cpu")
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    expected, table = (pd.read_parquet(path / "predictions.parquet") for path in (probe_run, run))
    assert expected["id"].tolist() == table["id"].tolist()
    columns = [name for name in expected if (name.endswith(".pred") and name != "genre.pred") or ".score." in name]
    np.testing.assert_allclose(expected[columns], table[columns], atol=1e-4)
    assert (expected["out_of_fold"] == table["out_of_fold"]).all()


@pytest.mark.full
def test_fine_tuning_begins_with_linear_probes(train: Callable[..., Result], finished: Path, tmp_path: Path) -> None:
    """Train for one epoch at a rate of nearly 0 in two processes, and compare with probes of the training clips."""
    common = ["backbone=lstm", "task=joint", f"transfer.init_from={finished}"]
    tuned = ["transfer=full", "transfer.head_init=linear_probe", "optim.lr=1e-12", "trainer=ddp_cpu", "name=tuned"]
    probe = ["transfer=probe", "optim=linear_probe", "optim.join_validation=false", "name=probe"]
    for options in ([*tuned, "trainer.max_epochs=1"], probe):
        result = train(tmp_path, *common, *options)
        assert result.returncode == 0, result.stderr
    tables = [pd.read_parquet(*tmp_path.glob(f"outputs/*_{name}_*/predictions.parquet")) for name in ("tuned", "probe")]
    columns = [name for name in tables[0] if (name.endswith(".pred") and name != "genre.pred") or ".score." in name]
    np.testing.assert_allclose(tables[0][columns], tables[1][columns], atol=1e-4)
    assert len({*tables[0]["genre.pred"]}) > 1
    tuned_run, probe_run = (RunFolder(*tmp_path.glob(f"outputs/*_{name}_*")) for name in ("tuned", "probe"))
    fits = [run.record["model"][key] for run, key in ((tuned_run, "initial_heads"), (probe_run, "linear_probe"))]
    for name in ("genre", "valence", "energy", "danceability"):
        first, second = (fit[name] for fit in fits)
        assert (first["penalty"], first["groups"]) == (second["penalty"], second["groups"])
        assert first["inner_score"] == pytest.approx(second["inner_score"], abs=1e-3)
    training = tuned_run.report_path.read_text("utf-8").partition('id="training-title"')[2].partition("</section>")[0]
    assert "Initial heads" in training and "Linear probe of valence" in training and "<figcaption>Loss" in training
    result = train(tmp_path, *common, "transfer=full", "transfer.head_init=linear_probe", "head=mlp")
    assert result.returncode == 2
    assert "transfer.head_init=linear_probe: fits linear heads; use head=linear and head.norm=false" in result.stderr


def test_augmentation_in_the_command_is_refused(train: Callable[..., Result], finished: Path, tmp_path: Path) -> None:
    result = train(tmp_path, *overrides(finished), "augment=specaugment")
    assert result.returncode == 2
    message = (
        "augment=specaugment: a linear probe (optim=linear_probe) is fitted to clips without augmentation; remove it"
    )
    assert message in result.stderr
    assert not (tmp_path / "outputs").exists()
