"""Pages of `etude inspect` for all backbones, from the command to a browser."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.backbone_names import WITHOUT_CHECKPOINT
from tests.commands import inspect as main
from tests.hostile import NAMES as HOSTILE_NAMES
from tests.hostile import assert_harmless

from etude.data.sources.demo import HOME
from etude.inspection import layers
from etude.inspection.epochs import checkpoints_by_epoch
from etude.inspection.page import file_stem, log_estimate
from etude.runs.folder import RunFolder
from etude.training.build import load_learner

from .conftest import HOSTILE_ID, IDS

MakeRun = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
SLOW = ("convnet", "efficientat", "musicnn", "timm")  # inspected as the CNN is
SMALL_OPTIONS = {"ast": ["backbone.depth=2"], "lstm": ["backbone.hidden=8"], "cnn": ["backbone.channels=[4,6]"]}


@pytest.fixture(autouse=True)
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few modules, because figures take most of the time."""
    monkeypatch.setattr(layers, "MAX_MODULES", 4)


@pytest.fixture(scope="module")
def joint_run(make_run: MakeRun) -> Path:
    """Run of two targets with the checkpoints of three epochs."""
    return make_run("backbone=cnn", "backbone.channels=[4,6]", "task=joint", epochs=(1, 2, 3))


def read_page(folder: Path, clip: str) -> tuple[str, dict[str, Any]]:
    """Return the page of a clip and the content of its JSON file."""
    path = folder / f"inspect_{file_stem(clip)}.html"
    return path.read_text("utf-8"), json.loads(path.with_suffix(".json").read_text("utf-8"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in SLOW else []) for name in WITHOUT_CHECKPOINT]
)
def test_page_is_written_for_every_backbone(make_run: MakeRun, name: str, capsys: Capture) -> None:
    run = make_run(f"backbone={name}", *SMALL_OPTIONS.get(name, []))
    assert main([str(run), "--clip=one"]) == 0
    assert capsys.readouterr().out.split() == [str(run / "inspect_one.html")]
    page, numbers = read_page(run, "one")
    assert len(page) < 5_000_000
    network = load_learner(run / "checkpoints" / "best.ckpt")
    assert numbers["parameters"] == sum(weight.numel() for weight in network.parameters())
    # the table contains every layer of the backbone, or one of its modules
    names = [row["name"] for row in numbers["layers"]]
    paths = {id(module): f"backbone.{path}" for path, module in network.backbone.named_modules()}
    for layer in network.backbone.layers():
        layer_paths = [paths[id(module)] for module in layer.modules() if id(module) in paths]
        assert any(path in names for path in layer_paths), layer_paths
    for row in numbers["layers"]:
        assert row["activation"]["min"] <= row["activation"]["mean"] <= row["activation"]["max"]
        assert row["gradient"] is not None or row["name"].startswith("probabilities")
    for row in numbers["attributions"]:
        assert row["sum"] - row["error"] == pytest.approx(row["output"] - row["baseline"], abs=1e-6)
    assert bool(numbers["attention"]) != bool(numbers["grad_cam"]) or name == "lstm"
    for figure in re.findall(r"<svg [^>]*>", page):
        assert re.search(r'aria-label="[^"]+"', figure)
    assert page.count("time (s)") > 3
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)


def test_most_confident_error_is_the_default_clip(joint_run: Path, capsys: Capture) -> None:
    assert main([str(joint_run), "--crop=1"]) == 0
    page, numbers = read_page(joint_run, "clip0")
    assert numbers["clip"] == "clip0" and "most confident error" in numbers["note"]
    assert "most confident error in genre of the test split" in page
    assert numbers["frames"] == 43  # one second of 22,050 samples with a hop of 512


def test_largest_error_is_the_default_clip_of_a_scalar(make_run: MakeRun) -> None:
    run = make_run("backbone=lstm", "backbone.hidden=4", "task=valence")
    assert main([str(run)]) == 0
    numbers = read_page(run, "clip1")[1]
    assert "largest error in valence" in numbers["note"]
    (output,) = numbers["outputs"]
    assert (output["kind"], output["low"], output["high"]) == ("scalar", 0, 1) and 0 <= output["value"] <= 1


