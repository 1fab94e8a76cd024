"""A complete run on a frozen encoder of transformers, and its use without the folder of the checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.backbones.checkpoints import save_checkpoint

from etude.cli.app import main
from etude.data.sources.demo import collection
from etude.errors import UserError
from etude.export.export import trace_graph
from etude.export.graph import Graph
from etude.inference.model import Model, Pretrained
from etude.runs.folder import RunFolder

pytestmark = pytest.mark.full
Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small HuBERT."""
    folder = tmp_path_factory.mktemp("hubert")
    save_checkpoint(folder, "hubert")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Result], checkpoint: Path) -> RunFolder:
    """Finished run of two clips of each artist, whose checkpoint folder has another name since."""
    folder = tmp_path_factory.mktemp("run")
    clips = collection().table.groupby("group").head(2)
    names = [Path(shutil.copy(path, folder)).name for path in map(Path, clips["path"])]
    clips.assign(path=names)[["id", "path", "genre", "group"]].to_csv(folder / "clips.csv", index=False)
    model = shutil.copytree(checkpoint, folder / "model")
    result = train(
        folder, "backbone=hf", f"backbone.model={model}", "transfer=probe", "optim=linear_probe", "task=genre",
        "data=table", "data.source.table=clips.csv", "readout.layers=all",
        "optim.C=[1e-2,0.1]", "shortcut_baseline=false",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    model.rename(folder / "other")
    return RunFolder(next((folder / "outputs").iterdir()))


def test_run_is_complete_and_has_the_frames_of_the_checkpoint(run: RunFolder) -> None:
    assert run.path.name.rpartition("_")[0].endswith("_genre_model_hf_all")  # backbone.model
    assert run.record["earlier_training"]["unknown"] == ["backbone.model=model"]
    config = yaml.safe_load(run.config_path.read_text())
    assert config["feature"]["front"]["_target_"] == "etude.audio.checkpoint_fronts.WaveformFront"
    assert config["backbone"]["config"]["model_type"] == "hubert"
    assert json.loads(run.metrics_path.read_text())
    assert run.report_path.stat().st_size < 3_000_000
    index = json.loads(run.errors_index_path.read_text())
    assert index["sound"] and index["bins"] == 128 and index["clips"]


def test_run_predicts_and_embeds_without_the_checkpoint(
    run: RunFolder, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run.path), str(clips[0]), "--out", str(tmp_path / "predictions")]) == 0
    assert "frequency" in (tmp_path / "predictions" / "predict.html").read_text("utf-8")
    assert main(["embed", str(run.path), str(clips[0]), "--out", str(tmp_path / "z.npz"), f"--packs={tmp_path}"]) == 0
    with np.load(tmp_path / "z.npz", allow_pickle=False) as file:
        assert file["embeddings"].shape == (1, 3 * 24)


def test_weights_are_exported_without_the_checkpoint(run: RunFolder, clips: list[Path], tmp_path: Path) -> None:
    assert main(["export", str(run.path), "--format=safetensors", "--out", str(tmp_path / "export")]) == 0
    assert main(["predict", str(tmp_path / "export"), str(clips[0]), "--out", str(tmp_path / "predictions")]) == 0


def test_encoder_without_a_run_embeds_files(
    checkpoint: Path, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", "--backbone", "hf", f"backbone.model={checkpoint}", str(clips[0]), f"--packs={tmp_path}"]
    assert main([*words, "--out", str(tmp_path / "z.npz")]) == 0
    with np.load(tmp_path / "z.npz", allow_pickle=False) as file:
        assert file["embeddings"].shape == (1, 24) and np.isfinite(file["embeddings"]).all()
    assert main(["embed", "--backbone", "hf", str(clips[0]), "--out", str(tmp_path / "y.npz")]) == 2
    assert "backbone.model: needs a value" in capsys.readouterr().err


def test_identity_of_an_encoder_depends_on_its_weights_and_not_on_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    identities = [
        Model(Pretrained("hf", [f"backbone.model={folder}"])).encoder_identity for folder in (checkpoint, moved)
    ]
    assert identities[0] == identities[1]
    assert "transformers" in identities[0]["libraries"]
    random = Model(Pretrained("hf", [f"backbone.model={save_other(tmp_path)}"])).encoder_identity
    assert random != identities[0]


def save_other(folder: Path) -> Path:
    """Save another network with the same architecture, and return its folder."""
    other = folder / "wav2vec2"
    save_checkpoint(other, "wav2vec2")
    return other


def test_graph_is_refused(run: RunFolder) -> None:
    model = Model(run.path)
    with pytest.raises(UserError, match="--format safetensors"):
        trace_graph(Graph(model.network, model.front))
