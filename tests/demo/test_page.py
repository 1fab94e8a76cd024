"""The page of a trained run: the real command, a real browser, real sounds; and what it compares them with."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sklearn.neighbors import NearestNeighbors
from tests.reports.test_run_report_browser import CONTRAST

import etude
from etude.audio.decode import decode
from etude.data.sources.demo import collection
from etude.demo import neighbours
from etude.demo.neighbours import EmbeddingKey, NeighbourSearch, embed_clips, load_library, split_rows
from etude.demo.page import DemoContent
from etude.demo.predictor import RefusedSound
from etude.demo.server import DemoOptions, load_content
from etude.errors import DataError
from etude.inference.tables import predicted
from etude.inspection.clips import InspectedRun
from etude.reports.maps.embeddings import stack_embeddings

ROOT = Path(__file__).parents[2]
WORDS = ["backbone=lstm", "backbone.hidden=16", "task=joint", "data.crop=1.0", "trainer.max_epochs=1"]
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
STRANGE = "${alert(1)} {{this}} & <b>50% of %20 #1 song.mp3"


@pytest.fixture(scope="module")
def folder(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        yield home / etude.run([*WORDS, f"data.packs={packs}"]).folder


@pytest.fixture(scope="module")
def content(folder: Path) -> DemoContent:
    """Content of the page, in this process."""
    return load_content(DemoOptions(folder, device="cpu", seconds=60))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A song of 25 s under a strange name, silence, bytes that are no sound, and a file that is too large."""
    home = tmp_path_factory.mktemp("sounds")
    clips = [decode(Path(path), 44100) for path in collection().table["path"][:150:50]]
    soundfile.write(home / "song.mp3", np.concatenate(clips)[: 25 * 44100], 44100)
    shutil.copy(home / "song.mp3", home / STRANGE)
    soundfile.write(home / "silent.wav", np.zeros(2 * 44100), 44100)
    (home / "broken.mp3").write_bytes(b"\0\1 no sound at all")
    (home / "large.wav").write_bytes(os.urandom((1 << 20) + 1))
    return home