def test_checkpoints_are_shown_in_order_of_epochs(joint_run: Path, tmp_path: Path) -> None:
    shutil.copytree(joint_run, run := tmp_path / "run")
    shutil.copy(run / "checkpoints" / "history" / "epoch=000.ckpt", run / "checkpoints" / "last.ckpt")
    assert list(checkpoints_by_epoch(RunFolder(run))) == [1, 2, 3]
    assert [path.name for path in checkpoints_by_epoch(RunFolder(run))[1]] == ["epoch=000.ckpt", "last.ckpt"]
    assert main([str(run), "--clip=one", f"--out={tmp_path / 'out'}"]) == 0
    page, numbers = read_page(tmp_path / "out", "one")
    assert [row["epoch"] for row in numbers["epochs"]] == [1, 2, 3]
    for row in numbers["epochs"]:
        network = load_learner(run / row["checkpoints"][0])
        x = torch.from_numpy(_frames(run, "one"))[None]
        with torch.no_grad():
            predictions = network.task.predict(network(x, torch.tensor([x.shape[1]]))[1])
        assert row["outputs"]["genre"] == pytest.approx(predictions["genre"][0].tolist(), abs=1e-5)
    assert numbers["outputs"][0]["probabilities"]["high"] == pytest.approx(numbers["epochs"][2]["outputs"]["genre"][0])
    assert "3 checkpoints: epoch 1" in page and "by epoch" in page
    assert not (run / "inspect_one.html").exists()


def _frames(run: Path, clip: str) -> Any:
    from etude.data.pack import Pack

    pack = Pack(run / "pack")
    return pack.clip(IDS.index(clip)).astype("float32")[:, :128]


def test_missing_true_value_is_reported(make_run: MakeRun) -> None:
    run = make_run("backbone=lstm", "backbone.hidden=4", "task=danceability")
    assert main([str(run), f"--clip={HOSTILE_ID}"]) == 0
    page, numbers = read_page(run, HOSTILE_ID)
    assert numbers["unlabelled"] == ["danceability"]
    assert "This clip has no true value of danceability." in page and "is the gradient of the predicted value" in page
    assert numbers["layers"][1]["gradient"]["norm"] > 0


def test_audio_file_is_inspected(make_run: MakeRun) -> None:
    run = make_run("backbone=lstm", "backbone.hidden=4")
    (audio_file, *_) = sorted((HOME / "clips").rglob("*.ogg"))
    assert main([str(run), f"--clip={audio_file}", "--crop=2-4"]) == 0
    page, numbers = read_page(run, audio_file.name)
    assert numbers["unlabelled"] == ["genre"] and "the loss for the predicted class" in page
    assert "Shown are 2.0 to 4.0 of" in page
    assert numbers["outputs"][0]["true"] is None


