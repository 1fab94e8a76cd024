"""What a run keeps of its worst errors: pictures and sounds that are theirs, within the page's budget, and no trap."""

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
from etude.audio.excerpt import RATE, SECONDS
from etude.audio.frontend import FrontEnd, ImageFront
from etude.audio.log_mel import LogMelChroma
from etude.data.collection import Collection
from etude.evaluation.predictions import find_worst_errors
from etude.files.ownership import subfolder
from etude.reports import worst_errors
from etude.reports.comparison.pooling import copy_worst_errors
from etude.reports.run_report import write_report
from etude.reports.svg import SHADES
from etude.reports.worst_errors import COLUMNS, save_worst_errors
from etude.runs.folder import RunFolder
from etude.runs.results import write_metrics

HOSTILE = "<script>alert('clip')</script>"
LONG = 18  # seconds
GENRE = {"genre": {"kind": "label"}}


@pytest.fixture(scope="module")
def wrong(table: pd.DataFrame) -> pd.DataFrame:
    """The table of predictions with the hostile clip as the surest error."""
    changed = table.copy()
    here = changed["id"] == HOSTILE
    changed.loc[here, ["genre.true", "genre.pred", "genre.score.rock"]] = ["folk", "rock", 1.0]
    return changed


def worst_ids(table: pd.DataFrame) -> list[str]:
    return [row[0] for row in find_worst_errors(table, "genre", "label")["rows"]]


def data_of(table: pd.DataFrame, home: Path, front: FrontEnd) -> Any:
    """A data module of these clips: noise with a tone, one file for all but two, which are broken and missing."""
    home.mkdir()
    ids = list(table["id"])
    rng = np.random.default_rng(0)
    seconds = np.arange(LONG * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds) + 0.1 * rng.standard_normal(len(seconds))
    soundfile.write(home / "tone.wav", np.stack([tone, tone], 1), RATE)  # stereo
    paths = dict.fromkeys(ids, str(home / "tone.wav"))
    listed = worst_ids(table)
    (home / "broken.wav").write_bytes(b"RIFF is not enough")
    paths[listed[1]], paths[listed[2]] = str(home / "broken.wav"), str(home / "missing.wav")
    shape = (front.n_mels, front.n_mels) if isinstance(front, ImageFront) else (700, front.bins)
    frames = {clip: (rng.random(shape) * -80).astype(np.float16) for clip in listed}
    about = pd.DataFrame({"id": ids, "title": "A <b>title</b>", "artist": "Somebody", "licence": "CC-BY-4.0"})
    source = Collection("mine", "Mine", about.assign(path=[paths[clip] for clip in ids], group=None), {})
    pack = SimpleNamespace(index=about, lengths=np.full(len(ids), shape[0]), clip=lambda row: frames[ids[row]])
    return SimpleNamespace(pack=pack, feature=SimpleNamespace(front=front), source=source, frames=frames)


