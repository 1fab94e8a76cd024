"""The page of every kind of network, from the command to a real browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.hostile import NAMES as NAMES_OF_STRANGERS
from tests.hostile import assert_harmless

from etude.cli.inspect import main
from etude.config.compose import conf_dir
from etude.data.sources.demo import HOME
from etude.inspection import epochs, layers
from etude.inspection.page import stem
from etude.runs.folder import RunFolder
from etude.training.build import load_learner

from .conftest import IDS, STRANGE

Make = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
NAMES = sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml"))
SMALL = {"ast": ["backbone.depth=2"], "lstm": ["backbone.hidden=8"], "cnn": ["backbone.channels=[4,6]"]}


@pytest.fixture(autouse=True)
def few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what takes time."""
    monkeypatch.setattr(layers, "PARTS", 4)


@pytest.fixture(scope="module")
def learned(make_run: Make) -> Path:
    """A run of two targets that has kept three epochs."""
    return make_run("backbone=cnn", "backbone.channels=[4,6]", "task=joint", epochs=(1, 2, 3))


def written(folder: Path, clip: str) -> tuple[str, dict[str, Any]]:
    path = folder / f"inspect_{stem(clip)}.html"
    return path.read_text("utf-8"), json.loads(path.with_suffix(".json").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_page_for_every_backbone(make_run: Make, name: str, capsys: Capture) -> None:
    run = make_run(f"backbone={name}", *SMALL.get(name, []))
    assert main([str(run), "clip=one"]) == 0
    assert capsys.readouterr().out.split() == [str(run / "inspect_one.html")]
    page, numbers = written(run, "one")
    assert len(page) < 5_000_000
    network = load_learner(run / "checkpoints" / "best.ckpt")
    assert numbers["parameters"] == sum(weight.numel() for weight in network.parameters())
    # every layer of the backbone is in the table, itself or by a part of it that ran
    rows = [row["name"] for row in numbers["layers"]]
    paths = {id(module): f"backbone.{path}" for path, module in network.backbone.named_modules()}
    for layer in network.backbone.layers():
        own = [paths[id(part)] for part in layer.modules() if id(part) in paths]
        assert any(path in rows for path in own), own
    for row in numbers["layers"]:
        assert row["activation"]["min"] <= row["activation"]["mean"] <= row["activation"]["max"]
        assert row["gradient"] is not None or row["name"].startswith("probabilities")
    for row in numbers["attributions"]:
        assert row["sum"] - row["error"] == pytest.approx(row["output"] - row["baseline"], abs=1e-6)
    assert bool(numbers["attention"]) != bool(numbers["grad_cam"]) or name == "lstm"
    for picture in re.findall(r"<svg [^>]*>", page):
        assert re.search(r'aria-label="[^"]+"', picture)
    assert page.count("time (s)") > 3
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)


def test_the_most_confident_error_is_shown_when_no_clip_is_named(learned: Path, capsys: Capture) -> None:
    assert main([str(learned), "crop=1"]) == 0
    page, numbers = written(learned, "clip0")
    assert numbers["clip"] == "clip0" and "most confident error" in numbers["note"]
    assert "most confident error of the test part in genre" in page
    assert numbers["frames"] == 43  # a second of 22,050 samples, 512 a frame


def test_the_furthest_off_is_shown_of_a_scalar(make_run: Make) -> None:
    run = make_run("backbone=lstm", "backbone.hidden=4", "task=valence")
    assert main([str(run)]) == 0
    numbers = written(run, "clip1")[1]
    assert "furthest off" in numbers["note"]
    (out,) = numbers["outputs"]
    assert (out["kind"], out["low"], out["high"]) == ("scalar", 0, 1) and 0 <= out["value"] <= 1


def test_learning_is_shown_in_the_order_of_its_epochs(learned: Path, tmp_path: Path) -> None:
    shutil.copytree(learned, run := tmp_path / "run")
    shutil.copy(run / "checkpoints" / "history" / "epoch=000.ckpt", run / "checkpoints" / "last.ckpt")
    assert list(epochs.checkpoints(RunFolder(run))) == [1, 2, 3]
    assert [path.name for path in epochs.checkpoints(RunFolder(run))[1]] == ["epoch=000.ckpt", "last.ckpt"]
    assert main([str(run), "clip=one", f"to={tmp_path / 'there'}"]) == 0
    page, numbers = written(tmp_path / "there", "one")
    assert [row["epoch"] for row in numbers["epochs"]] == [1, 2, 3]
    for row in numbers["epochs"]:
        network = load_learner(run / row["checkpoints"][0])
        x = torch.from_numpy(_frames(run, "one"))[None]
        with torch.no_grad():
            said = network.task.predict(network(x, torch.tensor([x.shape[1]]))[1])
        assert row["outputs"]["genre"] == pytest.approx(said["genre"][0].tolist(), abs=1e-5)
    assert numbers["outputs"][0]["probabilities"]["high"] == pytest.approx(numbers["epochs"][2]["outputs"]["genre"][0])
    assert "3 checkpoints: epoch 1" in page and "by epoch" in page
    assert not (run / "inspect_one.html").exists()


def _frames(run: Path, clip: str) -> Any:
    from etude.data.pack import Pack

    pack = Pack(run / "pack")
    return pack.clip(IDS.index(clip)).astype("float32")[:, :128]


