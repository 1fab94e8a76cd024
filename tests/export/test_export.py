"""Files of `etude export`, used without Étude, and errors of the command."""

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
from tests.commands import export
from tests.export.minimal_environment import create_environment
from tests.synthetic_runs import predictions, record, write_run

import etude
from etude.audio.decode import decode
from etude.backbones.base import Backbone
from etude.data.sources.demo import collection
from etude.errors import UserError
from etude.evaluation.measure import compute_metrics
from etude.export import graph as graph_module
from etude.export import parity_check
from etude.export.graph import INPUTS, Graph
from etude.export.parity_check import ParityCheck, predicted_values
from etude.inference.engine import predict
from etude.inference.model import Model
from etude.runs.folder import find_weights
from etude.training.build import load_learner

ROOT = Path(__file__).parents[2]
FILES = ["README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"]


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of a checkpoint without a run, in all formats."""
    out = tmp_path_factory.mktemp("exported") / "deep" / "er"
    command = [sys.executable, "scripts/export.py", str(checkpoint), "--format=onnx,torch,safetensors", f"--out={out}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [str(out / name) for name in [*FILES[1:], FILES[0]]]
    for name in FILES[2:]:
        assert re.search(rf"{name}: \d+\.\d MB; largest differences: embedding \S+, genre \S+, valence", process.stderr)
    speed = r"onnxruntime: [\d.]+ clips/s \(original network: [\d.]+\), in batches of 8 clips of 9\.98 s"
    assert re.search(speed, process.stderr)
    assert sorted(path.name for path in out.glob("[!.]*")) == FILES
    return out


@pytest.fixture(scope="module")
def wavs(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of a clip, and of a song of several windows, as 16-bit WAV files."""
    folder = tmp_path_factory.mktemp("wav")
    sources = {"clip": clips[4:5], "song": clips[:3]}
    for name, paths in sources.items():
        (folder / name).mkdir()
        samples = np.concatenate([decode(path, 22050) for path in paths])
        soundfile.write(folder / name / "clip.wav", samples[: 25 * 22050], 22050, subtype="PCM_16")
    return {name: folder / name / "clip.wav" for name in sources}


