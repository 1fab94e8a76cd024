"""Tests of the demo page of a trained run, in this process and in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sklearn.neighbors import NearestNeighbors
from tests.reports.test_run_report_browser import FIND_LOW_CONTRAST

import etude
from etude.audio.decode import decode
from etude.data.sources.demo import collection
from etude.demo.neighbours import NeighbourSearch, clip_key, embed_clips, load_library, split_rows
from etude.demo.page import DemoContent
from etude.demo.predictor import RefusedAudioError
from etude.demo.server import DemoOptions, load_content
from etude.embeddings import encoders
from etude.embeddings.encoders import EmbeddingStore
from etude.embeddings.store import FOLDER
from etude.errors import DataError
from etude.inference.model import Pretrained
from etude.inference.tables import predict_tables
from etude.inspection.clips import InspectedRun
from etude.reports.maps.embeddings import stack_embeddings

ROOT = Path(__file__).parents[2]
OVERRIDES = ["backbone=lstm", "backbone.hidden=16", "task=joint", "data.crop=1.0", "trainer.max_epochs=1"]
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
UNUSUAL_NAME = "${alert(1)} {{this}} & <b>50% of %20 #1 song.mp3"


@pytest.fixture(scope="module")
def folder(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a trained run."""
    cwd = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        yield cwd / etude.run([*OVERRIDES, f"data.packs={packs}"]).folder


@pytest.fixture(scope="module")
def content(folder: Path) -> DemoContent:
    """Content of the page in this process."""
    return load_content(DemoOptions(folder, device="cpu", seconds=60))


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a song of 25 s, a copy with an unusual name, a silent, a broken and a too large file."""
    root = tmp_path_factory.mktemp("audio")
    clips = [decode(Path(path), 44100) for path in collection().table["path"][:150:50]]
    soundfile.write(root / "song.mp3", np.concatenate(clips)[: 25 * 44100], 44100)
    shutil.copy(root / "song.mp3", root / UNUSUAL_NAME)
    soundfile.write(root / "silent.wav", np.zeros(2 * 44100), 44100)
    (root / "broken.mp3").write_bytes(b"\0\1 no sound at all")
    (root / "large.wav").write_bytes(os.urandom((1 << 20) + 1))
    return root


@pytest.fixture(scope="module")
def process(folder: Path, content: DemoContent, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Process of the command, which starts during the first tests."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(folder)]
    started = subprocess.Popen(
        [*command, "--no-browser", "--limit=1", "--seconds=60", "--device=cpu"], cwd=folder, text=True,
        env=os.environ | {"TMPDIR": str(temporary)} | PROXIES, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield started
    if started.poll() is None:
        started.kill()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for the temporary files of the process."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def served(process: subprocess.Popen[str], temporary: Path) -> Iterator[str]:
    """Address of the page. At the end, Ctrl-C stops the server with status 0 and without files, although it is open."""
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert address is not None, process.communicate(timeout=20)[1]
    yield address[0]
    with urllib.request.urlopen(f"{address[0]}/gradio_api/heartbeat/open"):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "Traceback" not in err and "the server has stopped; all uploaded files are deleted" in err
    assert not list(temporary.glob("etude-demo-*"))


@pytest.fixture(scope="module")
def copied(folder: Path, content: DemoContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the run with its embeddings, which tests can change."""
    assert content.neighbours.library.x.size  # which has stored them
    copy = tmp_path_factory.mktemp("copied") / "run"
    return shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("errors", "report.html"))


@pytest.mark.usefixtures("process")
def test_embeddings_equal_those_of_evaluation(folder: Path, content: DemoContent) -> None:
    run = InspectedRun(folder)
    table = run.predictions()
    assert table is not None
    test = table[table["split"] == "test"].set_index("id")
    rows = split_rows(run, "test")
    x = embed_clips(run, content.predictor.model, content.predictor.plan, rows)
    expected = stack_embeddings(test.loc[run.pack.index["id"].iloc[rows]])
    assert len(rows) == len(test) and np.abs(x - expected).max() < 1e-4


def test_nearest_clips_equal_those_of_scikit_learn(content: DemoContent, audio_folder: Path) -> None:
    result = content.predictor.predict(audio_folder / "song.mp3")
    assert result.prediction.embedding is not None
    reference = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(content.neighbours.library.x.astype(np.float64))
    distances, rows = reference.kneighbors(result.prediction.embedding[None].astype(np.float64))
    matches = content.neighbours.find(result.prediction.embedding)
    assert [row for row, _ in matches] == rows[0].tolist()
    np.testing.assert_allclose([distance for _, distance in matches], distances[0], rtol=1e-9)
    own = content.neighbours.library.x[7]
    matches = content.neighbours.find(own)
    assert matches[0] == (7, 0.0) and "the same audio" in content.neighbours.describe_distance(matches)
    distant = content.neighbours.find(own + 100)
    assert "the predictions are unreliable" in content.neighbours.describe_distance(distant)


