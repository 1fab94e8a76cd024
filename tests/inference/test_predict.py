"""Tests of `etude predict`, its options and tables, and of resuming after an interruption."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.commands import predict as main
from torch import nn

from etude.backbones.efficientat import EfficientAT
from etude.cli.predict import FORMATS
from etude.files.ownership import LIST_NAME
from etude.inference import engine, tables
from etude.inference.model import TAGS, Model, Pretrained
from etude.inference.predict import JOURNAL, PAGE_SECTIONS
from etude.inference.tables import predict_tables
from etude.inference.windows import Window


def call(checkpoint: Path, inputs: Path, folder: Path, *options: str) -> int:
    """Run the command without the page and return its exit status."""
    return main([str(checkpoint), str(inputs), f"--out={folder}", "--no-page", *options])


@pytest.fixture(scope="module")
def short_files(audio_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of short audio files, one of which is broken."""
    folder = tmp_path_factory.mktemp("short_files")
    for number in range(4):
        shutil.copy(audio_folder / "a.ogg", folder / f"{number}.ogg")
    shutil.copy(audio_folder / "broken.mp3", folder / "2.mp3")
    return folder


@pytest.fixture(scope="module")
def results(checkpoint: Path, short_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of an uninterrupted command in all formats."""
    folder = tmp_path_factory.mktemp("results")
    assert call(checkpoint, short_files, folder, "--format=csv,json,parquet") == 1
    return folder


def test_all_formats_contain_the_same_values(results: Path) -> None:
    for table in ("files", "windows"):
        csv = pd.read_csv(results / f"{table}.csv")
        parquet = pd.read_parquet(results / f"{table}.parquet")
        objects = pd.DataFrame(json.loads((results / f"{table}.json").read_text()))
        shared = [name for name in parquet if name != "embedding"]
        assert list(csv) == list(objects) == shared
        pd.testing.assert_frame_equal(csv, parquet[shared], check_dtype=False)
        pd.testing.assert_frame_equal(objects.astype(object).where(objects.notna(), None),
                                      parquet[shared].astype(object).where(parquet[shared].notna(), None))  # fmt: skip
    files = pd.read_parquet(results / "files.parquet")
    assert len(files) == 5 and len(files["embedding"][0]) == 16 and files["error"].notna().sum() == 1
    assert list(files) == [
        "path", "seconds", "windows", "genre.pred", "genre.score.<b>loud", "genre.score.quiet", "genre.score.soft",
        "valence.pred", "energy.pred", "error", "embedding",
    ]  # fmt: skip


def test_resumed_prediction_writes_the_same_tables(
    checkpoint: Path, short_files: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    decoded: list[str] = []
    original = engine.load_windows

    def interrupt(job: Any) -> Any:
        decoded.append(job[0].name)
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr(engine, "load_windows", interrupt)
    folder = tmp_path / "to"
    assert call(checkpoint, short_files, folder, "--batch-size=1") == 130
    assert "2 of 5 files are predicted; repeat the command to resume" in caplog.text
    assert not list(folder.glob("*.csv"))
    with (folder / JOURNAL).open("ab") as file:  # as if killed while writing a line
        file.write(b'{"path":"half')
    assert call(checkpoint, short_files, folder, "--batch-size=1") == 1
    assert decoded[3:] == ["2.mp3", "2.ogg", "3.ogg"]
    for name in ("files.csv", "windows.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(folder / name), pd.read_csv(results / name), atol=1e-6)
    assert {path.name for path in folder.iterdir()} == {JOURNAL, "files.csv", "windows.csv", ".lock", LIST_NAME}

    assert call(checkpoint, short_files, folder, "--format=json") == 1
    assert decoded[6:] == ["2.mp3"]  # a file that failed is predicted again
    assert not (folder / "files.csv").exists() and len(json.loads((folder / "files.json").read_text())) == 5
    (short_files / "3.ogg").touch()
    assert call(checkpoint, short_files, folder) == 1
    assert decoded[7:] == ["2.mp3", "3.ogg"]  # and a file that changed
    assert call(checkpoint, short_files, folder, "--window=4") == 1
    assert len(decoded) == 14 and len(pd.read_csv(folder / "windows.csv")) == 16  # other windows: all files again


def test_number_of_processes_does_not_change_predictions(
    checkpoint: Path, short_files: Path, results: Path, tmp_path: Path
) -> None:
    names = "\n".join(str(short_files / f"{number}.ogg") for number in range(4)) + "\n"
    for number in range(5):  # more than a shard, so two processes are used
        shutil.copy(short_files / "0.ogg", tmp_path / f"{number}.ogg")
    (tmp_path / "list.txt").write_text(names + "\n".join(f"{number}.ogg" for number in range(5)))
    assert (
        main([str(checkpoint), str(tmp_path / "list.txt"), f"--out={tmp_path / 'to'}", "--no-page", "--workers=2"]) == 0
    )
    expected = pd.read_csv(results / "files.csv").dropna(subset="genre.pred").iloc[0, 1:-1]
    for row in range(9):
        pd.testing.assert_series_equal(
            pd.read_csv(tmp_path / "to" / "files.csv").iloc[row, 1:-1], expected, check_names=False, atol=1e-6
        )


def test_replacement_of_results_with_other_windows_is_logged(
    checkpoint: Path, audio_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    message = f"--out {tmp_path}: replacing its results, because they are from another network or other windows"
    for options, replaced in (([], False), ([], False), (["--window=5"], True)):
        caplog.clear()
        assert call(checkpoint, audio_folder / "a.ogg", tmp_path, *options) == 0
        assert (message in caplog.messages) == replaced
    assert len(pd.read_csv(tmp_path / "windows.csv")) == 3


def test_closed_stdout_gives_no_traceback(checkpoint: Path, audio_folder: Path, tmp_path: Path) -> None:
    arguments = [str(checkpoint), str(audio_folder / "a.ogg"), f"--out={tmp_path}", "--no-page"]
    command = [sys.executable, "-m", "etude", "predict", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as `head` does
        errors = process.stderr.read()
    assert "Traceback" not in errors and "BrokenPipe" not in errors
    assert (tmp_path / "files.csv").is_file()


def test_unusable_folders_are_reported(
    checkpoint: Path, short_files: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    (tmp_path / "file").touch()
    assert call(checkpoint, short_files, tmp_path / "file") == 2
    assert "is not a folder" in capsys.readouterr().err
    with FileLock(results / ".lock"):
        assert call(checkpoint, short_files, results) == 2
    assert "another process is writing to it" in capsys.readouterr().err
    assert main([str(short_files), str(short_files)]) == 2
    assert "is neither a run folder" in capsys.readouterr().err
    assert main([str(tmp_path / "gone"), str(short_files)]) == 2
    assert "there is no such run folder or checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--format=xml", "Invalid value for '--format': 'xml' is not one of csv, json, parquet"),
        ("--format=csv,", "Invalid value for '--format': an item of the list is empty"),
        ("--window=long", "Invalid value for '--window': Input should be a valid number"),
        ("--window=0", "Invalid value for '--window': 0 is not a number greater than 0"),
        ("--window=1e-9", "--window 1e-09: is shorter than a frame, which has"),
        ("--overlap=1", "--overlap 1: must be a fraction of a window from 0 to 0.95"),
        ("--workers=0", "Invalid value for '--workers': Input should be greater than or equal to 1"),
        ("--batch-size=many", "Invalid value for '--batch-size': Input should be a valid integer"),
        ("--device=gpu", "Invalid value for '--device': 'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("--page=perhaps", "Option '--page' does not take a value"),
        ("page=perhaps", "page=perhaps: options of etude predict have dashes; use --page or --no-page"),
        ("colour=red", "colour=red: there is no such audio file, folder or list"),
    ],
)
def test_invalid_option_is_reported(
    option: str, message: str, checkpoint: Path, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(checkpoint, audio_folder / "a.ogg", tmp_path / "to", option) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
    assert not (tmp_path / "to").exists()


def test_help_and_options_agree_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(tables.FORMATS) == FORMATS
    assert main(["--help"]) == 0
    assert f"first {PAGE_SECTIONS} files" in " ".join(capsys.readouterr().out.split())


def test_run_and_audio_files_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, name in ([], "RUN"), (["run", "--window=3"], "INPUT"):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error == f"Missing argument '{name}'; etude predict --help lists the arguments\n"


def test_json_contains_the_rows_of_the_table_and_nothing_else(
    checkpoint: Path, short_files: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(checkpoint, short_files, tmp_path, "--format=json", "--json") == 1
    out, error = capsys.readouterr()
    printed = json.loads(out)
    assert printed["predictions"] == json.loads((tmp_path / "files.json").read_text())
    assert (printed["status"], printed["n_failed"], len(printed["predictions"])) == (1, 1, 5)
    assert printed["files"] == [str(tmp_path / name) for name in ("files.json", "windows.json")]
    assert "2.mp3" in error


def test_help_imports_no_heavy_modules() -> None:
    code = "import sys; from etude.cli.app import run_command; run_command('predict', ['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "etude predict outputs/<run> song.mp3" in out
    assert not {"torch", "numpy", "pandas", "hydra", "soundfile"} & set(out.split())


def test_one_file_is_in_memory_at_a_time(results: Path, tmp_path: Path) -> None:
    from etude.inference.model import PredictionColumns
    from etude.inference.tables import write_tables

    columns = PredictionColumns({"energy": {"kind": "scalar", "low": 0, "high": 1}})
    n_alive = 0

    class CountedPrediction(engine.FilePrediction):
        def __del__(self) -> None:
            nonlocal n_alive
            n_alive -= 1

    def predictions() -> Iterator[engine.FilePrediction]:
        nonlocal n_alive
        for number in range(2500):
            n_alive += 1
            assert n_alive <= 3
            yield CountedPrediction(Path(f"{number}.mp3"), 1, 1, 10.0, [0.5], [(0.0, 10.0, [0.5])])

    write_tables(tmp_path, predictions(), columns, ["csv", "parquet"])
    assert len(pd.read_parquet(tmp_path / "files.parquet")) == len(pd.read_csv(tmp_path / "windows.csv")) == 2500


TAG_NAMES = ("guitar", "singing; choir", "loud", "fast")


@pytest.fixture
def tagger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return arguments of a pretrained backbone whose classifier has four tags."""
    torch.manual_seed(0)
    tensors = EfficientAT(128).state_dict()
    path = tmp_path / "weights.pt"
    torch.save({k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in tensors.items()}, path)

    def classify(net: EfficientAT, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(z[:, : len(TAG_NAMES)] / z[:, : len(TAG_NAMES)].std(1, keepdim=True))

    monkeypatch.setattr(EfficientAT, "tag_names", property(lambda net: TAG_NAMES, lambda net, names: None), False)
    monkeypatch.setattr(EfficientAT, "_classify", classify)
    return ["--backbone=efficientat", f"backbone.weights={path}"]


def test_tags_of_a_pretrained_backbone_have_independent_probabilities(
    tagger: list[str], audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [str(audio_folder / "song.mp3"), str(audio_folder / "broken.mp3")]
    assert main([*tagger, *inputs, f"--out={tmp_path / 'to'}", "--window=10", "--format=csv,parquet"]) == 1
    printed = capsys.readouterr().out
    files, windows = (pd.read_csv(tmp_path / "to" / f"{name}.csv") for name in ("files", "windows"))
    scores = [f"tags.score.{name}" for name in TAG_NAMES]
    assert list(files) == ["path", "seconds", "windows", "tags.pred", *scores, "error"]
    ranked = files.loc[0, scores].astype(float).sort_values(ascending=False, kind="stable")
    assert files["tags.pred"][0] == "; ".join(name.removeprefix("tags.score.") for name in ranked.index[:3])
    pd.testing.assert_series_equal(windows[scores].mean(), files.loc[0, scores].astype(float), check_names=False)
    assert windows[scores].sum(axis=1).sub(1).abs().min() > 1e-3
    assert ranked.index[0].removeprefix("tags.score.") in printed
    page = (tmp_path / "to" / "predict.html").read_text()
    assert "Tags: probability, 0 to 1" in page and "singing; choir" in page
    source = Pretrained("efficientat", [tagger[1]])
    model = Model(source, tags=True)
    (single,) = predict_tables(model, audio_folder / "song.mp3", window=10.0).files["tags.score.guitar"]
    assert single == pytest.approx(files["tags.score.guitar"][0], abs=1e-6)


def test_backbone_without_tags_is_refused(audio_folder: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "weights.pt"
    tensors = EfficientAT(128).state_dict()
    torch.save({k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in tensors.items()}, path)
    arguments = ["--backbone=efficientat", f"backbone.weights={path}", str(audio_folder / "a.ogg")]
    assert main([*arguments, f"--out={tmp_path / 'to'}"]) == 2
    message = "--backbone efficientat: has no tags to predict; use etude embed, or give a run\n"
    assert capsys.readouterr().err == message and not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["musicnn", "efficientat"])
def test_tags_and_embedding_are_computed_in_one_pass(name: str) -> None:
    model = Model(Pretrained(name), "cpu", tags=True)
    backbone, lengths = model.network.backbone, torch.tensor([400, 380])
    x = torch.randn(2, 400, model.network.recipe["bins"], generator=torch.Generator().manual_seed(0)).half()
    x[1, 380:] = 0
    with torch.inference_mode():
        expected = backbone(x.float(), lengths), backbone.tag_probabilities(x.float(), lengths)
    windows = [Window(0, 1, [frames[:length].numpy()]) for frames, length in zip(x, lengths, strict=True)]
    calls: list[nn.Module] = []
    backbone.layers()[0].register_forward_hook(lambda layer, *_: calls.append(layer))
    outputs = model._predict(windows)
    assert len(calls) == 1
    np.testing.assert_allclose([z for z, _ in outputs], expected[0], atol=1e-5)
    np.testing.assert_allclose([out[TAGS] for _, out in outputs], expected[1], atol=1e-5)


def test_several_runs_are_side_by_side(
    checkpoint: Path, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run has a subfolder with its own results, and one table has the predictions of both."""
    stored = torch.load(checkpoint, weights_only=True)
    other = tmp_path / "other.ckpt"
    stored["state_dict"] = {name: value * 0.5 for name, value in stored["state_dict"].items()}
    torch.save(stored, other)
    out = tmp_path / "results"
    assert main([str(checkpoint), str(other), str(clips[0]), f"--out={out}", "--no-page"]) == 0
    printed = capsys.readouterr().out
    assert (
        0 <= printed.find("best:\n") < printed.find("other:\n") < printed.rfind("energy")
    )  # headings of the summaries
    table = pd.read_csv(out / tables.MODELS)
    for name in ("best", "other"):
        own = pd.read_csv(out / name / "files.csv")
        assert table[f"{name}/energy.pred"].tolist() == own["energy.pred"].tolist()
    assert table["best/energy.pred"].tolist() != table["other/energy.pred"].tolist()
    for arguments, message in (
        ([checkpoint, clips[0], other], "is a run; give all runs before the audio files"),
        ([checkpoint, checkpoint, clips[0]], "is given twice; name each run once"),
        ([checkpoint, other, clips[0], "--out=ids.csv"], "such a table has the predictions of one run"),
    ):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err
