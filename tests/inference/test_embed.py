"""Tests of `etude embed`: equality with predictions, its formats, the store, resuming, and errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tests.commands import cache, embed, predict

import etude
from etude.data.audio_files import read_sound
from etude.data.pack import frames_hash
from etude.embeddings.encoders import EmbeddingStore
from etude.embeddings.store import FOLDER
from etude.errors import UserError
from etude.files.ownership import LIST_NAME
from etude.inference import engine
from etude.inference.embed import EmbedOptions, embed_files
from etude.inference.model import Model, Pretrained
from etude.training.network import build_network


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., int]:
    """Return a function that runs the command with a store in the temporary folder."""

    def run(*arguments: object, packs: Path = tmp_path / "packs") -> int:
        return embed([*map(str, arguments), f"--packs={packs}", "--workers=1"])

    return run


@pytest.fixture(scope="module")
def files(audio_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two clips, a song of several windows, a silent and a broken file."""
    folder = tmp_path_factory.mktemp("music")
    for source, name in (("a.ogg", "a.ogg"), ("deep/b.ogg", "b.ogg"), ("song.mp3", "c.mp3"), ("silent.wav", "d.wav")):
        shutil.copy(audio_folder / source, folder / name)
    shutil.copy(audio_folder / "broken.mp3", folder / "e.mp3")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each decoded file is appended."""
    names: list[str] = []
    original = engine.load_windows

    def load(job: Any) -> Any:
        names.append(job[0].name)
        return original(job)

    monkeypatch.setattr(engine, "load_windows", load)
    return names


@pytest.fixture(scope="module")
def weights(config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights file of an EfficientAT with random weights and the names of the published file."""
    from etude.backbones.efficientat import EfficientAT

    torch.manual_seed(0)
    tensors = EfficientAT(128).state_dict()
    path = tmp_path_factory.mktemp("weights") / "mn.pt"
    torch.save({k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in tensors.items()}, path)
    return path


def test_embeddings_of_files_equal_those_of_predictions(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path
) -> None:
    assert call(checkpoint, files, "--out", tmp_path / "e.npz") == 1
    assert predict([str(checkpoint), str(files), f"--out={tmp_path / 'p'}", "--no-page", "--format=parquet"]) == 1
    expected = pd.read_parquet(tmp_path / "p" / "files.parquet").dropna(subset="embedding")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as stored:
        assert stored["paths"].tolist() == expected["path"].tolist()
        assert stored["embeddings"].dtype == np.float32
        np.testing.assert_allclose(stored["embeddings"], np.stack(expected["embedding"]), atol=1e-6)
        np.testing.assert_allclose(stored["end"], expected["seconds"], atol=1e-3)
        assert (stored["start"] == 0).all()
        description = json.loads(str(stored["description"]))
    assert description["dim"] == 16 and description["checkpoint"]["name"] == "best.ckpt"
    assert [Path(path).name for path in description["skipped"]] == ["d.wav", "e.mp3"]
    assert description["skipped"][str(files / "d.wav")] == "is silent"