def test_a_clip_without_all_its_labels_says_so(make_run: Make) -> None:
    run = make_run("backbone=lstm", "backbone.hidden=4", "task=danceability")
    assert main([str(run), f"clip={STRANGE}"]) == 0
    page, numbers = written(run, STRANGE)
    assert numbers["assumed"] == ["danceability"]
    assert "No true value of danceability is known" in page and "of the predicted value itself" in page
    assert numbers["layers"][1]["gradient"]["norm"] > 0


def test_a_sound_file_goes_through_the_front_end(make_run: Make) -> None:
    run = make_run("backbone=lstm", "backbone.hidden=4")
    (sound, *_) = sorted((HOME / "clips").rglob("*.ogg"))
    assert main([str(run), f"clip={sound}", "crop=2-4"]) == 0
    page, numbers = written(run, sound.name)
    assert numbers["assumed"] == ["genre"] and "against the class that is predicted" in page
    assert "those from 2.0 to 4.0 are shown" in page
    assert numbers["outputs"][0]["true"] is None


def test_without_captum_the_rest_is_there(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    assert main([str(learned), "clip=one", f"to={tmp_path}"]) == 0
    page, numbers = written(tmp_path, "one")
    assert "Attributions need captum" in page and "etude[inspect]" in page
    assert numbers["attributions"] is None and numbers["layers"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}", "clip=clip9"], "clip=clip9: there is no such clip; near it are clip"),
        (["{run}", "clip="], "clip=: says nothing"),
        (["{run}", "clipp=one"], "clipp=one: is none of clip="),
        (["{run}", "crop=0"], "crop=0: must be a length"),
        (["{run}", "crop=5-2"], "crop=5-2: must be a length"),
        (["{run}", "clip=one", "crop=80-90"], "crop=80-90: clip one has 1.2 seconds only"),
        (["{run}", "checkpoint=worst"], "worst: there is no such checkpoint"),
        (["{run}", "checkpoint={run}/config.yaml"], "config.yaml: cannot be read as a checkpoint"),
        (["{run}", "{run}"], "inspect takes one run folder, got"),
        (["clip=one"], "inspect takes one run folder, got none"),
        (["{run}/nowhere"], "nowhere: there is no such run folder"),
        (["{run}/pack", "clip=one"], "pack: is not a run folder; it has no config.yaml"),
        (["{run}", "to={run}/config.yaml"], "config.yaml: is not a folder"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(learned: Path, words: list[str], said: str, capsys: Capture) -> None:
    before = sorted(learned.rglob("*"))
    assert main([word.format(run=learned) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert sorted(learned.rglob("*")) == before


def test_a_config_that_would_call_something_else_is_refused(learned: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(learned, run := tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("etude.data.sources.pack.collection", "os.system"))
    assert main([str(run), "clip=one"]) == 2
    assert "os.system, which is not trusted" in capsys.readouterr().err


def test_two_names_never_share_a_file() -> None:
    assert stem("a_b.1-2") == "a_b.1-2"
    assert len(f".inspect_{stem('典' * 82)}.json".encode()) < 200
    names = ["a/b", "a\\b", "a b", "a-b", "../a-b", STRANGE, "", "é" * 200]
    assert len({stem(name) for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[\w.-]{1,120}", stem(name)) and not stem(name).startswith(".")


def test_a_browser_shows_it(learned: Path, tmp_path: Path, browser: Any) -> None:
    assert main([str(learned), f"clip={STRANGE}", f"to={tmp_path}"]) == 0
    page = tmp_path / f"inspect_{stem(STRANGE)}.html"
    for width, scheme in ((1440, "light"), (390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        tab, complaints = context.new_page(), []
        tab.on("console", lambda message, seen=complaints: seen.append(message.text))
        tab.on("pageerror", lambda error, seen=complaints: seen.append(str(error)))
        tab.on("dialog", lambda dialog, seen=complaints: (seen.append(dialog.message), dialog.dismiss()))
        asked: list[str] = []
        tab.on("request", lambda request, seen=asked: seen.append(request.url))
        tab.goto(page.as_uri())
        assert tab.locator("h1").inner_text() == STRANGE
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert complaints == []
        context.close()


def test_names_of_a_run_are_shown_as_text(make_run: Make, tmp_path: Path) -> None:
    home = tmp_path / NAMES_OF_STRANGERS[5]
    shutil.copytree(make_run("backbone=lstm", "backbone.hidden=4"), home)
    path = home / "checkpoints" / "best.ckpt"
    kept = torch.load(path, weights_only=True)
    kept["etude"]["targets"]["genre"]["classes"] = NAMES_OF_STRANGERS[:2]
    torch.save(kept, path)
    names = dict(zip(["genre.score.high", "genre.score.low"], NAMES_OF_STRANGERS[:2], strict=True))
    table = pd.read_parquet(home / "predictions.parquet")
    table.rename(columns={old: f"genre.score.{new}" for old, new in names.items()}).to_parquet(
        home / "predictions.parquet"
    )
    assert main([str(home), f"clip={STRANGE}"]) == 0
    page, _ = written(home, STRANGE)
    shown = assert_harmless(page, scripts=0)
    text = "".join(data for _, data in shown.data)
    assert all(name in text for name in (STRANGE, *NAMES_OF_STRANGERS[:2]))
