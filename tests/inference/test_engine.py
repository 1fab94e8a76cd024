"""Tests of the prediction of audio files, long files and invalid files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import etude
from etude.audio.frontend import FrontEnd
from etude.audio.kaldi import ASTFront
from etude.audio.log_mel import LogMelChroma
from etude.data.workers import run_in_processes
from etude.errors import UserError
from etude.inference import engine, figure, inputs
from etude.inference.engine import WindowedFile, load_windows
from etude.inference.model import Model, WindowOutput
from etude.inference.tables import Predictions, predict_tables
from etude.inference.windows import Window
from etude.reports.spectrogram import average_frames


@pytest.fixture(scope="module")
def predictions(model: Model, audio_folder: Path) -> Predictions:
    return predict_tables(model, audio_folder)


def test_table_has_a_row_per_file_and_reasons_of_failures(predictions: Predictions, audio_folder: Path) -> None:
    files = predictions.files.set_index(predictions.files["path"].map(lambda path: Path(path).name))
    assert len(files) == 7
    assert files["error"].notna().sum() == 2
    assert files.loc["silent.wav", "error"] == "is silent"
    assert str(files.loc["broken.mp3", "error"]).startswith("cannot be decoded (it contains no audio")
    assert np.isnan(files.loc["broken.mp3", "energy.pred"])
    assert files.loc["song.flac", "seconds"] == pytest.approx(97.7, abs=0.01)
    assert files.loc["song.flac", "windows"] == 19 and files.loc["a.ogg", "windows"] == 1
    good = files[files["error"].isna()]
    np.testing.assert_allclose(good.filter(like="genre.score.").sum(axis=1), 1, atol=1e-6)
    assert "2 of which could not be decoded" in repr(predictions)
    assert "<img src=x" not in predictions._repr_html_() and "&lt;img src=x" in predictions._repr_html_()


def test_windows_cover_each_file(predictions: Predictions) -> None:
    ends = predictions.files.set_index("path")["seconds"]
    for path, windows in predictions.windows.groupby("path"):
        assert windows["start"].iloc[0] == 0
        assert windows["end"].iloc[-1] == pytest.approx(ends[path], abs=2e-3)
        assert (windows["start"].iloc[1:].to_numpy() < windows["end"].iloc[:-1].to_numpy()).all()


def test_outputs_of_windows_are_averaged_before_conversion_to_probabilities(predictions: Predictions) -> None:
    windows = predictions.windows[predictions.windows["path"].str.endswith("song.flac")]
    file = predictions.files[predictions.files["path"].str.endswith("song.flac")].iloc[0]
    scores = [name for name in windows if name.startswith("genre.score.")]
    mean = np.log(windows[scores].to_numpy(float)).mean(axis=0)
    np.testing.assert_allclose(file[scores].to_numpy(float), np.exp(mean) / np.exp(mean).sum(), atol=1e-5)
    assert np.abs(windows[scores].to_numpy(float).mean(0) - file[scores].to_numpy(float)).max() > 1e-4


def test_batch_size_does_not_change_predictions(predictions: Predictions, model: Model, audio_folder: Path) -> None:
    other = predict_tables(model, [audio_folder], batch_size=3)
    for first, second in ((predictions.files, other.files), (predictions.windows, other.windows)):
        pd.testing.assert_frame_equal(first.drop(columns="embedding", errors="ignore"),
                                      second.drop(columns="embedding", errors="ignore"), atol=1e-5)  # fmt: skip


def test_workers_that_run_the_network_give_the_predictions_of_one_process(model: Model, audio_folder: Path) -> None:
    files = 4 * sorted(path for path in audio_folder.rglob("*") if path.suffix in (".ogg", ".wav", ".mp3"))
    plan, shared = replace(model.plan(), hashed=True), engine._share(model)
    shards = inputs.divide_files(files, 4, 2)
    assert shared is not None and [path for shard in shards for path in shard] == files
    predict_shard = partial(engine._predict_shard, shared, plan, 4)
    results = chain.from_iterable(run_in_processes(predict_shard, shards, 2, shard=1, meanwhile=False))
    expected = engine.predict(model, files, plan, batch=4, workers=1)
    for result, other in zip(results, expected, strict=True):
        assert (result.path, result.size, result.modified) == (other.path, other.size, other.modified)
        assert (result.reason, result.suspect, result.seconds) == (other.reason, other.suspect, other.seconds)
        assert [key for key, _ in result.window_embeddings] == [key for key, _ in other.window_embeddings]
        if not result.reason:
            np.testing.assert_allclose(result.embedding, other.embedding, atol=1e-6)
            np.testing.assert_allclose(result.values, other.values, atol=1e-6)
            assert [window[:2] for window in result.windows] == [window[:2] for window in other.windows]


def test_network_that_cannot_be_pickled_runs_in_one_process(
    checkpoint: Path, clips: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(checkpoint)
    model.network.backbone.function = lambda x: x
    with caplog.at_level("INFO"):
        assert engine._share(model) is None
    assert "the network runs in one process: it cannot be sent to others (" in caplog.text


def test_few_files_are_in_memory_at_a_time(model: Model) -> None:
    n_decoded = 0

    def decoded_files() -> Iterator[WindowedFile]:
        nonlocal n_decoded
        for number in range(10_000):
            n_decoded += 1
            frames = [np.zeros((20, 128), np.float16)]
            yield WindowedFile(Path(str(number)), 1, 1, 2.0, [Window(0, 1, list(frames)), Window(1, 2, list(frames))])

    results = engine.predict_windows(model, decoded_files(), 32)
    for done in range(40):
        assert next(results).path == Path(str(done))
        assert n_decoded <= done + 16


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream each file that is longer than one window, as a long file, in small blocks."""
    monkeypatch.setattr(engine, "load_windows", partial(load_windows, max_bytes=1))
    monkeypatch.setattr("etude.audio.decode.BLOCK", 1 << 16)