@pytest.fixture(scope="module")
def data(wrong: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return data_of(wrong, tmp_path_factory.mktemp("sounds") / "home", LogMelChroma())


@pytest.fixture
def kept(make_run: Callable[..., Path], wrong: pd.DataFrame, data: Any) -> Path:
    folder = make_run("kept", table=wrong)
    assert save_worst_errors(RunFolder(folder), wrong, data, GENRE) == folder / "errors"
    write_metrics(RunFolder(folder))
    return folder


def test_each_of_the_worst_has_its_picture_and_the_beginning_of_its_sound(
    kept: Path, wrong: pd.DataFrame, data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    index = json.loads((kept / "errors" / "index.json").read_text("utf-8"))
    assert [clip["id"] for clip in index["clips"]] == worst_ids(wrong)
    assert index["limits"] == [-80.0, 0.0] and index["sound"]
    source = decode(Path(data.source.table["path"][0]), RATE)
    for place, clip in enumerate(index["clips"]):
        picture = np.asarray(Image.open(kept / "errors" / clip["picture"]))
        frames = data.frames[clip["id"]].astype(np.float32)[:, :128]
        step = -(-len(frames) // COLUMNS)
        means = np.stack([frames[i : i + step].mean(0) for i in range(0, len(frames), step)])
        level = (means - means.max() + 80) / 80 * SHADES  # upside down in the picture, as frequencies are
        assert np.abs(picture[::-1].T - np.clip(level, 0, SHADES - 1)).max() <= 1.001
        assert clip["length"] == len(frames)
        if place in (1, 2):
            assert "audio" not in clip and ("broken" if place == 1 else "missing") in clip["why"]
            continue
        audio, rate = soundfile.read(kept / "errors" / clip["audio"])
        assert rate == RATE and audio.ndim == 1 and len(audio) == SECONDS * RATE
        assert np.corrcoef(audio, source[: len(audio)])[0, 1] > 0.9
        assert clip["seconds"] == pytest.approx(LONG)
    with caplog.at_level(logging.INFO):
        save_worst_errors(RunFolder(kept), wrong, data, GENRE)
    assert "errors/ has no sound of 2 of 10 clips" in caplog.text


def test_the_page_shows_and_plays_them_and_says_whose_they_are(kept: Path, wrong: pd.DataFrame) -> None:
    page = write_report(RunFolder(kept)).read_text("utf-8")
    assert len(page.encode()) < 5_000_000
    listed = len(worst_ids(wrong))
    assert len(re.findall("<audio ", page)) == listed - 2
    assert len(re.findall('<image href="data:image/png;base64,', page)) == listed
    assert page.count("by Somebody, CC-BY-4.0 (<span") == listed
    assert "https://creativecommons.org/licenses/by/4.0/" in page and "shortened and re-encoded" in page
    assert "The first 15 s of 18 s." in page and "frequency (Hz)" in page and "time (s)" in page
    assert "<script" not in page and "A <b>title" not in page and "&lt;b&gt;title" in page
    sure = wrong.loc[wrong["id"] == HOSTILE, "genre.score.rock"].item()
    assert re.search(rf"<b>folk</b> taken for <b>rock</b>, probability {sure:.2f}", page)


def test_what_finds_no_room_is_said(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len(write_report(RunFolder(kept)).read_bytes())
    monkeypatch.setattr(worst_errors, "PAGE", whole // 2)
    page = write_report(RunFolder(kept)).read_bytes()
    assert len(page) <= whole // 2
    sounds = page.count(b"<audio ")
    assert 0 < sounds < 8 and page.count(b"<image ") == 10  # pictures come first
    assert f"{8 - sounds} sounds of this run’s errors found no room" in page.decode()


def test_images_have_no_player(wrong: pd.DataFrame, make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run("digits", table=wrong)
    front = ImageFront(n_mels=8)
    data = data_of(wrong, tmp_path / "home", front)
    save_worst_errors(RunFolder(folder), wrong, data, GENRE)
    index = json.loads((folder / "errors" / "index.json").read_text("utf-8"))
    assert not index["sound"] and not any("audio" in clip for clip in index["clips"])
    picture = np.asarray(Image.open(folder / "errors" / "00.png"))
    image = data.frames[index["clips"][0]["id"]].astype(float)
    assert np.corrcoef(picture.ravel(), image.ravel())[0, 1] > 0.99  # upright: frames are rows
    write_metrics(RunFolder(folder))
    page = write_report(RunFolder(folder)).read_text("utf-8")
    assert "<audio" not in page and "dB" not in page.split('id="training"')[0].split("Most confident errors")[1]


def test_a_run_without_errors_keeps_nothing(make_run: Callable[..., Path], wrong: pd.DataFrame, data: Any) -> None:
    folder = make_run("perfect", table=wrong)
    subfolder(folder / "errors")  # of an earlier end
    right = wrong.assign(**{"genre.pred": wrong["genre.true"]})
    assert save_worst_errors(RunFolder(folder), right, data, GENRE) is None
    assert not (folder / "errors").exists() and not list(folder.glob(".errors*"))


@pytest.mark.parametrize(
    ("key", "value"), [("picture", "../../secret.png"), ("audio", "/etc/passwd"), ("audio", "index.json")]
)
def test_a_name_that_leads_elsewhere_is_refused(kept: Path, key: str, value: str) -> None:
    path = kept / "errors" / "index.json"
    index = json.loads(path.read_text("utf-8"))
    index["clips"][0][key] = value
    path.write_text(json.dumps(index), encoding="utf-8")
    page = write_report(RunFolder(kept)).read_text("utf-8")
    assert "errors/index.json cannot be read" in page and "<audio" not in page


def test_a_folder_without_them_says_so_in_one_line(kept: Path) -> None:
    for path in (kept / "errors").glob("*.ogg"):
        path.unlink()  # copied without its sounds
    page = write_report(RunFolder(kept)).read_text("utf-8")
    assert "<audio" not in page and page.count("<image ") == 10
    (kept / "errors" / "index.json").write_text("{", encoding="utf-8")
    assert "errors/index.json cannot be read" in write_report(RunFolder(kept)).read_text("utf-8")
    (kept / "errors" / "index.json").unlink()
    assert "No picture or sound of these clips is at hand." in write_report(RunFolder(kept)).read_text("utf-8")


def test_folds_bring_theirs_together(kept: Path, tmp_path: Path, wrong: pd.DataFrame) -> None:
    ids = worst_ids(wrong)
    runs = [RunFolder(kept), RunFolder(tmp_path / "bare"), RunFolder(kept)]
    copy_worst_errors(runs, RunFolder(tmp_path), {ids[0], ids[3]})
    found = RunFolder(tmp_path).read_worst_errors()
    assert set(found["clips"]) == {ids[0], ids[3]} and found["scale"] == RunFolder(kept).read_worst_errors()["scale"]
    mine, theirs = (RunFolder(folder).read_worst_errors()["clips"][ids[3]]["picture"] for folder in (tmp_path, kept))
    assert (tmp_path / "errors" / mine).read_bytes() == (kept / "errors" / theirs).read_bytes()
