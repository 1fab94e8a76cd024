"""Songs of any length and format, bad files among good ones, and memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
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
from etude.errors import UserError
from etude.inference import engine, figure
from etude.inference.engine import WindowedFile, load_windows
from etude.inference.model import Model, WindowOutput
from etude.inference.tables import Predictions, predicted
from etude.inference.windows import Window
from etude.reports.spectrogram import shrink


@pytest.fixture(scope="module")
def found(model: Model, sounds: Path) -> Predictions:
    return predicted(model, sounds)


def test_each_file_has_a_row_and_a_bad_one_says_why(found: Predictions, sounds: Path) -> None:
    files = found.files.set_index(found.files["path"].map(lambda path: Path(path).name))
    assert len(files) == 7
    assert files["error"].notna().sum() == 2
    assert files.loc["silent.wav", "error"] == "is silent"
    assert str(files.loc["broken.mp3", "error"]).startswith("cannot be decoded (it contains no audio")
    assert np.isnan(files.loc["broken.mp3", "energy.pred"])
    assert files.loc["song.flac", "seconds"] == pytest.approx(97.7, abs=0.01)
    assert files.loc["song.flac", "windows"] == 19 and files.loc["a.ogg", "windows"] == 1
    good = files[files["error"].isna()]
    np.testing.assert_allclose(good.filter(like="genre.score.").sum(axis=1), 1, atol=1e-6)
    assert "2 of which could not be heard" in repr(found)
    assert "<img src=x" not in found._repr_html_() and "&lt;img src=x" in found._repr_html_()


def test_windows_reach_from_the_beginning_of_each_file_to_its_end(found: Predictions) -> None:
    ends = found.files.set_index("path")["seconds"]
    for path, windows in found.windows.groupby("path"):
        assert windows["start"].iloc[0] == 0
        assert windows["end"].iloc[-1] == pytest.approx(ends[path], abs=2e-3)
        assert (windows["start"].iloc[1:].to_numpy() < windows["end"].iloc[:-1].to_numpy()).all()


def test_a_file_is_the_mean_of_its_windows_before_they_are_probabilities(found: Predictions) -> None:
    windows = found.windows[found.windows["path"].str.endswith("song.flac")]
    file = found.files[found.files["path"].str.endswith("song.flac")].iloc[0]
    scores = [name for name in windows if name.startswith("genre.score.")]
    mean = np.log(windows[scores].to_numpy(float)).mean(axis=0)
    np.testing.assert_allclose(file[scores].to_numpy(float), np.exp(mean) / np.exp(mean).sum(), atol=1e-5)
    assert np.abs(windows[scores].to_numpy(float).mean(0) - file[scores].to_numpy(float)).max() > 1e-4


def test_batches_do_not_change_the_numbers(found: Predictions, model: Model, sounds: Path) -> None:
    other = predicted(model, [sounds], batch=3)
    for one, two in ((found.files, other.files), (found.windows, other.windows)):
        pd.testing.assert_frame_equal(one.drop(columns="embedding", errors="ignore"),
                                      two.drop(columns="embedding", errors="ignore"), atol=1e-5)  # fmt: skip


def test_few_files_are_under_way_however_many_there_are(model: Model) -> None:
    taken = 0

    def hear_many() -> Iterator[WindowedFile]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            frames = [np.zeros((20, 128), np.float16)]
            yield WindowedFile(Path(str(number)), 1, 1, 2.0, [Window(0, 1, list(frames)), Window(1, 2, list(frames))])

    results = engine.predict_windows(model, hear_many(), 32)
    for done in range(40):
        assert next(results).path == Path(str(done))
        assert taken <= done + 16


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every file that is longer than one window as a long one, and decode it in small blocks."""
    monkeypatch.setattr(engine, "load_windows", partial(load_windows, limit=1))
    monkeypatch.setattr("etude.audio.decode.BLOCK", 1 << 16)


@pytest.mark.usefixtures("streamed")
def test_a_long_file_has_the_numbers_of_a_short_one(found: Predictions, model: Model, sounds: Path) -> None:
    assert load_windows((sounds / "song.flac", model.plan()), 1).windows == []
    other = predicted(model, sounds, batch=5)
    for one, two in ((found.files, other.files), (found.windows, other.windows)):
        pd.testing.assert_frame_equal(one.drop(columns="embedding", errors="ignore"),
                                      two.drop(columns="embedding", errors="ignore"), atol=1e-5)  # fmt: skip


