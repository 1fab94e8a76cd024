"""Tests of saved worst errors and of their images and audio in a report."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from etude.audio.decode import decode
from etude.audio.frontend import FrontEnd, ImageFront
from etude.audio.log_mel import LogMelChroma
from etude.data.collection import Collection
from etude.evaluation.predictions import find_worst_errors
from etude.files.ownership import subfolder
from etude.reports import worst_errors
from etude.reports.clip_frames import EXCERPT_RATE, EXCERPT_SECONDS
from etude.reports.comparison.pooling import copy_worst_errors
from etude.reports.run_report import write_report
from etude.reports.svg import SHADES
from etude.reports.worst_errors import MAX_COLUMNS, save_worst_errors
from etude.runs.folder import RunFolder, write_metrics

HOSTILE = "<script>alert('clip')</script>"
FILE_SECONDS = 18
GENRE = {"genre": {"kind": "label"}}


@pytest.fixture(scope="module")
def predictions(table: pd.DataFrame) -> pd.DataFrame:
    """Predictions with the hostile clip as the most confident error."""
    changed = table.copy()
    row = changed["id"] == HOSTILE
    changed.loc[row, ["genre.true", "genre.pred", "genre.score.rock"]] = ["folk", "rock", 1.0]
    return changed


def worst_ids(table: pd.DataFrame) -> list[str]:
    return [row[0] for row in find_worst_errors(table, "genre", "label")["rows"]]


def make_data(table: pd.DataFrame, folder: Path, front: FrontEnd) -> Any:
    """Return a data module of clips with the same audio file, except for one damaged and one missing file."""
    folder.mkdir()
    ids = list(table["id"])
    rng = np.random.default_rng(0)
    seconds = np.arange(FILE_SECONDS * EXCERPT_RATE) / EXCERPT_RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds) + 0.1 * rng.standard_normal(len(seconds))
    soundfile.write(folder / "tone.wav", np.stack([tone, tone], 1), EXCERPT_RATE)  # stereo
    paths = dict.fromkeys(ids, str(folder / "tone.wav"))
    error_ids = worst_ids(table)
    (folder / "broken.wav").write_bytes(b"RIFF is not enough")
    paths[error_ids[1]], paths[error_ids[2]] = str(folder / "broken.wav"), str(folder / "missing.wav")
    shape = (front.n_mels, front.n_mels) if isinstance(front, ImageFront) else (700, front.bins)
    frames = {clip: (rng.random(shape) * -80).astype(np.float16) for clip in error_ids}
    index = pd.DataFrame({"id": ids, "title": "A <b>title</b>", "artist": "Somebody", "licence": "CC-BY-4.0"})
    source = Collection("clips", "Clips", index.assign(path=[paths[clip] for clip in ids], group=None), {})
    pack = SimpleNamespace(index=index, lengths=np.full(len(ids), shape[0]), clip=lambda row: frames[ids[row]])
    return SimpleNamespace(pack=pack, feature=SimpleNamespace(front=front), source=source, frames=frames)


@pytest.fixture(scope="module")
def data(predictions: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_data(predictions, tmp_path_factory.mktemp("audio") / "files", LogMelChroma())


@pytest.fixture
def folder(make_run: Callable[..., Path], predictions: pd.DataFrame, data: Any) -> Path:
    """Run folder with saved errors."""
    folder = make_run("saved", table=predictions)
    assert save_worst_errors(RunFolder(folder), predictions, data, GENRE) == folder / "errors"
    write_metrics(RunFolder(folder))
    return folder


def test_each_error_has_image_and_audio_excerpt(
    folder: Path, predictions: pd.DataFrame, data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    index = json.loads((folder / "errors" / "index.json").read_text("utf-8"))
    assert [clip["id"] for clip in index["clips"]] == worst_ids(predictions)
    assert index["limits"] == [-80.0, 0.0] and index["sound"]
    source = decode(Path(data.source.table["path"][0]), EXCERPT_RATE)
    for number, clip in enumerate(index["clips"]):
        image = np.asarray(Image.open(folder / "errors" / clip["picture"]))
        frames = data.frames[clip["id"]].astype(np.float32)[:, :128]
        step = -(-len(frames) // MAX_COLUMNS)
        means = np.stack([frames[i : i + step].mean(0) for i in range(0, len(frames), step)])
        level = (means - means.max() + 80) / 80 * SHADES  # the first row of the image is the highest band
        assert np.abs(image[::-1].T - np.clip(level, 0, SHADES - 1)).max() <= 1.001
        assert clip["length"] == len(frames)
        if number in (1, 2):
            assert "audio" not in clip and ("broken" if number == 1 else "missing") in clip["why"]
            continue
        audio, rate = soundfile.read(folder / "errors" / clip["audio"])
        assert rate == EXCERPT_RATE and audio.ndim == 1 and len(audio) == EXCERPT_SECONDS * EXCERPT_RATE
        assert np.corrcoef(audio, source[: len(audio)])[0, 1] > 0.9
        assert clip["seconds"] == pytest.approx(FILE_SECONDS)
    with caplog.at_level(logging.INFO):
        save_worst_errors(RunFolder(folder), predictions, data, GENRE)
    assert "errors/ has no audio of 2 of 10 clips" in caplog.text


def test_report_shows_images_audio_and_credits(folder: Path, predictions: pd.DataFrame) -> None:
    page = write_report(RunFolder(folder)).read_text("utf-8")
    assert len(page.encode()) < 5_000_000
    n_errors = len(worst_ids(predictions))
    assert len(re.findall("<audio ", page)) == n_errors - 2
    assert len(re.findall('<image href="data:image/png;base64,', page)) == n_errors
    assert page.count("by Somebody, CC-BY-4.0 (<span") == n_errors
    assert "https://creativecommons.org/licenses/by/4.0/" in page and "shortened and re-encoded" in page
    assert "The first 15 s of 18 s." in page and "frequency (Hz)" in page and "time (s)" in page
    assert "<script" not in page and "A <b>title" not in page and "&lt;b&gt;title" in page
    probability = predictions.loc[predictions["id"] == HOSTILE, "genre.score.rock"].item()
    assert re.search(rf"<b>folk</b> predicted as <b>rock</b>, probability {probability:.2f}", page)


def test_report_states_number_of_omitted_excerpts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(write_report(RunFolder(folder)).read_bytes())
    monkeypatch.setattr(worst_errors, "MAX_PAGE_SIZE", size // 2)
    page = write_report(RunFolder(folder)).read_bytes()
    assert len(page) <= size // 2
    n_excerpts = page.count(b"<audio ")
    assert 0 < n_excerpts < 8 and page.count(b"<image ") == 10  # images have priority
    assert f"{8 - n_excerpts} audio excerpts of errors are omitted" in page.decode()


def test_image_clips_have_no_audio_player(
    predictions: pd.DataFrame, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_run("digits", table=predictions)
    front = ImageFront(n_mels=8)
    data = make_data(predictions, tmp_path / "files", front)
    save_worst_errors(RunFolder(folder), predictions, data, GENRE)
    index = json.loads((folder / "errors" / "index.json").read_text("utf-8"))
    assert not index["sound"] and not any("audio" in clip for clip in index["clips"])
    image = np.asarray(Image.open(folder / "errors" / "00.png"))
    frames = data.frames[index["clips"][0]["id"]].astype(float)
    assert np.corrcoef(image.ravel(), frames.ravel())[0, 1] > 0.99  # frames are rows of the image
    write_metrics(RunFolder(folder))
    page = write_report(RunFolder(folder)).read_text("utf-8")
    assert "<audio" not in page and "dB" not in page.split('id="training"')[0].split("Most confident errors")[1]


def test_run_without_errors_has_no_errors_folder(
    make_run: Callable[..., Path], predictions: pd.DataFrame, data: Any
) -> None:
    folder = make_run("perfect", table=predictions)
    subfolder(folder / "errors")  # of an earlier call
    correct = predictions.assign(**{"genre.pred": predictions["genre.true"]})
    assert save_worst_errors(RunFolder(folder), correct, data, GENRE) is None
    assert not (folder / "errors").exists() and not list(folder.glob(".errors*"))


@pytest.mark.parametrize(
    ("key", "value"), [("picture", "../../secret.png"), ("audio", "/etc/passwd"), ("audio", "index.json")]
)
def test_file_outside_of_errors_folder_is_rejected(folder: Path, key: str, value: str) -> None:
    path = folder / "errors" / "index.json"
    index = json.loads(path.read_text("utf-8"))
    index["clips"][0][key] = value
    path.write_text(json.dumps(index), encoding="utf-8")
    page = write_report(RunFolder(folder)).read_text("utf-8")
    assert "errors/index.json cannot be read" in page and "<audio" not in page


def test_missing_error_files_are_explained_in_one_sentence(folder: Path) -> None:
    for path in (folder / "errors").glob("*.ogg"):
        path.unlink()  # as in a copy without audio
    page = write_report(RunFolder(folder)).read_text("utf-8")
    assert "<audio" not in page and page.count("<image ") == 10
    (folder / "errors" / "index.json").write_text("{", encoding="utf-8")
    assert "errors/index.json cannot be read" in write_report(RunFolder(folder)).read_text("utf-8")
    (folder / "errors" / "index.json").unlink()
    assert "There are no images or audio of these clips." in write_report(RunFolder(folder)).read_text("utf-8")


def test_pooled_run_contains_errors_of_its_folds(folder: Path, tmp_path: Path, predictions: pd.DataFrame) -> None:
    ids = worst_ids(predictions)
    folds = [RunFolder(folder), RunFolder(tmp_path / "bare"), RunFolder(folder)]
    copy_worst_errors(folds, RunFolder(tmp_path), {ids[0], ids[3]})
    pooled, original = (RunFolder(path).read_worst_errors() for path in (tmp_path, folder))
    assert set(pooled["clips"]) == {ids[0], ids[3]} and pooled["scale"] == original["scale"]
    copied_name, name = (errors["clips"][ids[3]]["picture"] for errors in (pooled, original))
    assert (tmp_path / "errors" / copied_name).read_bytes() == (folder / "errors" / name).read_bytes()