def test_embeddings_of_the_training_split_are_in_the_shared_store(
    copied: Path, content: DemoContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, run = content.predictor, InspectedRun(copied)
    assert len(content.neighbours.library.x) == 116
    identity = predictor.model.encoder_identity
    with EmbeddingStore(run.data.pack_options.packs / FOLDER, "", identity) as store:
        clips = run.pack.index["content"].iloc[split_rows(run, "train")]
        keys = [clip_key(clip, predictor.plan) for clip in clips]
        assert np.array_equal(np.stack([z for z in store.get(keys) if z is not None]), content.neighbours.library.x)
    with monkeypatch.context() as patch:
        patch.setattr(type(predictor.model), "predict", None)  # the network is not used
        library = load_library(run, predictor.model, predictor.plan)
        assert np.array_equal(library.x, content.neighbours.library.x)
        assert library.splits == "training" and not library.note


def test_key_of_a_clip_is_that_of_runs_unless_evaluation_averages_crops(content: DemoContent) -> None:
    whole = replace(content.predictor.plan, crops=None)
    keys = {clip_key("00", replace(whole, crops=crops, crop=crop)) for crops, crop in ((3, 100), (3, 50), (5, 100))}
    assert clip_key("00", whole) == "00" and len(keys) == 3


def test_warning_if_embeddings_cannot_be_stored(
    copied: Path, content: DemoContent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(encoders, "EmbeddingStore", refuse)
    library = load_library(InspectedRun(copied), content.predictor.model, content.predictor.plan)
    assert np.abs(library.x - content.neighbours.library.x).max() < 1e-6
    assert "embeddings are not shared with other runs and commands" in caplog.text


def test_predicted_clips_are_compared_if_the_data_is_missing(
    copied: Path, content: DemoContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing_pack(self: InspectedRun) -> None:
        raise DataError("music/: there is no such folder")

    monkeypatch.setattr(InspectedRun, "pack", property(missing_pack))
    library = load_library(InspectedRun(copied), content.predictor.model, content.predictor.plan)
    assert library.splits == "validation and test" and len(library.x) == 80 and not library.files
    assert "there is no such folder" in library.note and "The run was evaluated on" in library.note
    model = content.predictor.model
    page = NeighbourSearch(library, model.front, model.columns).section(library.x[0])
    assert page.count("No player: its audio file is missing") == 6 and "there is no such folder" in page


def test_checkpoint_without_run_folder_can_be_used(folder: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copy(folder / "checkpoints" / "best.ckpt", tmp_path / "single.ckpt")
    content = load_content(DemoOptions(checkpoint, device="cpu"))
    description = content.description
    assert description.name == "single.ckpt" and not description.scores and not content.examples
    assert "The scores of this network are unknown" in description.limitations[0]
    assert content.neighbours.find(np.zeros(16)) == []
    assert "only if the page is started with a run folder" in content.neighbours.section(np.zeros(16))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("silent.wav", "This audio file cannot be used: it is silent."),
        ("broken.mp3", "This audio file cannot be used: it cannot be decoded"),
    ],
)
def test_unusable_file_is_refused_with_one_sentence(
    name: str, message: str, content: DemoContent, audio_folder: Path
) -> None:
    with pytest.raises(RefusedAudioError, match=re.escape(message)) as error:
        content.predictor.predict(audio_folder / name)
    assert str(audio_folder) not in str(error.value)


def test_message_if_captum_is_missing(
    content: DemoContent, audio_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = content.predictor.predict(audio_folder / "song.mp3")
    assert "Integrated gradients for" in content.attributions.section(result, 0, "genre")
    monkeypatch.setitem(sys.modules, "captum", None)
    page = content.attributions.section(result, 0, "genre")
    assert "Attributions require captum" in page and "Input frames of the network." in page


def test_other_files_and_pages_are_not_served(served: str, folder: Path) -> None:
    paths = [f"/gradio_api/file={path}" for path in (folder / "config.yaml", "/etc/passwd", "https://example.com/x")]
    for path in (*paths, "/gradio_api/info", "/monitoring", "/docs"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(served + path)
        assert error.value.code in (403, 404), path
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(served, headers={"Host": "example.com"}))
    assert "restart it with --host example.com" in error.value.read().decode()
    with urllib.request.urlopen(served) as page:
        assert "default-src 'self'" in page.headers["content-security-policy"]


def test_files_that_were_not_uploaded_are_not_read(served: str, audio_folder: Path, temporary: Path) -> None:
    before = sorted(temporary.rglob("*"))
    for path in (audio_folder / "song.mp3", "http://192.0.2.1/song.mp3"):
        file = {"path": str(path), "url": str(path), "meta": {"_type": "gradio.FileData"}}
        call = {"data": [file], "fn_index": 0, "trigger_id": None, "event_data": None, "session_hash": "abc"}
        for route in ("queue/join", "run/predict_upload", "call/predict_upload"):
            request = urllib.request.Request(
                f"{served}/gradio_api/{route}", json.dumps(call).encode(), {"Content-Type": "application/json"}
            )
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(request)
            assert error.value.code == (403 if route == "queue/join" else 404)
    assert sorted(temporary.rglob("*")) == before


@pytest.fixture
def page(browser: Any, served: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Page in a browser. `urls` lists its requests, `errors` its JavaScript errors."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.urls = []
    page.on("request", lambda request: page.urls.append(request.url))
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(served)
    page.locator("input[type=file]").wait_for(state="attached")
    yield page
    context.close()


@pytest.mark.parametrize(
    "page", [(1280, "light"), pytest.param((390, "dark"), marks=pytest.mark.full)], indirect=True, ids=str
)
def test_uploaded_file_is_predicted_compared_and_explained(
    page: Any, served: str, content: DemoContent, audio_folder: Path
) -> None:
    assert page.title() == f"{content.description.name} · Étude"
    assert page.locator(".scores li").count() == 4 and page.locator("article.clip audio").count() == 3
    page.set_input_files("input[type=file]", str(audio_folder / UNUSUAL_NAME))
    page.locator("#prediction").wait_for()
    assert page.locator("#prediction h2").inner_text() == UNUSUAL_NAME and page.locator("#prediction h2 b").count() == 0

    row = predict_tables(content.predictor.model, audio_folder / "song.mp3").files.iloc[0]
    rows = page.locator(".bars dl div")
    values = {rows.nth(k).locator("dt").inner_text(): rows.nth(k).locator("data").get_attribute("value")
              for k in range(rows.count())}  # fmt: skip
    expected = {key.removeprefix("genre.score."): row[key] for key in row.index if key.startswith("genre.score.")}
    expected |= {name: row[f"{name}.pred"] for name in ("valence", "energy", "danceability")}
    assert {name: float(value) for name, value in values.items()} == pytest.approx(expected, abs=1e-5)
    shares = [float(values[name]) for name in list(values)[:3]]
    assert shares == sorted(shares, reverse=True)
    assert page.locator("#prediction .plot").count() == 3  # the spectrogram, the label, the scalars

    page.locator("#prediction .file-plots").press("End")  # the script initialises inserted predictions
    assert page.locator("#prediction .playhead-time").first.inner_text() == "at 0:25"

    page.locator(".neighbours").wait_for()
    result = content.predictor.predict(audio_folder / "song.mp3")
    assert result.prediction.embedding is not None
    table = content.neighbours.library.table
    titles = [table["title"].iloc[row] for row, _ in content.neighbours.find(result.prediction.embedding)]
    assert page.locator(".neighbours h3").all_inner_texts() == titles
    assert page.locator(".neighbours audio").count() == 6
    assert page.locator(".neighbours a[href^='https://creativecommons']").count()

    page.get_by_role("button", name="Show attributions").click()
    page.locator(".figures svg").nth(1).wait_for()
    assert "Integrated gradients for genre" in page.locator(".figures").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(f"({FIND_LOW_CONTRAST})().filter(row => row[2] < 4.5)") == []
    assert [url for url in page.urls if not url.startswith((served, "data:", f"blob:{served}"))] == []
    assert page.errors == []
    played = "async audio => { await audio.play(); return audio.error === null && audio.duration > 24; }"
    assert page.locator("#prediction audio").evaluate(played)


def test_refused_file_shows_a_message_and_the_next_is_predicted(
    page: Any, content: DemoContent, audio_folder: Path, temporary: Path
) -> None:
    for name, message in (("silent.wav", "it is silent"), ("broken.mp3", "it cannot be decoded")):
        page.set_input_files("input[type=file]", str(audio_folder / name))
        page.locator(".etude [role=alert]", has_text=message).wait_for()
        assert page.locator("#prediction").count() == 0 and not page.locator(".attribution").is_visible()
    page.set_input_files("input[type=file]", str(audio_folder / "large.wav"))
    page.get_by_text("exceed the maximum allowed size of 1.0 Mb").wait_for()
    page.set_input_files("input[type=file]", str(audio_folder / "song.mp3"))
    page.locator("#prediction").wait_for()
    assert page.locator(".etude [role=alert]").count() == 0
    page.get_by_role("button", name="Predict this clip").first.click()
    page.locator("#prediction h2", has_text=content.examples[0].name).wait_for()
    assert list(temporary.glob("etude-demo-*/*/sound.wav"))  # in the folder that is removed at the end


def test_pretrained_backbone_has_tags_without_scores_and_attributions(audio_folder: Path) -> None:
    content = load_content(DemoOptions(Pretrained("musicnn"), device="cpu"))
    result = content.predictor.predict(audio_folder / "song.mp3")
    section = content.predictor.section(result, "song.mp3")
    assert "probability of each tag" in section
    assert sum(tag in section for tag in content.predictor.model.network.backbone.tag_names) >= 10
    assert content.description.scores == []
    assert "with the msd weights and 50 tags" in content.description.summary
    assert content.neighbours.library.note and content.examples == []