def snippets(text: str) -> list[str]:
    """Return the Python code blocks of a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def parse_outputs(printed: str) -> dict[str, object]:
    """Return the outputs that a snippet printed, by target."""
    lines = [line.partition(" ") for line in printed.splitlines()]
    return {name: json.loads(value.replace("'", '"')) for name, _, value in lines}


@pytest.mark.parametrize(
    ("document", "audio"), [("card", "clip"), ("docs/how-to/export.md", "clip"), ("docs/how-to/export.md", "song")]
)
def test_outputs_of_snippet_with_only_onnxruntime_equal_predictions(
    document: str, audio: str, exported: Path, wavs: dict[str, Path], model: Model,
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path,
) -> None:  # fmt: skip
    environment = tmp_path_factory.getbasetemp() / "environment"
    python = environment / "bin" / "python" if environment.exists() else create_environment(environment)
    for name in ("torch", "etude", "soundfile"):
        assert subprocess.run([python, "-Ic", f"import {name}"], cwd=tmp_path, capture_output=True).returncode == 1
    wav = wavs[audio]
    for path in (exported / "model.onnx", wav):
        shutil.copy(path, tmp_path)
    text = (exported / "README.md" if document == "card" else ROOT / document).read_text("utf-8")
    (tmp_path / "snippet.py").write_text(snippets(text)[0])
    process = subprocess.run([python, "-I", "snippet.py"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (prediction,) = predict(model, [wav], model.plan(), workers=1)
    assert prediction.values is not None
    expected, printed = model.columns.split_by_target(prediction.values), parse_outputs(process.stdout)
    assert set(printed) == set(expected)
    assert dict(zip(["<b>loud", "quiet", "soft"], expected["genre"], strict=True)) == pytest.approx(
        printed["genre"], abs=1e-3
    )
    windows = [model.columns.split_by_target(values) for *_, values in prediction.windows if values]
    assert (len(windows) > 1) == (audio == "song")
    for name in ("valence", "energy"):
        # predict clips the mean of the windows, and the snippet each window
        if len(windows) == 1 or all(0 < window[name][0] < 1 for window in windows):
            assert expected[name][0] == pytest.approx(printed[name], abs=1e-3)


@pytest.mark.full
def test_torch_program_does_not_require_etude(exported: Path, model: Model, clips: list[Path], tmp_path: Path) -> None:
    samples = decode(clips[2], 22050)[:100_000]
    np.save(tmp_path / "batch.npy", np.stack([np.pad(samples, (0, 7000), constant_values=9)] * 3))
    code = (
        "import json, sys, numpy, torch\n"
        f"model = torch.export.load({str(exported / 'model.pt2')!r}).module()\n"
        "batch = torch.from_numpy(numpy.load('batch.npy'))\n"
        f"outputs = model(batch, torch.full((3,), {len(samples)}))\n"
        "assert not any(name.startswith('etude') for name in sys.modules)\n"
        "print(json.dumps({name: value.tolist() for name, value in outputs.items()}))\n"
    )
    process = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (expected,) = ParityCheck.from_model(model, [samples]).outputs
    for name, value in json.loads(process.stdout).items():
        np.testing.assert_allclose(value, [expected[name]] * 3, atol=1e-4)


def test_exported_weights_load_like_a_checkpoint(
    exported: Path, checkpoint: Path, model: Model, wavs: dict[str, Path]
) -> None:
    assert json.loads((exported / "config.json").read_text())["etude"] == model.network.recipe
    expected = load_learner(checkpoint).state_dict()
    for path in (exported, exported / "model.safetensors"):
        loaded = load_learner(path).state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    wav = wavs["clip"]
    (prediction,) = predict(model, [wav], model.plan(), workers=1)
    assert find_weights(exported) == exported / "model.safetensors"
    for path in (exported, exported / "model.safetensors"):
        run = etude.load(path)
        assert run.predict(wav).files["energy.pred"][0] == prediction.values[-1]  # type: ignore[index]
        with pytest.raises(UserError, match=r"an exported network has no metrics\.json"):
            _ = run.metrics
    assert torch.equal(run.network().state_dict()["standardiser.mean"], expected["standardiser.mean"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"etude": {"config": {"backbone": {"_target_": "os.system", "command": "touch broken"}}}},
            "which is not trusted",
        ),
        ({"architectures": ["Bert"]}, "is the config of another program, without the recipe"),
        (None, "cannot be read as JSON"),
    ],
)
def test_untrusted_export_runs_no_code(
    content: object, message: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{" if content is None else json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_learner(tmp_path)
    assert not (tmp_path / "broken").exists()


def test_exported_files_contain_no_local_paths(exported: Path) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    contents += [(exported / name).read_bytes() for name in FILES]
    for folder in (ROOT, Path.home(), Path(torch.__file__).parents[1], exported):
        assert not any(f"{folder}/".encode() in content for content in contents), folder


def test_card_of_checkpoint_states_unknown_facts_and_escapes_text(exported: Path) -> None:
    _, header, text = (exported / "README.md").read_text("utf-8").split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["license"] == "other" and metadata["library_name"] == "etude" and "model-index" not in metadata
    assert metadata["pipeline_tag"] == "audio-classification"
    assert {"onnx", "genre", "valence"} <= set(metadata["tags"])
    assert "| `genre` | (B, 3) | probabilities of `<b>loud`, `quiet`, `soft` |" in text
    assert text.count("Unknown, because this model was exported from a checkpoint without its run.") == 2
    assert "The training data is unknown" in text
    assert "clips of about 9.98 s" in text and "at 22050 Hz" in text


def test_files_with_other_outputs_are_deleted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = parity_check.predicted_values
    monkeypatch.setattr(
        parity_check,
        "predicted_values",
        lambda model, out: original(model, {k: v + 1 for k, v in out.items()} | {"genre": out["genre"]}),
    )
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("of the user")
    for folder in (out, tmp_path / "new"):
        assert export([str(checkpoint), "--format=safetensors", f"--out={folder}"]) == 2
        assert "model.safetensors: outputs differ from the outputs of the network: " in capsys.readouterr().err
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("out"), Path("out/notes.txt")]
    assert predicted_values is original


def test_weights_are_exported_of_networks_that_cannot_be_a_graph(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(backbone: Backbone) -> Backbone:
        raise UserError("cannot be part of a graph; use --format safetensors")

    monkeypatch.setattr(Backbone, "for_export", refuse)
    assert export([str(checkpoint), f"--out={tmp_path}"]) == 2
    assert "use --format safetensors" in capsys.readouterr().err
    assert export([str(checkpoint), "--format=safetensors", f"--out={tmp_path}"]) == 0
    assert (tmp_path / "model.safetensors").is_file()


def test_nan_exceeds_tolerance() -> None:
    assert parity_check.check_differences("a", {"embedding": 1e-6, "genre": 9e-4}) == "embedding 1e-06, genre 9e-04"
    with pytest.raises(UserError, match="genre by nan, more than"):
        parity_check.check_differences("a", {"embedding": 0.0, "genre": float("nan")})


def test_network_for_images_is_exported_with_frames_as_input(
    store_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store_checkpoint("backbone=convnet", "feature=image")
    assert export([str(path), f"--out={tmp_path}"]) == 2
    assert "ImageFront cannot be part of a graph with waveform input" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    assert export([str(path), f"--out={tmp_path}", "--input=frames", "--format=torch"]) == 0
    assert "| `frames` | (B, T, 24) float32 |" in (tmp_path / "README.md").read_text("utf-8")


def test_card_of_run_has_its_results_and_clips_of_its_data(checkpoint: Path, tmp_path: Path) -> None:
    table, run_record = predictions(), record()
    table["id"] = collection().table["id"][: len(table)]
    run = write_run(tmp_path / "a-run", table, seed=3)
    source = {"_target_": "etude.data.sources.demo.collection"}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"source": source}}))
    (run / "metrics.json").write_text(json.dumps(compute_metrics(table, run_record["targets"])))
    (run / "checkpoints").mkdir()
    shutil.copy(checkpoint, run / "checkpoints" / "best.ckpt")
    cards = []
    for path in (run, run / "checkpoints" / "best.ckpt"):
        assert export([str(path), f"--out={tmp_path / 'out'}", "--format=safetensors"]) == 0
        cards.append((tmp_path / "out" / "README.md").read_text("utf-8"))
    assert cards[0] == cards[1]
    assert "Each file was checked on clips of the run's data" in cards[0] and "**Seed:** 3" in cards[0]
    assert "\n# a-run\n" in cards[0] and "| Macro-F1 |" in cards[0] and "Demo clips (`demo`): 180 clips" in cards[0]
    (run / "metrics.json").unlink()  # a run without evaluation, whose data is not available
    (run / "config.yaml").write_text("data: {source: {_target_: os.getcwd}}")
    assert export([str(run), "--format=safetensors"]) == 0
    text = (run / "export" / "README.md").read_text("utf-8")
    assert "### genre\n\nNo results are available, because the run was not evaluated." in text
    assert "Each file was checked on Étude's demo clips" in text


def test_unusable_output_folder_is_reported(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("of the user")
    assert export([str(checkpoint), "--format=safetensors", f"--out={tmp_path / 'file' / 'out'}"]) == 2
    assert "cannot be used (Not a directory); name another folder with --out <folder>" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "of the user"


def test_reserved_target_names_are_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.network.task.targets, "embedding", model.network.task.targets["genre"])
    with pytest.raises(UserError, match="a target has the reserved name embedding"):
        Graph(model.network, model.front)


def test_missing_onnx_packages_are_reported_with_install_command(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graph_module, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert export([str(checkpoint), f"--out={tmp_path / 'out'}"]) == 2
    assert "pip install 'etude[export]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_paths_of_pretrained_weights_are_exported_without_folders(
    store_checkpoint: Callable[..., Path], wavs: dict[str, Path], tmp_path: Path
) -> None:
    path = store_checkpoint("backbone=efficientat", "backbone.width=0.1", "backbone.weights=/home/me/secret/mn01.pt")
    assert export([str(path), f"--out={tmp_path}", "--format=safetensors", f"--check={wavs['clip']}"]) == 0
    assert "Each file was checked on user-provided clips" in (tmp_path / "README.md").read_text("utf-8")
    written = "".join((tmp_path / name).read_text("utf-8") for name in ("README.md", "config.json"))
    assert "mn01.pt" in written and "secret" not in written
    assert torch.equal(load_learner(tmp_path).standardiser.mean, load_learner(path).standardiser.mean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such run folder or checkpoint"),
        (["--out=somewhere"], "Missing argument 'RUN'; etude export --help lists the arguments"),
        (["a", "b"], "Got unexpected extra argument(s) (b)"),
        (["a", "--format=tflite"], "Invalid value for '--format': 'tflite' is not one of onnx, torch, safetensors"),
        (["a", "--input=midi"], "Invalid value for '--input': 'midi' is not one of 'waveform', 'frames'"),
        (["a", "--push=name"], "Invalid value for '--push': must be USER/NAME, as on the Hugging Face hub"),
        (["a", "--check=x.mp3,,y.mp3"], "Invalid value for '--check': an item of the list is empty"),
        (["a", "--out="], "--out=: empty value; remove the option or give it a value"),
        (["a", "--quality=high"], "No such option: --quality"),
        (["a", "to=x"], "to=x: options of etude export have dashes; use --out x"),
        (["a", "quality=high"], "Got unexpected extra argument(s) (quality=high)"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(message) and printed.count("\n") == 1


@pytest.mark.parametrize("name", INPUTS)
def test_command_accepts_all_graph_inputs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(["nowhere", f"--input={name}"]) == 2
    assert capsys.readouterr().err == "nowhere: there is no such run folder or checkpoint\n"


def test_help_does_not_import_heavy_packages() -> None:
    command = "from etude.cli.app import run_command; run_command('export', ['--help'])"
    code = f"import sys; {command}; print('modules:', *sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    help_text, _, modules = out.partition("modules:")
    assert not {"torch", "onnx", "onnxruntime", "pandas", "numpy", "hydra", "huggingface_hub"} & set(modules.split())
    assert all(
        option in help_text for option in ("--format ", "--input ", "--out ", "--check ", "--push ", "--private ")
    )
