"""The command: what it leaves, in places that know nothing of this project, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tests.export import bare
from tests.synthetic_runs import predictions, record, write_run

import etude
from etude.audio.decode import decode
from etude.cli import export
from etude.data.sources.demo import collection
from etude.errors import UserError
from etude.evaluation.measure import compute_metrics
from etude.export import formats, parity_check
from etude.export.graph import INPUTS, Graph
from etude.export.parity_check import ParityCheck, values
from etude.inference.engine import predict
from etude.inference.model import Model
from etude.runs.folder import find_weights
from etude.training.build import load_learner

ROOT = Path(__file__).parents[2]
FILES = ["README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"]


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of a checkpoint alone, in all formats."""
    to = tmp_path_factory.mktemp("exported") / "deep" / "er"
    line = [sys.executable, "scripts/export.py", str(checkpoint), "format=onnx,torch,safetensors", f"to={to}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(to / name) for name in [*FILES[1:], FILES[0]]]
    for name in FILES[2:]:
        assert re.search(rf"{name}: \d+\.\d MB; largest differences: embedding \S+, genre \S+, valence", done.stderr)
    assert re.search(r"onnxruntime: [\d.]+ clips/s, the network itself [\d.]+, in batches of 8 of 9\.98 s", done.stderr)
    assert sorted(path.name for path in to.glob("[!.]*")) == FILES
    return to


@pytest.fixture(scope="module")
def wavs(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip, and a song of several windows, as WAV of 16 bits."""
    home = tmp_path_factory.mktemp("wav")
    sounds = {"clip": clips[4:5], "song": clips[:3]}
    for name, some in sounds.items():
        (home / name).mkdir()
        sound = np.concatenate([decode(path, 22050) for path in some])
        soundfile.write(home / name / "clip.wav", sound[: 25 * 22050], 22050, subtype="PCM_16")
    return {name: home / name / "clip.wav" for name in sounds}


def snippets(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def numbers(printed: str) -> dict[str, object]:
    """What a snippet has printed, by target."""
    lines = [line.partition(" ") for line in printed.splitlines()]
    return {name: json.loads(value.replace("'", '"')) for name, _, value in lines}


@pytest.mark.parametrize(("where", "what"), [("card", "clip"), ("docs/export.md", "clip"), ("docs/export.md", "song")])
def test_the_snippet_says_what_predict_says_where_nothing_but_onnxruntime_is(
    where: str, what: str, exported: Path, wavs: dict[str, Path], model: Model,
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path,
) -> None:  # fmt: skip
    home = tmp_path_factory.getbasetemp() / "bare"
    python = home / "bin" / "python" if home.exists() else bare.make(home)
    for name in ("torch", "etude", "soundfile"):
        assert subprocess.run([python, "-Ic", f"import {name}"], cwd=tmp_path, capture_output=True).returncode == 1
    wav = wavs[what]
    for path in (exported / "model.onnx", wav):
        shutil.copy(path, tmp_path)
    text = (exported / "README.md" if where == "card" else ROOT / where).read_text("utf-8")
    (tmp_path / "snippet.py").write_text(snippets(text)[0])
    done = subprocess.run([python, "-I", "snippet.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (said,) = predict(model, [wav], model.plan(), workers=1)
    assert said.values is not None
    truth, found = model.columns.split(said.values), numbers(done.stdout)
    assert set(found) == set(truth)
    assert dict(zip(["<b>loud", "quiet", "soft"], truth["genre"], strict=True)) == pytest.approx(
        found["genre"], abs=1e-3
    )
    windows = [model.columns.split(values) for *_, values in said.windows if values]
    assert (len(windows) > 1) == (what == "song")
    for name in ("valence", "energy"):
        if len(windows) == 1 or all(0 < one[name][0] < 1 for one in windows):  # means are cut off
            assert truth[name][0] == pytest.approx(found[name], abs=1e-3)


def test_a_program_is_loaded_by_torch_alone(exported: Path, model: Model, clips: list[Path], tmp_path: Path) -> None:
    sound = decode(clips[2], 22050)[:100_000]
    np.save(tmp_path / "sound.npy", np.stack([np.pad(sound, (0, 7000), constant_values=9)] * 3))
    code = (
        "import json, sys, numpy, torch\n"
        f"says = torch.export.load({str(exported / 'model.pt2')!r}).module()\n"
        "sound = torch.from_numpy(numpy.load('sound.npy'))\n"
        f"said = says(sound, torch.full((3,), {len(sound)}))\n"
        "assert not any(name.startswith('etude') for name in sys.modules)\n"
        "print(json.dumps({name: value.tolist() for name, value in said.items()}))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (truth,) = ParityCheck.of(model, [sound]).outputs
    for name, value in json.loads(done.stdout).items():
        np.testing.assert_allclose(value, [truth[name]] * 3, atol=1e-4)


def test_exported_weights_are_opened_wherever_a_checkpoint_is(
    exported: Path, checkpoint: Path, model: Model, wavs: dict[str, Path]
) -> None:
    assert json.loads((exported / "config.json").read_text())["etude"] == model.network.recipe
    truth = load_learner(checkpoint).state_dict()
    for path in (exported, exported / "model.safetensors"):
        found = load_learner(path).state_dict()
        assert found.keys() == truth.keys() and all(torch.equal(found[key], truth[key]) for key in truth)
    wav = wavs["clip"]
    (said,) = predict(model, [wav], model.plan(), workers=1)
    assert find_weights(exported) == exported / "model.safetensors"
    for path in (exported, exported / "model.safetensors"):
        run = etude.load(path)
        assert run.predict(wav).files["energy.pred"][0] == said.values[-1]  # type: ignore[index]
        with pytest.raises(UserError, match=r"an exported network has no metrics\.json"):
            _ = run.metrics
    assert torch.equal(run.network().state_dict()["standardiser.mean"], truth["standardiser.mean"])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            {"etude": {"config": {"backbone": {"_target_": "os.system", "command": "touch broken"}}}},
            "which is not trusted",
        ),
        ({"architectures": ["Bert"]}, "is the config of another program, without the recipe"),
        (None, "cannot be read as JSON"),
    ],
)
def test_a_folder_of_a_stranger_runs_nothing(
    written: object, said: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{" if written is None else json.dumps(written))
    with pytest.raises(UserError, match=said):
        load_learner(tmp_path)
    assert not (tmp_path / "broken").exists()


def test_no_file_knows_where_it_was_made(exported: Path) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as packed:
        parts = [packed.read(name) for name in packed.namelist()]
    parts += [(exported / name).read_bytes() for name in FILES]
    for place in (ROOT, Path.home(), Path(torch.__file__).parents[1], exported):
        assert not any(f"{place}/".encode() in part for part in parts), place


def test_the_card_of_a_checkpoint_says_what_is_not_known_and_shows_text_as_text(exported: Path) -> None:
    _, head, text = (exported / "README.md").read_text("utf-8").split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["license"] == "other" and about["library_name"] == "etude" and "model-index" not in about
    assert about["pipeline_tag"] == "audio-classification" and {"onnx", "genre", "valence"} <= set(about["tags"])
    assert "`genre` (B, 3): probabilities of `<b>loud`, `quiet`, `soft`" in text
    assert text.count("Not known: this card was made from a checkpoint alone.") == 2
    assert "Nothing is known of what it was trained on" in text
    assert "clips of about 9.98 s" in text and "at 22050 Hz" in text


def test_nothing_is_kept_of_a_file_that_says_something_else(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = parity_check.values
    monkeypatch.setattr(
        parity_check,
        "values",
        lambda model, out: truth(model, {k: v + 1 for k, v in out.items()} | {"genre": out["genre"]}),
    )
    to = tmp_path / "to"
    to.mkdir()
    (to / "mine.txt").write_text("is mine")
    for target in (to, tmp_path / "new"):
        assert export.main([str(checkpoint), "format=safetensors", f"to={target}"]) == 2
        assert "model.safetensors: does not say what the network says; its" in capsys.readouterr().err
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("to"), Path("to/mine.txt")]
    assert values is truth


def test_a_difference_that_is_no_number_is_one() -> None:
    assert parity_check.agreement_text("a", {"embedding": 1e-6, "genre": 9e-4}) == "embedding 1e-06, genre 9e-04"
    with pytest.raises(UserError, match="its genre is nan off"):
        parity_check.agreement_text("a", {"embedding": 0.0, "genre": float("nan")})


def test_a_network_of_images_is_exported_by_its_frames(
    stored: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored("backbone=convnet", "feature=image")
    assert export.main([str(path), f"to={tmp_path}"]) == 2
    assert "ImageFront cannot be part of a graph with waveform input" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    assert export.main([str(path), f"to={tmp_path}", "input=frames", "format=torch"]) == 0
    assert "`frames` (B, T, 24)" in (tmp_path / "README.md").read_text("utf-8")


def test_a_run_is_told_of_and_its_own_clips_are_heard(checkpoint: Path, tmp_path: Path) -> None:
    table, said = predictions(), record()
    table["id"] = collection().table["id"][: len(table)]
    run = write_run(tmp_path / "a-run", table, seed=3)
    source = {"_target_": "etude.data.sources.demo.collection"}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"source": source}}))
    (run / "metrics.json").write_text(json.dumps(compute_metrics(table, said["targets"])))
    (run / "checkpoints").mkdir()
    shutil.copy(checkpoint, run / "checkpoints" / "best.ckpt")
    cards = []
    for path in (run, run / "checkpoints" / "best.ckpt"):
        assert export.main([str(path), f"to={tmp_path / 'to'}", "format=safetensors"]) == 0
        cards.append((tmp_path / "to" / "README.md").read_text("utf-8"))
    assert cards[0] == cards[1]
    assert "Each was run on clips of the run's data" in cards[0] and "seed 3" in cards[0]
    assert "\n# a-run\n" in cards[0] and "| Macro-F1 |" in cards[0] and "Demo clips (`demo`): 180 clips" in cards[0]
    (run / "metrics.json").unlink()  # one that was not measured, whose data are elsewhere
    (run / "config.yaml").write_text("data: {source: {_target_: os.getcwd}}")
    assert export.main([str(run), "format=safetensors"]) == 0
    text = (run / "export" / "README.md").read_text("utf-8")
    assert "How good it is at genre is not known: its run was not measured." in text
    assert "Each was run on clips of the embedded music" in text


def test_a_folder_that_cannot_be_written_is_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert export.main([str(checkpoint), "format=safetensors", f"to={tmp_path / 'file' / 'to'}"]) == 2
    assert "cannot be used (Not a directory); name another folder with to=<folder>" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_names_that_a_graph_has_itself_are_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.network.task.targets, "embedding", model.network.task.targets["genre"])
    with pytest.raises(UserError, match="a target cannot be called embedding"):
        Graph(model.network, model.front)


def test_without_what_onnx_needs_there_is_the_line_that_installs_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert export.main([str(checkpoint), f"to={tmp_path / 'to'}"]) == 2
    assert "pip install 'etude[export]'" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_files_of_weights_of_this_machine_are_names_alone(
    stored: Callable[..., Path], wavs: dict[str, Path], tmp_path: Path
) -> None:
    path = stored("backbone=efficientat", "backbone.width=0.1", "backbone.weights=/home/me/secret/mn01.pt")
    assert export.main([str(path), f"to={tmp_path}", "format=safetensors", f"check={wavs['clip']}"]) == 0
    assert "Each was run on clips that were named" in (tmp_path / "README.md").read_text("utf-8")
    written = "".join((tmp_path / name).read_text("utf-8") for name in ("README.md", "config.json"))
    assert "mn01.pt" in written and "secret" not in written
    assert torch.equal(load_learner(tmp_path).standardiser.mean, load_learner(path).standardiser.mean)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: there is no such run folder or checkpoint"),
        ([], "export takes one run folder or checkpoint"),
        (["a", "format=tflite"], "there is no format 'tflite'; available: onnx, torch, safetensors"),
        (["a", "input=midi"], "input=midi: must be waveform or frames"),
        (["a", "push=name"], "push=name: must be <user>/<name>"),
        (["a", "quality=high"], "quality=high: is none of format=, input=, to=, check=, push=, private="),
    ],
)
def test_a_command_that_has_to_be_mended_is_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(words or ["to=somewhere"]) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1


def test_the_command_offers_the_inputs_of_graphs() -> None:
    assert [export.OPTIONS["input"][1](name) for name in INPUTS] == list(INPUTS)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from etude.cli.export import main; main(['--help']); print('modules:', *sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    words, _, modules = out.partition("modules:")
    assert not {"torch", "onnx", "onnxruntime", "pandas", "numpy", "hydra", "huggingface_hub"} & set(modules.split())
    assert all(word in words for word in ("format=", "input=", "to=", "check=", "push=", "private="))