def test_page_without_captum_has_no_attributions(
    joint_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    assert main([str(joint_run), "--clip=one", f"--out={tmp_path}"]) == 0
    page, numbers = read_page(tmp_path, "one")
    assert "Attributions require captum" in page and "etude[inspect]" in page
    assert numbers["attributions"] is None and numbers["layers"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--clip=clip9"], "--clip clip9: there is no such clip; similar ids: clip"),
        (["{run}", "--clip=,"], "--clip: contains no clip id"),
        (["{run}", "--clip="], "--clip=: empty value"),
        (["{run}", "--clipp=one"], "No such option: --clipp (Possible options: --clip,"),
        (["{run}", "clipp=one"], "Got unexpected extra argument(s) (clipp=one)"),
        (["{run}", "clip=one"], "clip=one: options of etude inspect have dashes; use --clip one"),
        (["{run}", "to=pages"], "to=pages: options of etude inspect have dashes; use --out pages"),
        (["{run}", "--crop=0"], "'--crop': '0' is neither a length, such as 5, nor a range"),
        (["{run}", "--crop=5-2"], "'--crop': '5-2' is neither a length, such as 5, nor a range"),
        (["{run}", "--clip=one", "--crop=80-90"], "--crop 80-90: clip one has only 1.2 seconds"),
        (["{run}", "--checkpoint=worst"], "worst: checkpoint does not exist"),
        (["{run}", "--checkpoint={run}/config.yaml"], "config.yaml: cannot be read as a checkpoint"),
        (["{run}", "{run}"], "Got unexpected extra argument(s) ({run})"),
        (["--clip=one"], "Missing argument 'RUN'"),
        (["{run}/nowhere"], "nowhere: there is no such run folder"),
        (["{run}/pack", "--clip=one"], "pack: is not a run folder, because it has no config.yaml"),
        (["{run}", "--out="], "--out=: empty value"),
        (["{run}", "--out={run}/config.yaml"], "config.yaml: is not a folder"),
    ],
)
def test_invalid_arguments_are_explained(joint_run: Path, arguments: list[str], message: str, capsys: Capture) -> None:
    before = sorted(joint_run.rglob("*"))
    assert main([argument.format(run=joint_run) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.format(run=joint_run) in error
    assert sorted(joint_run.rglob("*")) == before


def test_config_with_untrusted_target_is_refused(joint_run: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(joint_run, run := tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("etude.data.sources.pack.collection", "os.system"))
    assert main([str(run), "--clip=one"]) == 2
    assert "os.system, which is not trusted" in capsys.readouterr().err


def test_file_stems_of_different_ids_differ() -> None:
    assert file_stem("a_b.1-2") == "a_b.1-2"
    assert len(f".inspect_{file_stem('典' * 82)}.json".encode()) < 200
    names = ["a/b", "a\\b", "a b", "a-b", "../a-b", HOSTILE_ID, "", "é" * 200]
    assert len({file_stem(name) for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[\w.-]{1,120}", file_stem(name)) and not file_stem(name).startswith(".")


def test_page_in_browser(joint_run: Path, tmp_path: Path, browser: Any) -> None:
    assert main([str(joint_run), f"--clip={HOSTILE_ID}", f"--out={tmp_path}"]) == 0
    page = tmp_path / f"inspect_{file_stem(HOSTILE_ID)}.html"
    for width, scheme in ((1440, "light"), (390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        tab, messages = context.new_page(), []
        tab.on("console", lambda message, log=messages: log.append(message.text))
        tab.on("pageerror", lambda error, log=messages: log.append(str(error)))
        tab.on("dialog", lambda dialog, log=messages: (log.append(dialog.message), dialog.dismiss()))
        requests: list[str] = []
        tab.on("request", lambda request, log=requests: log.append(request.url))
        tab.goto(page.as_uri())
        assert tab.locator("h1").inner_text() == HOSTILE_ID
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert messages == []
        context.close()


def test_names_of_a_run_are_escaped(make_run: MakeRun, tmp_path: Path) -> None:
    home = tmp_path / HOSTILE_NAMES[5]
    shutil.copytree(make_run("backbone=lstm", "backbone.hidden=4"), home)
    path = home / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["etude"]["targets"]["genre"]["classes"] = HOSTILE_NAMES[:2]
    torch.save(saved, path)
    names = dict(zip(["genre.score.high", "genre.score.low"], HOSTILE_NAMES[:2], strict=True))
    table = pd.read_parquet(home / "predictions.parquet")
    table.rename(columns={old: f"genre.score.{new}" for old, new in names.items()}).to_parquet(
        home / "predictions.parquet"
    )
    assert main([str(home), f"--clip={HOSTILE_ID}"]) == 0
    page, _ = read_page(home, HOSTILE_ID)
    shown = assert_harmless(page, scripts=0)
    text = "".join(data for _, data in shown.data)
    assert all(name in text for name in (HOSTILE_ID, *HOSTILE_NAMES[:2]))


def test_middle_of_a_long_clip_is_shown_by_default(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    """Time and memory of a transformer grow with the square of the length, so 30 seconds took over nine minutes."""
    caplog.set_level(logging.INFO)
    run = make_run("backbone=lstm", "backbone.hidden=4", frames=1292)
    assert main([str(run), "--clip=one"]) == 0
    numbers = read_page(run, "one")[1]
    assert numbers["frames"] == 430  # ten seconds
    shown = "Shown are 10.0 to 20.0 of 30.0 seconds. The predictions of the complete clip can differ; --crop 30 shows "
    shown += "it."
    assert numbers["note"] == shown
    assert f"one: {shown}" in caplog.text
    assert "Attributions: 7 batches" in caplog.text  # the progress, also without a terminal
    assert "Attributions: 7 of 7 batches" in caplog.text


def test_time_of_long_attributions_is_estimated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_estimate(9.0)
    assert not caplog.records
    log_estimate(150.0)
    assert "attributions take up to 2 min 30 s on this machine; a shorter --crop takes less" in caplog.text