@pytest.fixture(scope="module")
def process(folder: Path, content: DemoContent, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """The real command; it starts beside the first tests."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(folder)]
    started = subprocess.Popen(
        [*command, "browser=false", "limit=1", "seconds=60", "device=cpu"], cwd=folder, text=True,
        env=os.environ | {"TMPDIR": str(temporary)} | PROXIES, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield started
    if started.poll() is None:
        started.kill()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that process has its temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def served(process: subprocess.Popen[str], temporary: Path) -> Iterator[str]:
    """The address of the page, which Ctrl-C ends with status 0 and nothing left behind, although it is open."""
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert address is not None, process.communicate(timeout=20)[1]
    yield address[0]
    with urllib.request.urlopen(f"{address[0]}/gradio_api/heartbeat/open"):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "Traceback" not in err and "ended; what was dropped on the page is deleted" in err
    assert not list(temporary.glob("etude-demo-*"))


@pytest.fixture(scope="module")
def copied(folder: Path, content: DemoContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with its embeddings, which tests may change."""
    assert content.neighbours.library.x.size  # which wrote them
    home = tmp_path_factory.mktemp("copied") / "run"
    return shutil.copytree(folder, home, ignore=shutil.ignore_patterns("errors", "report.html"))


@pytest.mark.usefixtures("process")
def test_embeddings_are_those_of_evaluation(folder: Path, content: DemoContent) -> None:
    run = InspectedRun(folder)
    table = run.predictions()
    assert table is not None
    test = table[table["split"] == "test"].set_index("id")
    rows = split_rows(run, "test")
    x = embed_clips(run, content.predictor.model, content.predictor.plan, rows)
    known = stack_embeddings(test.loc[run.pack.index["id"].iloc[rows]])
    assert len(rows) == len(test) and np.abs(x - known).max() < 1e-4


def test_the_nearest_are_those_of_scikit_learn(content: DemoContent, sounds: Path) -> None:
    result = content.predictor.predict(sounds / "song.mp3")
    assert result.prediction.embedding is not None
    reference = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(content.neighbours.library.x.astype(np.float64))
    distances, rows = reference.kneighbors(result.prediction.embedding[None].astype(np.float64))
    found = content.neighbours.find(result.prediction.embedding)
    assert [row for row, _ in found] == rows[0].tolist()
    np.testing.assert_allclose([distance for _, distance in found], distances[0], rtol=1e-9)
    own = content.neighbours.library.x[7]
    found = content.neighbours.find(own)
    assert found[0] == (7, 0.0) and "the same sound" in content.neighbours.sentence(found)
    assert "is a guess" in content.neighbours.sentence(content.neighbours.find(own + 100))


def test_embeddings_are_kept_for_the_checkpoint_and_the_clips(
    copied: Path, content: DemoContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, path, run = content.predictor, copied / neighbours.EMBEDDINGS, InspectedRun(copied)
    assert path.is_file() and len(content.neighbours.library.x) == 116
    with monkeypatch.context() as patch:
        patch.setattr(type(predictor.model), "predict", None)  # it is not asked
        again = load_library(run, predictor.model, predictor.plan)
        assert np.array_equal(again.x, content.neighbours.library.x) and again.what == "training" and not again.why
    with np.load(path) as kept:
        key = EmbeddingKey(str(kept["checkpoint"]), str(kept["frames"]), tuple(kept["ids"].tolist()))
    assert neighbours.read_embeddings(copied, key) is not None
    assert all(
        neighbours.read_embeddings(copied, other) is None
        for other in (key._replace(checkpoint="x"), key._replace(ids=("a",)))
    )
    path.write_bytes(path.read_bytes()[:2000])
    assert neighbours.read_embeddings(copied, key) is None
    assert np.allclose(load_library(run, predictor.model, predictor.plan).x, content.neighbours.library.x, atol=1e-6)
    assert neighbours.read_embeddings(copied, key) is not None
    assert not list(copied.glob(".*.part"))


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, content: DemoContent, caplog: pytest.LogCaptureFixture
) -> None:
    neighbours.write_embeddings(tmp_path / "nowhere", EmbeddingKey("a", "b", ("c",)), content.neighbours.library.x)
    assert "nowhere: cannot be written" in caplog.text and "computed anew the next time" in caplog.text


def test_without_the_data_it_says_what_is_compared_instead(
    copied: Path, content: DemoContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: InspectedRun) -> None:
        raise DataError("music/: there is no such folder")

    monkeypatch.setattr(InspectedRun, "pack", property(gone))
    found = load_library(InspectedRun(copied), content.predictor.model, content.predictor.plan)
    assert found.what == "validation and test" and len(found.x) == 80 and not found.files
    assert "there is no such folder" in found.why and "the clips that the run was judged on" in found.why
    page = NeighbourSearch(found, content.predictor.model.front, content.predictor.model.columns).section(found.x[0])
    assert page.count("No player: its sound is not at hand") == 6 and "there is no such folder" in page


def test_a_checkpoint_alone_is_enough(folder: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copy(folder / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    alone = load_content(DemoOptions(checkpoint, device="cpu"))
    assert alone.about.name == "alone.ckpt" and not alone.about.scores and not alone.examples
    assert "Nothing is known here of how well it does" in alone.about.limits[0]
    assert alone.neighbours.find(np.zeros(16)) == []
    assert "A checkpoint alone knows no clips" in alone.neighbours.section(np.zeros(16))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("silent.wav", "This sound cannot be heard: it is silent."),
        ("broken.mp3", "This sound cannot be heard: it cannot be decoded"),
    ],
)
def test_what_is_no_sound_is_one_sentence(name: str, said: str, content: DemoContent, sounds: Path) -> None:
    with pytest.raises(RefusedSound, match=re.escape(said)) as error:
        content.predictor.predict(sounds / name)
    assert str(sounds) not in str(error.value)


def test_without_captum_a_sentence(content: DemoContent, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = content.predictor.predict(sounds / "song.mp3")
    assert "Integrated gradients for" in content.attributions.section(result, 0, "genre")
    monkeypatch.setitem(sys.modules, "captum", None)
    page = content.attributions.section(result, 0, "genre")
    assert "Attributions need captum" in page and "What the network hears." in page


def test_nothing_else_is_served(served: str, folder: Path) -> None:
    paths = [f"/gradio_api/file={path}" for path in (folder / "config.yaml", "/etc/passwd", "https://example.com/x")]
    for path in (*paths, "/gradio_api/info", "/monitoring", "/docs"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(served + path)
        assert error.value.code in (403, 404), path
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(served, headers={"Host": "example.com"}))
    assert "restart it with host=example.com" in error.value.read().decode()
    with urllib.request.urlopen(served) as page:
        assert "default-src 'self'" in page.headers["content-security-policy"]


def test_files_that_were_not_uploaded_are_not_read(served: str, sounds: Path, temporary: Path) -> None:
    before = sorted(temporary.rglob("*"))
    for path in (sounds / "song.mp3", "http://192.0.2.1/song.mp3"):
        file = {"path": str(path), "url": str(path), "meta": {"_type": "gradio.FileData"}}
        call = {"data": [file], "fn_index": 0, "trigger_id": None, "event_data": None, "session_hash": "abc"}
        for route in ("queue/join", "run/predict_upload", "call/predict_upload"):
            asked = urllib.request.Request(
                f"{served}/gradio_api/{route}", json.dumps(call).encode(), {"Content-Type": "application/json"}
            )
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(asked)
            assert error.value.code == (403 if route == "queue/join" else 404)
    assert sorted(temporary.rglob("*")) == before


@pytest.fixture
def page(browser: Any, served: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, and all that the browser asked for, as `asked`."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.asked = []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.failed = []
    page.on("pageerror", lambda error: page.failed.append(str(error)))
    page.goto(served)
    page.locator("input[type=file]").wait_for(state="attached")
    yield page
    context.close()


@pytest.mark.parametrize("page", [(1280, "light"), (390, "dark")], indirect=True, ids=str)
def test_a_sound_is_heard_compared_and_explained(page: Any, served: str, content: DemoContent, sounds: Path) -> None:
    assert page.title() == f"{content.about.name} · Étude"
    assert page.locator(".scores li").count() == 4 and page.locator("article.clip audio").count() == 3
    page.set_input_files("input[type=file]", str(sounds / STRANGE))
    page.locator("#heard").wait_for()
    assert page.locator("#heard h2").inner_text() == STRANGE and page.locator("#heard h2 b").count() == 0

    row = predicted(content.predictor.model, sounds / "song.mp3").files.iloc[0]
    rows = page.locator(".bars dl div")
    said = {rows.nth(k).locator("dt").inner_text(): rows.nth(k).locator("data").get_attribute("value")
            for k in range(rows.count())}  # fmt: skip
    expected = {key.removeprefix("genre.score."): row[key] for key in row.index if key.startswith("genre.score.")}
    expected |= {name: row[f"{name}.pred"] for name in ("valence", "energy", "danceability")}
    assert {name: float(value) for name, value in said.items()} == pytest.approx(expected, abs=1e-5)
    shares = [float(said[name]) for name in list(said)[:3]]
    assert shares == sorted(shares, reverse=True)
    assert page.locator("#heard .plot").count() == 3  # the spectrogram, the label, the scalars

    page.locator("#heard .stack").press("End")  # the script has found what came later
    assert page.locator("#heard .when").first.inner_text() == "at 0:25"

    page.locator(".near").wait_for()
    result = content.predictor.predict(sounds / "song.mp3")
    assert result.prediction.embedding is not None
    table = content.neighbours.library.table
    titles = [table["title"].iloc[row] for row, _ in content.neighbours.find(result.prediction.embedding)]
    assert page.locator(".near h3").all_inner_texts() == titles
    assert page.locator(".near audio").count() == 6 and page.locator(".near a[href^='https://creativecommons']").count()

    page.get_by_role("button", name="Show where it looked").click()
    page.locator(".figures svg").nth(1).wait_for()
    assert "Integrated gradients for genre" in page.locator(".figures").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(f"({CONTRAST})().filter(row => row[2] < 4.5)") == []
    assert [url for url in page.asked if not url.startswith((served, "data:", f"blob:{served}"))] == []
    assert page.failed == []
    played = "async sound => { await sound.play(); return sound.error === null && sound.duration > 24; }"
    assert page.locator("#heard audio").evaluate(played)


def test_a_bad_sound_is_a_message_and_the_next_one_is_heard(
    page: Any, content: DemoContent, sounds: Path, temporary: Path
) -> None:
    for name, said in (("silent.wav", "it is silent"), ("broken.mp3", "it cannot be decoded")):
        page.set_input_files("input[type=file]", str(sounds / name))
        page.locator(".etude [role=alert]", has_text=said).wait_for()
        assert page.locator("#heard").count() == 0 and not page.locator(".looked").is_visible()
    page.set_input_files("input[type=file]", str(sounds / "large.wav"))
    page.get_by_text("exceed the maximum allowed size of 1.0 Mb").wait_for()
    page.set_input_files("input[type=file]", str(sounds / "song.mp3"))
    page.locator("#heard").wait_for()
    assert page.locator(".etude [role=alert]").count() == 0
    page.get_by_role("button", name="Hear this").first.click()
    page.locator("#heard h2", has_text=content.examples[0].name).wait_for()
    assert list(temporary.glob("etude-demo-*/*/sound.wav"))  # in the folder that is removed at the end