@pytest.mark.usefixtures("streaming")
def test_streaming_does_not_change_predictions(predictions: Predictions, model: Model, audio_folder: Path) -> None:
    assert load_windows((audio_folder / "song.flac", model.plan()), 1).windows == []
    other = predict_tables(model, audio_folder, batch_size=5)
    for first, second in ((predictions.files, other.files), (predictions.windows, other.windows)):
        pd.testing.assert_frame_equal(first.drop(columns="embedding", errors="ignore"),
                                      second.drop(columns="embedding", errors="ignore"), atol=1e-5)  # fmt: skip


@pytest.mark.usefixtures("streaming")
def test_windows_are_predicted_during_decoding(
    model: Model, audio_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    batches: list[int] = []
    original, predict = engine.stream, model.predict

    def count_samples(*args: Any) -> Iterator[np.ndarray]:
        for block in original(*args):
            decoded.append(len(block))
            yield block

    def record_batch(windows: list[Window]) -> list[WindowOutput]:
        batches.append(sum(decoded))
        return predict(windows)

    monkeypatch.setattr(engine, "stream", count_samples)
    monkeypatch.setattr(model, "predict", record_batch)
    (prediction,) = engine.predict(model, [audio_folder / "song.flac"], model.plan(), batch=2, workers=1)
    assert len(prediction.windows) == 19 and len(batches) == 10
    windows = 22050 * 5 * np.arange(2, 20, 2) + 22050 * 5  # end of the last window of each batch, with overlap 0.5
    assert (np.array(batches[:9]) < windows + 22050 * 3).all()  # only little more was decoded


@pytest.mark.usefixtures("streaming")
def test_long_file_with_broken_end_has_no_predictions(model: Model, audio_folder: Path, tmp_path: Path) -> None:
    content = (audio_folder / "song.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: int(0.8 * len(content))])
    soundfile.write(tmp_path / "b.wav", np.zeros(22050 * 30), 22050)
    broken, silent = engine.predict(model, [tmp_path / "a.flac", tmp_path / "b.wav"], model.plan(), workers=1)
    assert broken.reason.startswith("is broken") and silent.reason == "is silent"
    assert broken.values is None and not broken.windows and silent.values is None


def test_file_that_may_not_be_music_is_predicted_with_a_warning(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.commands import predict as main

    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 22050 * 3), 22050)
    assert main([str(checkpoint), str(tmp_path / "a.wav"), f"--out={tmp_path / 'to'}", "--no-page"]) == 0
    assert "a.wav: is used although it may not be music: it is white noise near full scale" in caplog.text


@pytest.mark.parametrize("front", [LogMelChroma(), ASTFront()], ids=["relative", "absolute"])
def test_spectrogram_does_not_depend_on_spans(
    front: FrontEnd, audio_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mel = figure._mel_bands(audio_folder / "song.flac", front)
    assert len(mel) > 97 * front.frames_per_second
    monkeypatch.setattr(figure, "SPAN_SECONDS", 15.0)
    means = figure._mel_bands(audio_folder / "song.flac", front)
    assert len(means) == -(-len(mel) // figure.FRAMES_PER_MEAN)
    mel = average_frames(mel, len(means))
    difference = (mel - mel.max()) - (means - means.max())
    assert np.abs(difference).mean() < 0.5  # dB


def test_run_object_predicts(checkpoint: Path, clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(checkpoint.read_bytes())
    run = etude.Run(tmp_path)
    predictions = run.predict(str(clips[0]), window=4, overlap=0.25)
    assert list(predictions.windows["start"]) == [0, 3, 6] and list(predictions.windows["end"]) == [4, 7, 10]
    assert len(run.predict([clips[0], clips[1]]).files) == 2
    with pytest.raises(UserError, match="batch_size=0: must be"):
        run.predict(clips[0], batch_size=0)
    with pytest.raises(UserError, match="device gpu: must be one of auto, cpu, cuda"):
        run.predict(clips[0], device="gpu")


def test_unexpected_errors_of_a_file_become_its_reason(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = model.plan()
    assert load_windows((tmp_path / "gone.wav", plan)).reason == "there is no such file"
    (tmp_path / "odd.wav").write_bytes(b"x")

    def fails(*_: object) -> None:
        raise RuntimeError("an error\nof a library")

    monkeypatch.setattr("etude.inference.engine.stream", fails)
    file = load_windows((tmp_path / "odd.wav", plan))
    assert file.reason == "an error of a library" and not file.windows


def test_network_for_images_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    stored = torch.load(checkpoint, weights_only=True)
    stored["etude"] |= {"front": {"_target_": "etude.audio.frontend.ImageFront", "n_mels": 128}}
    torch.save(stored, tmp_path / "images.ckpt")
    with pytest.raises(UserError, match="takes images, not audio"):
        Model(tmp_path / "images.ckpt")