@pytest.mark.usefixtures("streamed")
def test_a_long_file_is_judged_while_it_is_decoded(model: Model, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    batches: list[int] = []
    real, predict = engine.stream, model.predict

    def counted(*args: Any) -> Iterator[np.ndarray]:
        for block in real(*args):
            decoded.append(len(block))
            yield block

    def noted(windows: list[Window]) -> list[WindowOutput]:
        batches.append(sum(decoded))
        return predict(windows)

    monkeypatch.setattr(engine, "stream", counted)
    monkeypatch.setattr(model, "predict", noted)
    (said,) = engine.predict(model, [sounds / "song.flac"], model.plan(), batch=2, workers=1)
    assert len(said.windows) == 19 and len(batches) == 10
    windows = 22050 * 5 * np.arange(2, 20, 2) + 22050 * 5  # the end of the last window of each batch, half overlapping
    assert (np.array(batches[:9]) < windows + 22050 * 3).all()  # little more than that was decoded


@pytest.mark.usefixtures("streamed")
def test_a_long_file_that_breaks_in_the_end_has_no_numbers(model: Model, sounds: Path, tmp_path: Path) -> None:
    whole = (sounds / "song.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: int(0.8 * len(whole))])
    soundfile.write(tmp_path / "b.wav", np.zeros(22050 * 30), 22050)
    broken, silent = engine.predict(model, [tmp_path / "a.flac", tmp_path / "b.wav"], model.plan(), workers=1)
    assert broken.reason.startswith("is broken") and silent.reason == "is silent"
    assert broken.values is None and not broken.windows and silent.values is None


def test_a_file_that_may_be_no_music_is_used_and_said(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from etude.cli.predict import main

    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 22050 * 3), 22050)
    assert main([str(checkpoint), str(tmp_path / "a.wav"), f"to={tmp_path / 'to'}", "page=false"]) == 0
    assert "a.wav: is used, although it may not be music: it is white noise near full scale" in caplog.text


@pytest.mark.parametrize("front", [LogMelChroma(), ASTFront()], ids=["relative", "absolute"])
def test_the_picture_of_a_long_sound_is_that_of_a_short_one(
    front: FrontEnd, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = figure._bands(sounds / "song.flac", front)
    assert len(whole) > 97 * front.frames_per_second
    monkeypatch.setattr(figure, "SPAN", 15.0)
    parts = figure._bands(sounds / "song.flac", front)
    assert len(parts) == -(-len(whole) // figure.MEAN)
    whole = shrink(whole, len(parts))
    difference = (whole - whole.max()) - (parts - parts.max())
    assert np.abs(difference).mean() < 0.5  # dB


def test_a_run_predicts_from_python(checkpoint: Path, clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(checkpoint.read_bytes())
    run = etude.Run(tmp_path)
    found = run.predict(str(clips[0]), window=4, overlap=0.25)
    assert list(found.windows["start"]) == [0, 3, 6] and list(found.windows["end"]) == [4, 7, 10]
    assert len(run.predict([clips[0], clips[1]]).files) == 2
    with pytest.raises(UserError, match="batch=0: must be"):
        run.predict(clips[0], batch=0)
    with pytest.raises(UserError, match="device=gpu: must be one of auto, cpu, cuda"):
        run.predict(clips[0], device="gpu")


def test_whatever_a_file_does_is_a_sentence(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = model.plan()
    assert load_windows((tmp_path / "gone.wav", plan)).reason == "there is no such file"
    (tmp_path / "odd.wav").write_bytes(b"x")

    def fails(*_: object) -> None:
        raise RuntimeError("a library\nsays so")

    monkeypatch.setattr("etude.inference.engine.stream", fails)
    heard = load_windows((tmp_path / "odd.wav", plan))
    assert heard.reason == "a library says so" and not heard.windows


def test_a_network_for_images_takes_no_sound(checkpoint: Path, tmp_path: Path) -> None:
    stored = torch.load(checkpoint, weights_only=True)
    stored["etude"] |= {"front": {"_target_": "etude.audio.frontend.ImageFront", "n_mels": 128}}
    torch.save(stored, tmp_path / "images.ckpt")
    with pytest.raises(UserError, match="looks at images, and takes no sound"):
        Model(tmp_path / "images.ckpt")