def test_all_formats_contain_the_same_rows_for_each_window(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path, decoded: list[str]
) -> None:
    for name in ("e.npz", "e.parquet", "e.npy", "folder"):
        assert call(checkpoint, files, "--per=window", "--window=4", "--out", tmp_path / name) == 1
    assert decoded == ["a.ogg", "b.ogg", "c.mp3", *["d.wav", "e.mp3"] * 4]
    table = pq.read_table(tmp_path / "e.parquet")
    frame, metadata = table.to_pandas(), json.loads(table.schema.metadata[b"etude"])
    windows = frame.groupby("path", sort=False).size().tolist()
    assert windows == [4, 4, 12] and metadata["per"] == "window"
    assert frame["start"][:4].tolist() == pytest.approx([0, 2, 4, 6], abs=0.1)
    with np.load(tmp_path / "e.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["embeddings"], np.stack(frame["embedding"]))
        np.testing.assert_array_equal(stored["start"], frame["start"])
        np.testing.assert_array_equal(stored["end"], frame["end"])
        assert json.loads(str(stored["description"])) == metadata
    index = json.loads((tmp_path / "folder" / "index.json").read_text())
    arrays = [np.load(tmp_path / "folder" / entry["file"], allow_pickle=False) for entry in index["files"]]
    np.testing.assert_array_equal(np.concatenate(arrays), np.stack(frame["embedding"]))
    assert [time for entry in index["files"] for time in entry["times"]] == frame[["start", "end"]].to_numpy().tolist()
    assert index["skipped"] == metadata["skipped"]
    rows = json.loads((tmp_path / "e.json").read_text())
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy", allow_pickle=False), np.stack(frame["embedding"]))
    assert [row["path"] for row in rows["rows"]] == frame["path"].tolist()
    assert [row["times"] for row in rows["rows"]] == frame[["start", "end"]].to_numpy().tolist()
    assert {key: value for key, value in rows.items() if key != "rows"} == metadata


def test_shorter_result_removes_outdated_arrays_and_no_other_files(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    assert call(checkpoint, files / "a.ogg", files / "b.ogg", "--out", folder) == 0
    (folder / "000009.npy").write_bytes(b"of a user")
    assert call(checkpoint, files / "b.ogg", "--out", folder) == 0
    assert {path.name for path in folder.iterdir()} == {"000000.npy", "000009.npy", "index.json", LIST_NAME}


def test_known_files_are_not_decoded_again_under_other_names(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path, decoded: list[str]
) -> None:
    assert call(checkpoint, files / "a.ogg", files / "c.mp3", "--out", tmp_path / "e.npz") == 0
    copied = tmp_path / "copy"
    copied.mkdir()
    shutil.copy(files / "c.mp3", copied / "renamed.mp3")
    shutil.copy(files / "b.ogg", copied / "x.ogg")
    shutil.copy(files / "b.ogg", copied / "y.ogg")
    assert call(checkpoint, copied, "--out", tmp_path / "f.npz") == 0
    assert decoded == ["a.ogg", "c.mp3", "x.ogg"]  # y.ogg has the same content
    with np.load(tmp_path / "e.npz") as first, np.load(tmp_path / "f.npz") as second:
        assert [Path(path).name for path in second["paths"]] == ["renamed.mp3", "x.ogg", "y.ogg"]
        np.testing.assert_array_equal(second["embeddings"][0], first["embeddings"][1])
        np.testing.assert_array_equal(second["embeddings"][1], second["embeddings"][2])


def test_interrupted_command_resumes(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path, decoded: list[str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    load = engine.load_windows

    def interrupt(job: Any) -> Any:
        if job[0].name == "c.mp3":
            raise KeyboardInterrupt
        return load(job)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "load_windows", interrupt)
        assert call(checkpoint, files, "--batch-size=1", "--out", tmp_path / "e.npz") == 130
    assert "2 of 5 files are embedded; repeat the command to resume" in caplog.text
    assert not (tmp_path / "e.npz").exists()
    assert call(checkpoint, files, "--batch-size=1", "--out", tmp_path / "e.npz") == 1
    assert decoded == ["a.ogg", "b.ogg", "c.mp3", "d.wav", "e.mp3"]


def test_changed_content_and_other_windows_are_computed_again(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path, decoded: list[str]
) -> None:
    path = tmp_path / "song.ogg"
    shutil.copy(files / "a.ogg", path)
    assert call(checkpoint, path, "--out", tmp_path / "e.npz") == 0
    shutil.copy(files / "b.ogg", path)
    assert call(checkpoint, path, "--out", tmp_path / "e.npz") == 0
    assert call(checkpoint, path, "--window=3", "--out", tmp_path / "e.npz") == 0
    assert decoded == ["song.ogg"] * 3


def test_store_has_the_key_of_the_frames_in_a_pack(
    checkpoint: Path, files: Path, tmp_path: Path, config: Callable[..., dict[str, Any]]
) -> None:
    model = Model(checkpoint)
    result = embed_files(model, EmbedOptions([files / "a.ogg"], packs=tmp_path, workers=1))
    frames = read_sound(files / "a.ogg", model.front)[:, slice(*model.network.recipe["columns"])].astype(np.float16)
    with EmbeddingStore(tmp_path / FOLDER, model.name, model.encoder_identity) as store:
        (value,) = store.get([frames_hash(frames)])
    np.testing.assert_array_equal(value, result.values[0])
    with torch.inference_mode():
        z, _ = model.network(torch.from_numpy(frames)[None], torch.tensor([len(frames)]))
    np.testing.assert_allclose(z[0], result.values[0], atol=1e-6)


def test_damaged_store_is_computed_again(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path, decoded: list[str]
) -> None:
    assert call(checkpoint, files / "a.ogg", "--out", tmp_path / "e.npz") == 0
    for shard in (tmp_path / "packs").rglob("*.bin"):
        data = bytearray(shard.read_bytes())
        data[-20] ^= 1
        shard.write_bytes(data)
    assert call(checkpoint, files / "a.ogg", "--out", tmp_path / "f.npz") == 0
    assert decoded == ["a.ogg"] * 2
    with np.load(tmp_path / "e.npz") as first, np.load(tmp_path / "f.npz") as second:
        np.testing.assert_array_equal(first["embeddings"], second["embeddings"])


def test_cache_lists_and_clears_what_embed_stored(
    call: Callable[..., int], checkpoint: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(checkpoint, files / "a.ogg", "--out", tmp_path / "e.npz") == 0
    packs = f"--packs={tmp_path / 'packs'}"
    capsys.readouterr()
    assert cache([packs]) == 0
    listed = capsys.readouterr().out
    assert "best.ckpt" in listed and "1 entries" in listed and "2 stores with" in listed
    assert cache(["clear", packs, "--older-than=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stores"] == []
    assert cache(["clear", packs, "--model=best.ckpt", "--json"]) == 0
    (store,) = json.loads(capsys.readouterr().out)["stores"]
    assert store["kind"] == "embeddings" and store["entries"] == 1 and not Path(store["folder"]).exists()
    assert cache([packs, "--model=x"]) == 2
    assert "need the argument clear" in capsys.readouterr().err


def test_pretrained_backbone_embeds_a_complete_file(files: Path, weights: Path, tmp_path: Path) -> None:
    source = Pretrained("efficientat", [f"backbone.weights={weights}"])
    model = Model(source)
    options = EmbedOptions([files / "c.mp3", files / "a.ogg"], packs=tmp_path, workers=1)
    result = embed_files(model, options)
    assert result.values.shape == (2, 384) and result.end[0] > 20 and result.description["model"] == "efficientat"
    frames = torch.from_numpy(read_sound(files / "c.mp3", model.front))
    with torch.inference_mode():
        expected = model.network.backbone(frames[None], torch.tensor([len(frames)]))[0].numpy()
    np.testing.assert_allclose(result.values[0], expected, atol=2e-2 * np.abs(expected).max())  # frames are float16
    assert np.corrcoef(result.values[0], expected)[0, 1] > 0.9999


def test_long_windows_do_not_share_a_step_of_the_network(
    model: Model, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"per": "window", "window": 3.0, "workers": 1}
    expected = embed_files(model, EmbedOptions([files / "c.mp3"], packs=tmp_path / "a", **options))
    sizes: list[int] = []
    predict_batch = model._predict

    def count(windows: Any) -> Any:
        sizes.append(len(windows))
        return predict_batch(windows)

    monkeypatch.setattr(model, "_predict", count)
    monkeypatch.setattr("etude.inference.model.MAX_CPU_FRAMES", 300)
    result = embed_files(model, EmbedOptions([files / "c.mp3"], packs=tmp_path / "b", **options))
    assert len(sizes) == -(-len(result) // 2)  # a window has 130 frames
    np.testing.assert_allclose(result.values, expected.values, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["music", "--backbone=cnn"], "--backbone cnn: has no pretrained weights; train it, and give the run instead"),
        (
            ["music", "--backbone=efficientat", "backbone.weights=null"],
            "--backbone efficientat: its weights are random; use backbone.weights=mn04_as or backbone.weights=FILE",
        ),
        (["music", "--backbone=timm"], "--backbone timm: its weights are random; use backbone.weights=FILE"),
        (
            ["music", "--backbone=ast"],
            "--backbone ast: its weights are random; use backbone.weights=FILE, or the name of published weights: "
            "audioset",
        ),
        (["music", "--backbone=nothing"], "--backbone nothing: there is no such backbone; choose one of ast, "),
        (
            ["run", "music", "backbone.weights=x"],
            "backbone.weights=x: is an override; it needs --backbone NAME, ",
        ),
        (["best.ckpt", "music", "--backbone=ast"], "best.ckpt: is a run, but --backbone ast selects another network; "),
        (["music/song.ogg"], "music/song.ogg: is not a run; give a run before it, or --backbone NAME"),
        (["--backbone=ast"], "Missing argument 'INPUT'; etude embed --help lists the arguments"),
        ([], "Missing argument 'RUN'; etude embed --help lists the arguments"),
        (
            ["best.ckpt", "music", "--out=e.csv"],
            "--out e.csv: must end with .npy, .npz, .parquet, or be the name of ",
        ),
        (
            ["best.ckpt", "music", "--out=own.npz"],
            "own.npz: exists and is not in .etude-files, the list of files ",
        ),
        (["best.ckpt", "music", "--out=own.npy"], "own.json: exists and is not in .etude-files, the list of files "),
        (["best.ckpt", "music", "--overlap=2"], "--overlap 2: must be a fraction of a window from 0 to 0.95"),
        (["best.ckpt", "music/bad.mp3"], "none of the 1 files can be embedded; music/bad.mp3: "),
        (["no.ckpt", "music"], "no.ckpt: there is no such folder or checkpoint"),
    ],
)
def test_invalid_command_has_one_sentence_and_leaves_no_result(
    arguments: list[str], message: str, checkpoint: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint, "best.ckpt")
    Path("music").mkdir()
    shutil.copy(files / "a.ogg", "music/song.ogg")
    Path("music/bad.mp3").write_bytes(b"no sound at all")
    for name in ("own.npz", "own.json"):
        Path(name).write_bytes(b"of a user")
    out = [] if any(argument.startswith("--out") for argument in arguments) else ["--out=e.npz"]
    assert embed([*arguments, *out, "--packs=packs", "--workers=1"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(message)
    assert not Path("e.npz").exists() and Path("own.npz").read_bytes() == b"of a user"


def test_weights_are_loaded_for_the_network_of_a_backbone(weights: Path) -> None:
    model = Model(Pretrained("efficientat", [f"backbone.weights={weights}"]))
    other = build_network(model.network.recipe)
    name, tensor = next(iter(model.network.backbone.state_dict().items()))
    assert not torch.equal(tensor, other.backbone.state_dict()[name])
    assert len(model.sha256) == 64


def test_python_functions_return_paths_and_embeddings(
    checkpoint: Path, files: Path, weights: Path, tmp_path: Path
) -> None:
    names = [str(files / "a.ogg"), str(files / "e.mp3")]
    result = etude.load(checkpoint).embed(names, per="window", window=4.0, packs=tmp_path)
    assert result.paths == names[:1] * 4 and result.values.shape == (4, 16) and list(result.skipped) == names[1:]
    assert "from best.ckpt" in repr(result)
    overrides = [f"backbone.weights={weights}"]
    result = etude.embed(files / "a.ogg", "efficientat", overrides, packs=tmp_path)
    assert result.paths == names[:1] and result.values.shape == (1, 384)
    assert result.description["overrides"] == overrides
    with pytest.raises(UserError, match="embed: has no option windows"):
        etude.embed(names, "efficientat", overrides, windows=3)
    with pytest.raises(UserError, match="per=file: must be clip or window"):
        etude.embed(names, "efficientat", overrides, per="file")


@pytest.mark.parametrize("override", ["backbone.embedding=max_pool", "backbone.weights=mtt", "readout.layers=[1]"])
def test_settings_that_change_embeddings_change_the_identity(override: str) -> None:
    first = Model(Pretrained("musicnn", ["backbone.embedding=mean_pool"]))
    other = Model(Pretrained("musicnn", ["backbone.embedding=mean_pool", override]))
    assert first.encoder_identity == Model(Pretrained("musicnn", ["backbone.embedding=mean_pool"])).encoder_identity
    assert first.encoder_identity != other.encoder_identity
